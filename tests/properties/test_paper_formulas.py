"""The published coalescing and de-coalescing formulas, written with dense matrices.

Zou, Zhang & Deng (arXiv 2404.07999), eq. 3-10: with row vectors, a weight ``W [in, out]`` becomes
``F_in W F_out`` going down and ``T_in W T_out`` going up; layers are mixed by ``R`` and copied by ``G``.
``F_out`` takes the mean of a pair, ``F_in`` is its row-normalised transpose (the sum). Pairs are
``i`` and ``i + n/2``: heads i and i+6, layers i and i+6, blocks i and i+6 of the MLP. Tables read by
an embedding lookup are doubled going down and halved going up where the published code ties the head.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import timm
import torch
import transformers as hf
from torch import nn

import mlgraph
from mlgraph.program import Program
from tests.zoo.registry import VOCABULARY, attention_mask, image, perturb_, token_ids

LAYERS = HEADS = 12


@dataclass(frozen=True)
class Sizes:
    head_dim: int

    @property
    def hidden(self) -> int:
        return HEADS * self.head_dim

    @property
    def mlp(self) -> int:
        return 4 * self.hidden


@dataclass(frozen=True)
class Family:
    """A model, and which axes the dims of each of its parameters lie on.

    ``layout`` maps a pattern of parameter names to the axis of every dim: ``h`` hidden, ``m`` MLP,
    ``a`` heads x head_dim, ``3a`` query, key and value packed, ``.`` untouched; upper case where the dim
    contracts. ``table`` in front marks an embedding table.
    """

    build: Callable[[Sizes], tuple[nn.Module, dict[str, torch.Tensor]]]
    layer: str
    layout: tuple[tuple[str, str], ...]


def bert(sizes: Sizes) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = hf.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=sizes.hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=sizes.mlp,
        max_position_embeddings=31,
    )
    return hf.BertForMaskedLM(config), {"input_ids": token_ids(), "attention_mask": attention_mask()}


def gpt2(sizes: Sizes) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=sizes.hidden,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=31,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return hf.GPT2LMHeadModel(config), {"input_ids": token_ids()}


def deit(sizes: Sizes) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    model = timm.create_model(
        "deit_tiny_patch16_224",
        img_size=28,
        patch_size=4,
        embed_dim=sizes.hidden,
        depth=LAYERS,
        num_heads=HEADS,
        num_classes=13,
    )
    return model, {"x": image(28)}


FAMILIES = {
    "bert": Family(
        bert,
        "bert.encoder.layer.",
        (
            (r"embeddings\.\w+_embeddings\.weight", "table . h"),
            (r"attention\.self\.(query|key|value)\.weight", "a H"),
            (r"attention\.self\.(query|key|value)\.bias", "a"),
            (r"attention\.output\.dense\.weight", "h A"),
            (r"intermediate\.dense\.weight", "m H"),
            (r"intermediate\.dense\.bias", "m"),
            (r"\d+\.output\.dense\.weight", "h M"),
            (r"transform\.dense\.weight", "h H"),
            (r"predictions\.(decoder\.)?bias", "."),
            (r"(LayerNorm\.(weight|bias)|dense\.bias)", "h"),
        ),
    ),
    "gpt2": Family(
        gpt2,
        "transformer.h.",
        (
            (r"wte\.weight|wpe\.weight", "table . h"),
            (r"attn\.c_attn\.weight", "H 3a"),
            (r"attn\.c_attn\.bias", "3a"),
            (r"attn\.c_proj\.weight", "A h"),
            (r"mlp\.c_fc\.weight", "H m"),
            (r"mlp\.c_fc\.bias", "m"),
            (r"mlp\.c_proj\.weight", "M h"),
            (r"(ln_\w+\.(weight|bias)|c_proj\.bias)", "h"),
        ),
    ),
    "deit": Family(
        deit,
        "blocks.",
        (
            (r"cls_token|pos_embed", ". . h"),
            (r"patch_embed\.proj\.weight", "h . . ."),
            (r"attn\.qkv\.weight", "3a H"),
            (r"attn\.qkv\.bias", "3a"),
            (r"attn\.proj\.weight", "h A"),
            (r"mlp\.fc1\.weight", "m H"),
            (r"mlp\.fc1\.bias", "m"),
            (r"mlp\.fc2\.weight", "h M"),
            (r"head\.weight", ". H"),
            (r"head\.bias", "."),
            (r"(norm\d?\.(weight|bias)|proj\.bias|fc2\.bias)", "h"),
        ),
    ),
}

Matrix = torch.Tensor


def pairs(blocks: int, block: int) -> Matrix:
    """``F_out [n, n/2]``: column j holds 1/2 in the rows of block i and of block i + blocks/2."""
    half = blocks // 2
    matrix = torch.zeros(blocks * block, half * block, dtype=torch.float64)
    for i in range(half):
        for k in range(block):
            matrix[i * block + k, i * block + k] = 0.5
            matrix[(i + half) * block + k, i * block + k] = 0.5
    return matrix


def row_normalised(matrix: Matrix) -> Matrix:
    """Rows divided so that each one's largest entry is 1: the transpose of a mean becomes a sum."""
    return matrix / matrix.max(dim=1, keepdim=True).values


