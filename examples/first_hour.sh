#!/usr/bin/env bash
# A first hour with mlgraph, in a few minutes: look at a model, shrink it, grow it back, train one.
#
#   examples/first_hour.sh MODEL    MODEL: a Hugging Face directory, as all-MiniLM-L6-v2 downloaded
#
# What it writes goes into a new folder in the current one.
set -euo pipefail

model="$(realpath "${1:?give a Hugging Face directory, for example all-MiniLM-L6-v2}")"
mkdir first-hour
cd first-hour
say() { printf '\n$ %s\n' "$*"; "$@"; }

# Look. The model is captured once; the verbs after the first answer at once.
say mlgraph inspect "$model"
say mlgraph axes "$model"
say mlgraph blocks "$model"
say mlgraph explain "$model" "encoder.layer.0.attention.self.query.weight[0]"
say mlgraph inspect "$model" --batch 8 --sequence 256
say mlgraph view "$model" --depth 2 --width 2 -o model.html

# Shrink: first on shapes alone, then with weights. The result is a directory that from_pretrained loads.
say mlgraph coarsen "$model" --depth 2 --width 2 --dry-run
say mlgraph coarsen "$model" --depth 2 --width 2 -o small
say mlgraph diff "$model" small

# Grow it back, and mix it with what there was before.
say mlgraph refine small -o big
say mlgraph interpolate "$model" big --alpha 0.5 -o mixed

# Train: a first run that is made to be changed. Stopped by Ctrl-C, the same command goes on.
say mlgraph train --init causal-lm
say mlgraph train run.toml --set recipe.steps=40 --set recipe.init_steps=4 --set recipe.coarse_steps=20
say mlgraph train run.toml --set recipe.kind=plain --set recipe.steps=40 --set out=runs/plain
say mlgraph report runs/first runs/plain -o report.html

# More: what else there is, and what is remembered.
say mlgraph passes stack
say mlgraph cache
