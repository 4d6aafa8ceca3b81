"""The outcome of a demonstration as a table and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.inspect.text.console import table

if TYPE_CHECKING:
    from mlgraph.train.demo import Demo
    from mlgraph.train.results.savings import Saving


def figures(demo: Demo) -> dict[str, Any]:
    """Everything the table shows, as plain values."""
    from mlgraph.train.phases import to_json
    from mlgraph.train.results.savings import saving

    def one(history: list[dict[str, Any]]) -> dict[str, Any]:
        last = [record for record in history if "eval_loss" in record][-1]
        return {key: last[key] for key in ("step", "flops", "seconds", "tokens", "eval_loss")}

    savings = {cost: saving(demo.scratch.history, demo.cycle.history, cost) for cost in ("flops", "seconds")}
    return {
        "files": demo.files,
        "characters": demo.characters,
        "tokens": demo.tokens,
        "parameters": demo.parameters,
        "coarse_parameters": demo.coarse_parameters,
        "phases": to_json(demo.phases),
        "scratch": one(demo.scratch.history),
        "cycle": one(demo.cycle.history),
        "saved": {cost: found.share if found else None for cost, found in savings.items()},
        "seconds": demo.seconds,
    }


def outcome(demo: Demo) -> list[Any]:
    """A table of both runs and sentences that say what it means and what it does not."""
    from mlgraph.train.results.savings import saving

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
    for cost, noun in (("flops", "FLOPs"), ("seconds", "training time")):
        reached = saving(demo.scratch.history, demo.cycle.history, cost)
        if reached is not None:
            lines.append(verdict(reached, noun))
    lines.append(
        "One seed, one learning rate for both, a run of minutes: this shows how it works, not what "
        "it is worth. "
        "Compare tuned runs with `mlgraph train` and `mlgraph report`."
    )
    lines.append(f"Done in {found['seconds']:.0f} s.")
    return lines


def verdict(found: Saving, noun: str) -> str:
    """A sentence on what was saved of ``noun`` at equal validation loss."""
    if found.share is None:
        return f"The V-cycle did not reach the scratch run's loss of {found.loss:.3f}: no {noun} saved."
    if found.share <= 0:
        return (
            f"To the scratch run's loss of {found.loss:.3f} the V-cycle took {-found.share:.0%} more {noun}."
        )
    return f"To the scratch run's loss of {found.loss:.3f} the V-cycle took {found.share:.0%} less {noun}."
