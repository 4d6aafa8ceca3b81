"""Draws recipes and examines them; says what breaks."""

from __future__ import annotations

import argparse
import time
import warnings

import torch

from tests.random_modules.survey import survey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = time.time()
    counts = survey(options.draws, options.seed, options.steps)
    print(f"{options.draws} draws, seed {options.seed}, {time.time() - start:.0f} s")
    raise SystemExit(any(what.startswith("WRONG") for what in counts))


if __name__ == "__main__":
    main()
