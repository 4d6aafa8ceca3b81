"""Vision models of timm, from names and small keyword arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from timm.layers import GatedMlp
from timm.models import gcvit, metaformer, mlp_mixer, mvitv2, nest
from timm.models.convmixer import ConvMixer
from timm.models.focalnet import FocalNet
from torch import nn

from tests.zoo.registry import Scale, entry, image

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Arguments = Callable[[Scale], dict[str, Any]]


def vision(name: str, arguments: Arguments, size: int = 28, **options: Any) -> None:
    """``timm.create_model(name, **arguments(scale))`` on square images of ``size`` pixels."""

    @entry(name, timm_family(name), suite="timm", **options)
    def _(s: Scale) -> Call:
        return timm.create_model(name, num_classes=13, **arguments(s)), (image(size),), {}


def timm_family(name: str) -> str:
    return name.split("_")[0]


def plain(s: Scale) -> dict[str, Any]:
    """A columnar transformer of 4 blocks: 28-pixel images in 7 x 7 patches."""
    return {
        "img_size": 28,
        "patch_size": 4,
        "embed_dim": s.width(24),
        "depth": s.depth(4),
        "num_heads": s.width(4),
    }


def plus(base: Arguments, **more: Any) -> Arguments:
    return lambda s: base(s) | more


def without(base: Arguments, *names: str) -> Arguments:
    return lambda s: {key: value for key, value in base(s).items() if key not in names}


for _name in (
    "vit_tiny_patch16_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch16_18x2_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_rpn_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "flexivit_small",
    "beit_base_patch16_224",
    "beitv2_base_patch16_224",
):
    vision(_name, plain)

vision("eva02_tiny_patch14_224", lambda s: plain(s) | {"embed_dim": s.width(48), "ref_feat_shape": (7, 7)})
vision(
    "vit_small_patch16_rope_224", lambda s: plain(s) | {"embed_dim": s.width(32), "ref_feat_shape": (7, 7)}
)
# The width of this one is given per head.
vision("convit_tiny", lambda s: plain(s) | {"embed_dim": 6})
for _name in ("vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224"):
    vision(_name, lambda s: plain(s) | {"rel_pos_dim": s.width(32)})
vision("cait_xxs24_224", lambda s: plain(s) | {"depth_token_only": s.depth(2)})
vision(
    "xcit_nano_12_p16_224",
    lambda s: (
        plain(s) | {"patch_size": 8, "img_size": 40, "embed_dim": s.width(32), "cls_attn_layers": s.depth(2)}
    ),
    40,
)
vision(
    "tnt_s_legacy_patch16_224",
    lambda s: {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": s.width(24),
        "inner_dim": s.width(16),
        "depth": s.depth(4),
        "num_heads_outer": s.width(4),
        "num_heads_inner": s.width(4),
    },
    32,
)
vision(
    "pit_ti_224",
    lambda s: {
        "img_size": 28,
        "patch_size": 4,
        "stride": 4,
        "base_dims": [6, 6, 6],
        "depth": [*s.depths(2, 4, 2)],
        "heads": [*s.widths(2, 4, 8)],
    },
)


def stages(field: str, sizes: tuple[int, ...], deep: str, depths: tuple[int, ...], **more: Any) -> Arguments:
    """Widths per stage in ``field``, blocks per stage in ``deep``."""
    return lambda s: {field: s.widths(*sizes), deep: s.depths(*depths), **more}


def heads(base: Arguments, field: str, *counts: int) -> Arguments:
    return lambda s: base(s) | {field: s.widths(*counts)}


FOUR = (16, 24, 40, 48)
DEEP = (2, 2, 4, 2)

vision("convnextv2_atto", stages("dims", FOUR, "depths", DEEP), 64)
vision("inception_next_tiny", stages("dims", (32, 48, 64, 80), "depths", DEEP), 64)
vision("mambaout_femto", stages("dims", FOUR, "depths", DEEP), 64)
vision("pvt_v2_b0", heads(stages("embed_dims", FOUR, "depths", DEEP), "num_heads", 2, 4, 4, 8), 64)
vision(
    "twins_svt_small",
    heads(stages("embed_dims", FOUR, "depths", (2, 2, 4, 2), img_size=64), "num_heads", 2, 4, 4, 8),
    64,
    chain=False,
)
vision(
    "twins_pcpvt_small",
    heads(stages("embed_dims", FOUR, "depths", DEEP, img_size=64), "num_heads", 2, 4, 4, 8),
    64,
)
vision("davit_tiny", heads(stages("embed_dims", FOUR, "depths", DEEP), "num_heads", 2, 4, 4, 8), 64)
vision(
    "tiny_vit_5m_224",
    heads(stages("embed_dims", FOUR, "depths", DEEP, window_sizes=[2, 2, 2, 2]), "num_heads", 2, 4, 4, 8),
    64,
)
vision(
    "efficientformer_l1",
    lambda s: {
        "embed_dims": s.widths(16, 24, 40, 64),
        "depths": s.depths(2, 2, 4, 4),
        "num_vit": s.depth(2),
    },
    224,
    fixed=["stages.3.blocks."],
)
vision("fastvit_t8", stages("embed_dims", (16, 32, 64, 128), "layers", DEEP), 64)
# Squeeze and excitation rounds its width to a multiple of 8.
vision("repvit_m0_9", stages("embed_dim", (64, 128, 192, 256), "depth", DEEP), 64)
vision("swiftformer_xs", stages("embed_dims", FOUR, "layers", DEEP), 64)
vision(
    "edgenext_xx_small",
    lambda s: {
        "dims": s.widths(24, 48, 96, 160),
        "depths": s.depths(2, 2, 4, 2),
        "heads": s.widths(4, 4, 4, 4),
    },
    64,
)
vision(
    "swinv2_tiny_window8_256",
    lambda s: {
        "img_size": 56,
        "window_size": 7,
        "embed_dim": s.width(24),
        "depths": s.depths(4, 4),
        "num_heads": s.widths(4, 8),
    },
    56,
    fixed=["cpb_mlp"],
)
vision(
    "swinv2_cr_tiny_224",
    lambda s: {
        "img_size": 56,
        "window_size": 7,
        "embed_dim": s.width(24),
        "depths": s.depths(4, 4),
        "num_heads": s.widths(4, 8),
    },
    56,
    fixed=["meta_mlp"],
)
vision(
    "hiera_tiny_224",
    lambda s: {
        "img_size": (64, 64),
        "embed_dim": s.width(24),
        "num_heads": s.width(4),
        "stages": s.depths(2, 2, 4, 2),
        "q_pool": 3,
    },
    64,
)
vision(
    "visformer_tiny",
    lambda s: {
        "img_size": 64,
        "init_channels": s.width(16),
        "embed_dim": s.width(48),
        "depth": s.depths(4, 4, 2),
        "num_heads": s.width(4),
        "group": 1,
    },
    64,
)
vision(
    "crossvit_tiny_240",
    lambda s: {
        "img_size": 48,
        "img_scale": (1.0, 1.0),
        "patch_size": (6, 8),
        "embed_dim": s.widths(24, 32),
        "depth": [[s.depth(2), s.depth(4), 0]],
        "num_heads": s.widths(4, 4),
        "mlp_ratio": (2, 2, 1),
    },
    48,
)
vision(
    "sequencer2d_s",
    lambda s: {
        "layers": [*s.depths(2, 2, 4, 2)],
        "embed_dims": [*s.widths(16, 24, 32, 40)],
        "hidden_sizes": [*s.widths(8, 12, 16, 20)],
    },
    56,
)
vision(
    "starnet_s1",
    lambda s: {"base_dim": s.width(8), "depths": s.depths(2, 2, 4, 2)},
    64,
    fixed=["stem.", "stages.0.0."],
)
vision(
    "resnet18",
    lambda s: {"channels": s.widths(16, 24, 40, 48), "stem_width": s.width(16), "layers": (2, 2, 2, 2)},
    64,
    chain=False,
    fixed=["conv1.", "bn1.", "layer1.0."],
)
vision(
    "resnet50",
    lambda s: {
        "channels": s.widths(24, 40, 48, 56),
        "stem_width": s.width(16),
        "layers": (3, 3, 3, 3),
        "base_width": 64,
    },
    64,
    chain=False,
    fixed=["conv1.", "bn1.", "layer1.0."],
)
vision(
    "resnetv2_50",
    lambda s: {"channels": s.widths(64, 128, 192, 256), "stem_chs": s.width(16), "layers": (3, 3, 3, 3)},
    64,
    chain=False,
)
vision("dla34", lambda s: {"channels": s.widths(8, 16, 24, 32, 40, 48)}, 64, chain=False)
vision(
    "efficientvit_b0",
    lambda s: {
        "widths": s.widths(8, 16, 24, 32, 48),
        "depths": (1, 2, 2, 2, 2),
        "head_dim": 4,
        "head_widths": s.widths(64, 80),
    },
    64,
    chain=False,
)
vision(
    "shvit_s1",
    lambda s: {
        "embed_dim": s.widths(32, 48, 64),
        "partial_dim": s.widths(8, 12, 16),
        "depth": s.depths(2, 4, 4),
    },
    64,
)
vision(
    "efficientvit_m0",
    lambda s: {
        "img_size": 64,
        "embed_dim": [*s.widths(32, 48, 64)],
        "num_heads": [2, 2, 2],
        "key_dim": [4, 4, 4],
        "depth": [1, 2, 2],
        "window_size": [2, 2, 2],
    },
    64,
    chain=False,
)
vision(
    "levit_128s",
    lambda s: {
        "embed_dim": s.widths(32, 48, 64),
        "num_heads": s.widths(2, 4, 4),
        "key_dim": 4,
        "depth": s.depths(2, 4, 4),
        "img_size": 64,
    },
    64,
)


def vision_class(name: str, build: Callable[[Scale], nn.Module], size: int, **options: Any) -> None:
    """A class of timm whose named variants take no sizes."""

    @entry(name, timm_family(name), suite="timm", tags=["class"], **options)
    def _(s: Scale) -> Call:
        return build(s), (image(size),), {}


def meta(*mixers: type[nn.Module]) -> Callable[[Scale], nn.Module]:
    return lambda s: metaformer.MetaFormer(
        depths=s.depths(*DEEP),
        dims=s.widths(32, 32, 64, 64),
        token_mixers=list(mixers),
        norm_layers=list(NORMS if metaformer.Attention in mixers else NORMS[:1] * 4),
        num_classes=13,
    )


NORMS = (metaformer.LayerNorm2dNoBias,) * 2 + (metaformer.LayerNormNoBias,) * 2

vision_class("timm-poolformer", meta(*[metaformer.Pooling] * 4), 64)
vision_class("convformer", meta(*[metaformer.SepConv] * 4), 64)
vision_class(
    "caformer",
    meta(metaformer.SepConv, metaformer.SepConv, metaformer.Attention, metaformer.Attention),
    64,
    chain=False,
)


def mixer(block: type[nn.Module], **more: Any) -> Callable[[Scale], nn.Module]:
    return lambda s: mlp_mixer.MlpMixer(
        img_size=20,
        patch_size=4,
        num_blocks=s.depth(4),
        embed_dim=s.width(24),
        block_layer=block,
        num_classes=13,
        **more,
    )


vision_class("mlp-mixer", mixer(mlp_mixer.MixerBlock, mlp_ratio=(1.0, 4.0)), 20)
vision_class("resmlp", mixer(mlp_mixer.ResBlock, mlp_ratio=4, norm_layer=mlp_mixer.Affine), 20)
vision_class("gmlp", mixer(mlp_mixer.SpatialGatingBlock, mlp_ratio=6, mlp_layer=GatedMlp), 20)
vision_class("convmixer", lambda s: ConvMixer(s.width(24), s.depth(4), patch_size=4, num_classes=13), 28)
vision_class(
    "nest",
    lambda s: nest.Nest(
        img_size=32,
        embed_dims=s.widths(24, 40, 48),
        num_heads=s.widths(4, 4, 8),
        depths=s.depths(2, 2, 4),
        num_classes=13,
    ),
    32,
)
vision_class(
    "mvitv2",
    lambda s: mvitv2.MultiScaleVit(
        mvitv2.MultiScaleVitCfg(depths=s.depths(2, 2, 4, 2), embed_dim=s.width(16), num_heads=s.width(2)),
        img_size=64,
        num_classes=13,
    ),
    64,
    chain=False,
)
vision_class(
    "focalnet", lambda s: FocalNet(embed_dim=s.width(16), depths=s.depths(*DEEP), num_classes=13), 64
)
vision_class(
    "gcvit",
    lambda s: gcvit.GlobalContextVit(
        img_size=64,
        window_size=(2, 2, 2, 2),
        embed_dim=s.width(64),
        depths=(2, 2, 2, 2),
        num_heads=s.widths(2, 4, 4, 8),
        mlp_ratio=2.0,
        num_classes=13,
    ),
    64,
    chain=False,
)
