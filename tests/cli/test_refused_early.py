"""What can be refused before a model is loaded is refused before torch is."""

import json
import subprocess
import sys

from mlgraph.train.config import load_config
from mlgraph.train.phases import to_json
from mlgraph.train.starter import write_starter

REFUSED = (
    ("coarsen nothing --width 2", "There is no file or directory nothing"),
    ("view config.json -o x.png", "x.png ends in neither .html nor .svg"),
    ("export hf:config.json -o x.foo", "x.foo has no ending that names a format"),
    ("apply coalese{width=2} hf:config.json", "did you mean 'coalesce'?"),
    ("coarsen hf:config.json --width 2 --dtype int3", "int3 is no floating-point dtype"),
    ("coarsen hf:config.json", "say how much smaller"),
    ("interpolate a b --alpha 2", "must be between 0 and 1"),
    ("train run.toml --set recipe.step=3", "did you mean 'steps'?"),
    ("train run.toml --set run.optimizer.lr=0.5", "run.optimizer.lr = 0.002, and now run.optimizer.lr = 0.5"),
    ('train run.toml --set data.train=["x"]', "There is no file x"),
    ("train --init causal", "did you mean 'causal-lm'?"),
)
SCRIPT = """
import json, sys
from mlgraph.cli.app import run
codes = []
for line in json.loads(sys.argv[1]):
    codes.append(run(line.split()))
    print("\\f", file=sys.stderr)
print(json.dumps({"codes": codes, "torch": "torch" in sys.modules}))
"""


def test_no_refusal_waits_for_torch(tmp_path):
    write_starter("causal-lm", tmp_path / "run.toml")
    config = load_config(tmp_path / "run.toml")
    run = {"phases": to_json(config.phase_program()), **config.settings().to_json()}
    directory = tmp_path / "runs" / "first"
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({**config.to_json(), "run": run}))
    command = [sys.executable, "-c", SCRIPT, json.dumps([line for line, _ in REFUSED])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert all(code in (1, 2) for code in told["codes"])
    for (line, sentence), said in zip(REFUSED, done.stderr.split("\f"), strict=False):
        assert sentence in " ".join(said.replace("\u2502", " ").split()), line
    assert not told["torch"]
