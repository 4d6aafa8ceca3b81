"""Modules as data, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

BATCH, SEQUENCE, INPUT, CLASSES = 2, 5, 7, 3


@dataclass(frozen=True)
class Step:
    """One op: its kind, the values it reads (positions in the pool), and a variant, a size, a number."""

    kind: str
    reads: tuple[int, ...]
    variant: str = ""
    size: int = 0


@dataclass(frozen=True)
class Recipe:
    """A module as data: features of ``width`` made from the input, steps, and what its results are."""

    width: int
    steps: tuple[Step, ...]
    loss: str = ""
    hidden: bool = False


VARIANTS: dict[str, tuple[str, ...]] = {
    "mix": ("plain", "bias"),
    "norm": ("layer", "rms", "batch"),
    "weight": (
        "scaled",
        "itself",
        "product",
        "expanded",
        "normalised",
        "averaged",
        "softmaxed",
        "twice",
        "transposed",
        "sliced",
        "cleared",
    ),
    "buffer": ("added", "multiplied", "masked", "gathered", "selected", "looked_up", "where", "registered"),
    "blocks": (
        "",
        "norm",
        "outside",
        "norm outside",
        "same",
        "norm masked",
        "ordered",
        "halved",
        "norm gathered",
    ),
    "channels": (
        "full",
        "circular",
        "grouped",
        "depthwise",
        "transposed",
        "prelu",
        "group_norm",
        "instance_norm",
        "response",
        "shuffled",
        "weight_norm",
        "spectral_norm",
    ),
    "measure": (
        "mse",
        "mse_sum",
        "l1_none",
        "huber",
        "kl",
        "bce",
        "bce_weighted",
        "cosine",
        "triplet",
        "margin",
        "soft",
        "classes",
    ),
    "drop": ("", "always"),
    "unary": (
        "tanh",
        "relu",
        "silu",
        "softmax",
        "softmax_over_sequence",
        "layer_norm",
        "normalize",
        "cumsum",
        "cumsum_over_sequence",
        "flip",
        "roll",
        "sort",
        "triu",
        "detached",
        "clamped",
    ),
    "reduce": ("mean", "sum", "amax", "max", "var", "std", "logsumexp", "norm", "prod", "count", "median"),
    "pad": ("constant", "one", "reflect", "replicate", "circular"),
    "view": (
        "swapped",
        "softmaxed",
        "gated",
        "gated_major",
        "first",
        "rolled",
        "unbound",
        "permuted",
        "products",
    ),
    "cut": ("front", "back", "even", "glu", "chunked", "split", "narrow", "unfolded", "max_pooled"),
    "write": ("zeroed", "moved", "masked", "scaled", "first", "added", "filled", "copied"),
    "join": ("cat", "cat_with_constant", "interleaved", "end_to_end"),
    "pair": (
        "add",
        "mul",
        "sub",
        "maximum",
        "where",
        "attend",
        "attention",
        "outer",
        "lerp",
        "cosine",
        "distance",
    ),
    "branch": ("batch", "sequence", "features"),
    "custom": ("reversed", "rounded"),
    "tie": ("rows", "columns"),
}


WIDTHS = (4, 8, 12)


def size_after(step: Step, sizes: Sequence[int]) -> int:
    """The features that a step gives."""
    if step.kind == "mix":
        return step.size
    if step.kind == "pad":
        return sizes[0] + step.size
    if step.kind == "cut":
        return sizes[0] // 2
    if step.kind == "join":
        both = {"cat": sum(sizes), "cat_with_constant": sum(sizes) + min(2, sizes[1])}
        return both.get(step.variant, 2 * min(sizes))
    if step.kind in ("pair", "measure"):
        return min(sizes)
    return sizes[0]


@st.composite
def recipes(draw: st.DrawFn, most: int = 6) -> Recipe:
    """A random :class:`Recipe` of up to ``most`` steps."""
    width = draw(st.sampled_from(WIDTHS))
    sizes = [width]
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(sorted(VARIANTS)))
        # mostly the latest value, so that steps build on one another
        reads = [draw(st.sampled_from([len(sizes) - 1, len(sizes) - 1, *range(len(sizes))]))]
        if kind in ("join", "pair", "measure"):
            reads.append(draw(st.integers(0, len(sizes) - 1)))
        variant = draw(st.sampled_from(VARIANTS[kind]))
        size, given = 0, [sizes[i] for i in reads]
        if kind == "mix":
            size = draw(st.sampled_from(WIDTHS))
        elif kind == "pad":
            size = draw(st.integers(1, 3))
        elif kind == "reduce":
            size = draw(st.integers(0, 1))
        elif kind == "blocks":
            size = draw(st.sampled_from([2, 4]))
        elif kind == "view":
            size = draw(st.sampled_from([n for n in (2, 4, 3) if given[0] % n == 0] or [1]))
        fits = given[0] <= 24 and given[0] >= 4 and sum(given) <= 32
        if (kind == "cut" and given[0] % 4) or (
            kind == "tie" and given[0] != (width if variant == "rows" else -1)
        ):
            fits = False
        if not fits:
            continue
        step = Step(kind, tuple(reads), variant, size)
        steps.append(step)
        sizes.append(size_after(step, given))
    loss = draw(st.sampled_from(["", "", "mean", "sum"]))
    return Recipe(width, tuple(steps), loss, draw(st.booleans()))
