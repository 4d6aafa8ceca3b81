"""The outcome of a demonstration as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.inspect.text.console import table

if TYPE_CHECKING:
    from mlgraph.train.demo import Demo


def figures(demo: Demo) -> dict[str, Any]:
    """Everything the table shows, as plain values."""
    from mlgraph.train.phases import to_json

    def one(history: list[dict[str, Any]]) -> dict[str, Any]:
        last = [record for record in history if "eval_loss" in record][-1]
        return {key: last[key] for key in ("step", "flops", "seconds", "tokens", "eval_loss")}

    return {
        "files": demo.files,
        "characters": demo.characters,
        "tokens": demo.tokens,
        "parameters": demo.parameters,
        "coarse_parameters": demo.coarse_parameters,
        "phases": to_json(demo.phases),
        "scratch": one(demo.scratch.history),
        "cycle": one(demo.cycle.history),
        "seconds": demo.seconds,
    }


def outcome(demo: Demo) -> list[Any]:
    """A table of both runs and sentences that say what it means and what it does not."""
    found = figures(demo)
    rows = [
        [name, f"{run['eval_loss']:.3f}", run["step"], f"{run['flops'] / 1e12:.2f}", f"{run['seconds']:.1f}"]
        for name, run in (("from scratch", found["scratch"]), ("V-cycle", found["cycle"]))
    ]
    lines: list[Any] = [
        f"{found['tokens']:,} tokens from {found['files']} modules; a GPT of "
        f"{found['parameters']:,} parameters, "
        f"at level 2 {found['coarse_parameters']:,}.",
        "",
        table(["run", "validation loss", "steps", "TFLOPs", "seconds"], rows, right=range(1, 5)),
        "",
    ]
    lines.append(
        "One seed, and neither side's rate or warm-up was tuned: this shows how it works, not what it is "
        "worth. What is known of that is in docs/experiments.md."
    )
    lines.append(f"Done in {found['seconds']:.0f} s.")
    return lines
