"""Run mypy on the package as it installs.

``passes/`` and ``cli/`` install inside ``mlgraph``; mypy follows the file system and knows nothing of
that mapping, so it is shown the installed layout as a tree of links. Further arguments go to mypy.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def installed_layout(root: Path, tree: Path) -> None:
    """Link under ``tree`` every source of the package where it installs."""
    package = tree / "mlgraph"
    package.mkdir()
    for source in (root / "mlgraph").iterdir():
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name, folder in settings["package-dir"].items():
        tree.joinpath(*name.split(".")).symlink_to(root / folder)


def main() -> int:
    with tempfile.TemporaryDirectory() as tree:
        installed_layout(ROOT, Path(tree))
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        cache = ["--cache-dir", os.environ.get("MYPY_CACHE_DIR", str(ROOT / ".mypy_cache"))]
        return subprocess.call([*command, *cache, *sys.argv[1:], "-p", "mlgraph"], cwd=tree)


if __name__ == "__main__":
    sys.exit(main())
