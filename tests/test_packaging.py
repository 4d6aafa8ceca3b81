import tomllib
from pathlib import Path

import mlgraph
import mlgraph.cli
import mlgraph.passes

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _packages(folder: Path, name: str) -> set[str]:
    inner = (path for path in folder.rglob("__init__.py"))
    return {".".join([name, *path.parent.relative_to(folder).parts]) for path in inner}


def test_every_package_is_listed_for_installation():
    found = _packages(ROOT / "mlgraph", "mlgraph")
    for name, folder in SETTINGS["tool"]["setuptools"]["package-dir"].items():
        found |= _packages(ROOT / folder, name)
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == found


def test_passes_and_cli_install_inside_the_import_name():
    assert mlgraph.passes.__name__ == "mlgraph.passes"
    assert mlgraph.cli.__name__ == "mlgraph.cli"


def test_a_function_keeps_its_name_when_a_submodule_shares_it():
    import mlgraph.capture.model
    import mlgraph.emit

    assert callable(mlgraph.capture)
    assert callable(mlgraph.emit)


def test_every_name_of_the_face_is_there_and_in_the_reference():
    written = (ROOT / "docs/reference/python.md").read_text().split()
    for name in mlgraph.__all__:
        home = getattr(mlgraph, name).__module__
        assert {f"{home}.{name}", home} & set(written), name


def test_version_is_the_packages():
    assert mlgraph.__version__ == SETTINGS["project"]["version"]