@cache
def maps(sizes: Sizes, axis: str, up: bool) -> Matrix:
    """The matrix that acts on a dim from the right: going down ``[fine, coarse]``, up ``[coarse, fine]``."""
    emits = axis.islower()
    letter = axis.lower()
    blocks, block = {
        "h": (HEADS, sizes.head_dim),
        "a": (HEADS, sizes.head_dim),
        "3a": (HEADS, sizes.head_dim),
        "m": (HEADS, sizes.mlp // HEADS),
    }[letter]
    f_out = pairs(blocks, block)
    f_in = row_normalised(f_out.T)
    # Going up the roles of the two swap: outputs are copied, inputs halved.
    t_out, t_in = f_in, f_out
    matrix = (t_out if emits else t_in.T) if up else (f_out if emits else f_in.T)
    return torch.block_diag(matrix, matrix, matrix) if letter == "3a" else matrix


def spec(family: Family, name: str) -> list[str]:
    for pattern, axes in family.layout:
        if re.search(pattern + "$", name):
            return axes.split()
    raise AssertionError(f"the test does not know where {name} lies")


def moved(family: Family, sizes: Sizes, name: str, weight: torch.Tensor, up: bool) -> torch.Tensor:
    """Eq. 3-6 (down) or 7-9 (up) for one parameter, in fp64."""
    axes = spec(family, name)
    out = weight.double()
    if axes[0] == "table":
        axes = axes[1:]
        out = out / 2 if up else out * 2
    for position, axis in enumerate(axes):
        if axis != ".":
            out = torch.tensordot(out, maps(sizes, axis, up), dims=([position], [0])).movedim(-1, position)
    return out


def coarse(family: Family, sizes: Sizes, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Width by F, then depth by ``R [L, L/2]``: layer i of the small model is the mean of i and i + 6."""
    narrow = {name: moved(family, sizes, name, weight, up=False) for name, weight in state.items()}
    mix = pairs(LAYERS, 1)
    return across_layers(family, narrow, mix)


def fine(family: Family, sizes: Sizes, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Depth by ``G [L/2, L]``, the copies, then width by T."""
    deep = across_layers(family, state, row_normalised(pairs(LAYERS, 1).T))
    return {name: moved(family, sizes, name, weight, up=True) for name, weight in deep.items()}


def across_layers(family: Family, state: dict[str, torch.Tensor], mix: Matrix) -> dict[str, torch.Tensor]:
    """Layer j of the result is the sum over i of ``mix[i, j]`` times layer i."""
    out = {name: weight.double() for name, weight in state.items() if not name.startswith(family.layer)}
    rests = {name[len(family.layer) :].split(".", 1)[1] for name in state if name.startswith(family.layer)}
    for rest in rests:
        stack = torch.stack([state[f"{family.layer}{i}.{rest}"].double() for i in range(len(mix))])
        for j, layer in enumerate(torch.tensordot(mix, stack, dims=([0], [0]))):
            out[f"{family.layer}{j}.{rest}"] = layer
    return out


def assert_equal_to(program: Program, expected: dict[str, torch.Tensor]) -> None:
    found = {name: program.tensors[name] for name in program.tensors.parameters}
    names = {program.tensors.aliases.get(name, name) for name in expected}
    assert found.keys() == names
    for name, value in found.items():
        assert value.shape == expected[name].shape, name
        assert (value.double() - expected[name]).abs().max() <= 1e-6, name


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, head_dim), id=f"{name}-{12 * head_dim}", marks=marks)
        for head_dim, marks in ((8, ()), (64, (pytest.mark.thorough,)))
        for name in FAMILIES
    ],
)
def case(request: pytest.FixtureRequest) -> tuple[Family, Sizes, Program, Program]:
    name, head_dim = request.param
    family, sizes = FAMILIES[name], Sizes(head_dim)
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        model, kwargs = family.build(sizes)
        perturb_(model)
    program = mlgraph.capture(model.eval(), (), kwargs)
    small = mlgraph.coalesce(program, depth=2, width=2, pairing="halves", tied="paper")
    return family, sizes, program, small


def parameters(program: Program) -> dict[str, torch.Tensor]:
    return {name: program.tensors[name].detach() for name in program.tensors.parameters}


def test_coarse_weights_are_the_published_ones(case: tuple[Family, Sizes, Program, Program]) -> None:
    family, sizes, program, small = case
    assert_equal_to(small, coarse(family, sizes, parameters(program)))


def test_regrown_weights_are_the_published_ones(case: tuple[Family, Sizes, Program, Program]) -> None:
    family, sizes, _, small = case
    assert_equal_to(mlgraph.decoalesce(small), fine(family, sizes, parameters(small)))


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_interpolated_weights_are_the_published_ones(
    case: tuple[Family, Sizes, Program, Program], alpha: float
) -> None:
    family, sizes, program, small = case
    up = fine(family, sizes, parameters(small))
    expected = {name: (1 - alpha) * w.double() + alpha * up[name] for name, w in parameters(program).items()}
    assert_equal_to(mlgraph.interpolate(program, mlgraph.decoalesce(small), alpha=alpha), expected)
