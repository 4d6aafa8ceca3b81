"""Every promise, held to the module of one recipe."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mlgraph
from mlgraph.graph.interpret import run
from mlgraph.program import Program
from tests.oracles import relative_error
from tests.random_modules.build import build, inputs_of_all
from tests.random_modules.recipes import Recipe


class Wrong(AssertionError):
    """A result that differs without a word; ``what`` says which promise it breaks."""

    def __init__(self, what: str, error: float) -> None:
        super().__init__(f"{what}: relative error {error:.2g}")
        self.what = what


def _run(
    module: nn.Module, inputs: Sequence[torch.Tensor], training: bool
) -> tuple[list[Any], dict[str, Any]]:
    module.train(training)
    module.zero_grad()
    torch.manual_seed(3)
    results = list(module(*inputs))
    total = sum((r.square().mean() for r in results if r.requires_grad), torch.zeros(()))
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return [r.detach() for r in results], gradients


def _same(what: str, found: Sequence[Any], wanted: Sequence[Any], bound: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        error = relative_error(a, b) if a.shape == b.shape else float("inf")
        if error > bound and not (a.shape == b.shape and float((a - b).abs().max()) < 1e-13):
            raise Wrong(what, error)


def examine(recipe: Recipe) -> str:
    """What became of a recipe: ``"exact"`` or ``"refused: …"``; raises :class:`Wrong` where a promise breaks.

    Captured and emitted it is the module (results, gradients, both modes); coarsened by two and refined, or
    grown by two, it keeps its function; coarsening undoes refining; a file keeps every bit. What is noted as
    approximate is let off.
    """
    model, inputs = build(recipe), inputs_of_all()
    try:
        program = mlgraph.capture(model.eval(), inputs, dynamic_shapes=None)
    except mlgraph.MlgraphError as error:
        return f"refused: {type(error).__name__}"
    # the module's buffers are the program's, and training writes some
    emitted = copy.deepcopy(mlgraph.emit(program))
    quiet = not [note for note in program.notes if note.kind in ("mode", "traced")]
    for training in (False, True):
        wanted, slopes = _run(model, inputs, training)
        found, own = _run(emitted, inputs, training)
        if training and not quiet:
            continue
        name = "training" if training else "evaluation"
        _same(f"results in {name}", found, wanted, 1e-10)
        missing = {n for n, g in slopes.items() if g.abs().max() > 1e-12} ^ {
            n for n, g in own.items() if g.abs().max() > 1e-12
        }
        if missing:
            raise Wrong(f"parameters with gradients in {name}", float("inf"))
        both = sorted(slopes.keys() & own.keys())
        _same(f"gradients in {name}", [own[n] for n in both], [slopes[n] for n in both], 1e-8)
    heads = 2 if recipe.loss else 1

    def results(of: Program) -> list[Any]:
        torch.manual_seed(3)
        return list(run(of, inputs))[:heads]

    with torch.no_grad():
        base = results(program)
        try:
            coarse = mlgraph.coalesce(program, width=2)
            fine = mlgraph.decoalesce(coarse)
            grown = mlgraph.decoalesce(program, width=2)
        except mlgraph.AxisError:
            return "refused: width"
        if not [note for note in coarse.notes if note.kind == "approximate"]:
            _same("de-coalesced after coalescing", results(fine), results(coarse), 1e-10)
            _same("grown", results(grown), base, 1e-10)
            again = mlgraph.coalesce(fine, width=2, check=False)
            for name, tensor in coarse.tensors.items():
                if again.tensors[name].shape == tensor.shape:
                    _same("coalesced after de-coalescing", [again.tensors[name]], [tensor], 1e-12)
        for axis in [axis for axis in program.axes if axis.kept is not None and axis.size > 1][:1]:
            try:
                asked = mlgraph.decoalesce(program, axes={axis.id: 2})
            except mlgraph.MlgraphError:
                continue
            if not [note for note in asked.notes if note.kind == "approximate"]:
                _same("grown as asked", results(asked), base, 1e-10)
        if [chain for chain in program.blocks if len(chain) % 2 == 0]:
            try:
                deep = mlgraph.decoalesce(program, depth=2, depth_mode="identity")
            except mlgraph.MlgraphError:
                deep = None
            if deep is not None and not [note for note in deep.notes if note.kind == "approximate"]:
                _same("deepened by identities", results(deep), base, 1e-10)
        with tempfile.TemporaryDirectory() as folder:
            mlgraph.save(program, Path(folder) / "p.pt")
            loaded = mlgraph.load(Path(folder) / "p.pt")
        _same("saved and loaded", results(loaded), base, 0.0)
    return "exact"
