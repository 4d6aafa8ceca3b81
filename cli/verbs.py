"""The verbs of the command line. Adding one is a line here and a module with a function ``command``."""

from __future__ import annotations

from dataclasses import dataclass

_TRANSFORM = "Transform"
_LOOK = "Look"
_TRAIN = "Train"
_FILES = "Files"


@dataclass(frozen=True)
class Verb:
    """A verb; ``mlgraph.cli.<module>``, by default of its name, holds its function ``command``.

    The docstring and the annotations of the function are the verb's help and options. The module imports
    torch inside functions only.
    """

    name: str
    panel: str
    summary: str
    module: str = ""

    @property
    def location(self) -> str:
        """The module to import, which is not imported until the verb is used."""
        return f"mlgraph.cli.{self.module or self.name}"


VERBS = (
    Verb("coarsen", _TRANSFORM, "Make a model smaller by averaging neurons and blocks in groups."),
    Verb("refine", _TRANSFORM, "Take a coarse model back up, or grow a model."),
    Verb("interpolate", _TRANSFORM, "Mix two models of one architecture."),
    Verb("apply", _TRANSFORM, "Run a pipeline of passes."),
    Verb("calibrate", _TRANSFORM, "Measure what data shows of a model, for coarsening by it."),
    Verb("passes", _TRANSFORM, "List the passes, their options and papers."),
    Verb("inspect", _LOOK, "Show the modules, their dims in axis names, and their sizes."),
    Verb("axes", _LOOK, "List the axes: what may be coarsened and what may not, and why."),
    Verb("blocks", _LOOK, "List the chains of repeated blocks."),
    Verb("explain", _LOOK, "Say what ties or freezes a dim of a parameter."),
    Verb("browse", _LOOK, "Explore a model full-screen, and preview what coarsening would do."),
    Verb("view", _LOOK, "Draw a model as a block diagram, in an HTML page or an SVG."),
    Verb("diff", _LOOK, "Compare two models."),
    Verb("verify", _LOOK, "Check the inferred axes by permuting them."),
    Verb("plan", _TRAIN, "Tell what a budget of FLOPs pays for, and what recipes could save of it."),
    Verb("train", _TRAIN, "Train a model by a phase program, as a TOML file says."),
    Verb("sweep", _TRAIN, "Tune recipes and a baseline alike, and compare what they cost."),
    Verb("report", _TRAIN, "Compare training runs in one HTML page."),
    Verb("demo", _TRAIN, "Train a small GPT by a V-cycle and from scratch, in minutes."),
    Verb("capture", _FILES, "Save a model as a program."),
    Verb("cache", _FILES, "List or delete what is remembered of models."),
    Verb("export", _FILES, "Write a program in a format that other tools read."),
)
