"""Rearranging along axes, against products with dense permutation matrices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.program.dims import Dim, Join, Leaf
from mlgraph.rewrite.rearrange import rearrange

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5}
LEAVES = st.sampled_from([Leaf(axis, size) for axis, size in SIZES.items()])
PERMUTED = st.dictionaries(st.sampled_from(sorted(SIZES)), st.randoms(use_true_random=False), min_size=1)


def dims(depth: int = 2) -> st.SearchStrategy[Dim]:
    """Products of axes and concatenations of such; the empty product is a single index."""
    terms: st.SearchStrategy[Leaf | Join] = LEAVES
    if depth:
        terms |= st.lists(dims(depth - 1), min_size=1, max_size=3).map(lambda parts: Join(tuple(parts)))
    return st.lists(terms, max_size=2).map(lambda terms: Dim(tuple(terms))).filter(lambda dim: dim.size <= 60)


def dense(dim: Dim, matrices: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The matrix that moves a dim's indices: Kronecker products of its terms', which are block diagonal where
    they concatenate.
    """
    one = torch.ones(1, 1, dtype=torch.float64)
    return reduce(torch.kron, [_dense_term(term, matrices) for term in dim], one)


def _dense_term(term: Leaf | Join, matrices: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if isinstance(term, Join):
        return torch.block_diag(*(dense(part, matrices) for part in term.parts))
    return matrices.get(term.axis, torch.eye(term.size, dtype=torch.float64))


@given(rows=dims(), columns=dims(), permuted=PERMUTED)
def test_a_matrix_is_permuted_as_by_dense_matrices(rows, columns, permuted):
    permutations = {}
    for axis, random in permuted.items():
        permutations[axis] = torch.tensor(random.sample(range(SIZES[axis]), SIZES[axis]))
    matrices = {}
    for axis, moved in permutations.items():
        matrices[axis] = torch.zeros(len(moved), len(moved), dtype=torch.float64)
        for place, source in enumerate(moved.tolist()):
            matrices[axis][place, source] = 1
    shape = rows.size, columns.size
    value = torch.arange(1, 1 + shape[0] * shape[1], dtype=torch.float64).view(shape)
    expected = dense(rows, matrices) @ value @ dense(columns, matrices).T
    assert torch.equal(rearrange(value, (rows, columns), permutations), expected)


def test_a_broadcast_dim_stays():
    value = torch.arange(3.0).view(1, 3)
    moved = rearrange(value, (Dim((Leaf("c", 4),)), Dim((Leaf("b", 3),))), {"c": torch.tensor([3, 2, 1, 0])})
    assert torch.equal(moved, value)
