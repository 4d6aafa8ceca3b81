"""``mlgraph capture``: a model saved as a program."""

from __future__ import annotations

from dataclasses import asdict

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Out, Source


@opens
def command(
    source: Source,
    opening: Opening,
    out: Out = None,
    json: Json = False,
) -> None:
    """Save a model as a program: a file with graph and weights that is safe to load.

    For example: mlgraph capture timm:deit_tiny_patch16_224 -o deit.pt
    """
    from mlgraph.cli.results import default_output, is_one_of, require_apart
    from mlgraph.inspect.summary import summarize
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.inspect.text.program import captured
    from mlgraph.storage import save

    path = out or default_output(source, "").with_suffix(".pt")
    if out is None and is_one_of(path, [source]):
        path = default_output(source, "captured").with_suffix(".pt")
    require_apart(path, source)
    program = opening.program(source)
    save(program, path)
    figures = summarize(program)
    if json:
        show_json(
            {
                "source": source,
                "out": str(path),
                **asdict(figures),
                "inputs": {leaf.name: _sizes(leaf) for leaf in program.signature.inputs if leaf.is_tensor},
                "notes": list(map(str, program.notes)),
            }
        )
    else:
        show(*captured(program, figures, str(path)))


def _sizes(leaf: object) -> list[str | int]:
    """The sizes of an input: the names of dynamic ones, the numbers of fixed ones."""
    from mlgraph.program import Input

    assert isinstance(leaf, Input)
    symbols = leaf.symbols or (None,) * len(leaf.shape)
    return [symbol or size for symbol, size in zip(symbols, leaf.shape, strict=True)]
