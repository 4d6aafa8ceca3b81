"""Keyword arguments of timm's create_model, found by trying, and weights that it loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import mlgraph
from mlgraph.interop.huggingface import NotExpressible
from mlgraph.interop.same_outputs import check_outputs
from mlgraph.interop.timm import effective_arguments, express, save_timm, to_timm
from mlgraph.program import Program, TimmOrigin
from tests import zoo

DEIT = {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 4, "num_classes": 7}


def captured(model: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    return mlgraph.capture(model, args).replace(origin=TimmOrigin(name, kwargs))


def program_of(name: str, kwargs: dict[str, Any], size: int = 32) -> Program:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **kwargs)
    return captured(model, name, (torch.randn(3, 3, size, size),), kwargs)


def test_the_call_beside_the_weights_loads_them(tmp_path: Path) -> None:
    small = mlgraph.coalesce(program_of("deit_tiny_patch16_224", DEIT), depth=2, width=2)
    saved = save_timm(small, tmp_path / "deit.safetensors")
    assert set(saved.changes) == {"depth 4 -> 2", "embed_dim 24 -> 12", "num_heads 4 -> 2"}
    facts = json.loads((tmp_path / "deit.json").read_text())
    assert facts["call"] == saved.call
    model = timm.create_model(facts["model"], **facts["kwargs"], checkpoint_path=str(saved.path))
    assert check_outputs(small, model.eval()) < 1e-5


@pytest.mark.slow
def test_lists_per_stage(tmp_path: Path) -> None:
    kwargs = {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (2, 4),
        "num_heads": (2, 4),
        "num_classes": 7,
    }
    small = mlgraph.coalesce(program_of("swin_tiny_patch4_window7_224", kwargs), width=2)
    arguments, _ = express(small)
    assert arguments["embed_dim"] == 8
    assert tuple(arguments["num_heads"]) == (1, 2)
    assert check_outputs(small, to_timm(small)) < 1e-5


def test_effective_arguments_include_what_the_entry_function_sets() -> None:
    found = effective_arguments("deit_tiny_patch16_224", {"depth": 1})
    assert (found["depth"], found["embed_dim"], found["num_heads"], found["mlp_ratio"]) == (1, 192, 3, 4.0)


def test_arguments_that_an_entry_function_fixes_are_named() -> None:
    program = program_of("mixer_s32_224", {"img_size": 64, "num_classes": 5}, size=64)
    with pytest.raises(NotExpressible, match="mixer_s32_224 fixes .*num_blocks"):
        express(mlgraph.coalesce(program, depth=2))


def test_a_program_of_no_timm_model_is_refused() -> None:
    program = mlgraph.capture(nn.Linear(3, 2), (torch.randn(5, 3),))
    with pytest.raises(NotExpressible, match=r"did not come from timm\.create_model"):
        express(program)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_base_patch16_siglip_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch32_clip_224",
        "vit_relpos_small_patch16_224",
        "vit_srelpos_small_patch16_224",
        "vit_base_patch16_rpn_224",
        "vit_small_patch16_rope_224",
        "pit_ti_224",
        "convnextv2_atto",
        "deit",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "flexivit_small",
        "beit_base_patch16_224",
        "beitv2_base_patch16_224",
        "eva02_tiny_patch14_224",
        "cait_xxs24_224",
        "xcit_nano_12_p16_224",
        "swin",
        "convnext",
    ],
)
def test_round_trip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, dict[str, Any]]] = []
    create = timm.create_model

    def recording(model: str, **kwargs: Any) -> nn.Module:
        made.append((model, kwargs))
        return create(model, **kwargs)  # type: ignore[no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", recording)
        model, args, _ = zoo.get(name).build("full")
    small = mlgraph.coalesce(captured(model, made[0][0], args, made[0][1]), depth=2, width=2)
    saved = save_timm(small, tmp_path / "small.safetensors")
    loaded = create(saved.model, **saved.kwargs, checkpoint_path=str(saved.path))
    assert check_outputs(small, loaded.eval()) < 1e-5
