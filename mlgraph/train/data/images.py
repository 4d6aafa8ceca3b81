"""Labelled images for classification: folders by class, and idx files as MNIST's."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from mlgraph.train.errors import TrainError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
_IDX_TYPES = {
    0x08: np.uint8,
    0x09: np.int8,
    0x0B: np.int16,
    0x0C: np.int32,
    0x0D: np.float32,
    0x0E: np.float64,
}


class Images(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs of an image, [channels, size, size] in [-1, 1], and its class.

    With ``flip`` images are mirrored at random.
    """

    def __init__(self, size: int, channels: int, flip: bool) -> None:
        self.size, self.channels, self.flip = size, channels, flip

    def _prepared(self, image: torch.Tensor) -> torch.Tensor:
        """From [channels, height, width] bytes."""
        pixels = image.float().div(127.5).sub(1.0)
        if pixels.shape[-2:] != (self.size, self.size):
            sizes = (self.size, self.size)
            pixels = functional.interpolate(pixels[None], sizes, mode="bilinear", antialias=True)[0]
        if pixels.shape[0] != self.channels:
            pixels = pixels.mean(0, keepdim=True).expand(self.channels, -1, -1)
        return pixels.flip(-1) if self.flip and torch.rand(()) < 0.5 else pixels


class FolderImages(Images):
    """Images from a folder with one folder per class, numbered in the order of ``classes``.

    Without ``classes`` they are the names of the folders, sorted.
    """

    def __init__(
        self, folder: Path, size: int, channels: int, flip: bool, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__(size, channels, flip)
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.classes = found if classes is None else list(classes)
        for name in found:
            if name not in self.classes:
                raise TrainError(
                    f"{folder} has the class {name!r}, which the training images lack: remove it."
                )
        self.files = [
            (path, number)
            for number, name in enumerate(self.classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        if not self.files:
            raise TrainError(f"{folder} holds no images in folders by class: name one that does.")

    def __len__(self) -> int:
        return len(self.files)

    @property
    def highest(self) -> int:
        """The highest class number."""
        return len(self.classes) - 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("L" if self.channels == 1 else "RGB"))
        except (OSError, ValueError) as error:
            raise TrainError(f"The image {path} cannot be read ({error}): mend or remove it.") from error
        tensor = torch.from_numpy(pixels)
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
        return self._prepared(tensor), torch.tensor(label)


class IdxImages(Images):
    """Images and labels from a pair of idx files."""

    def __init__(self, images: Path, labels: Path, size: int, channels: int, flip: bool) -> None:
        super().__init__(size, channels, flip)
        self.pixels = torch.from_numpy(read_idx(images))
        self.labels = torch.from_numpy(read_idx(labels)).long()
        if self.pixels.ndim not in (3, 4) or self.labels.ndim != 1:
            raise TrainError(
                f"{images} and {labels} have {self.pixels.ndim} and {self.labels.ndim} dims: images have 3 "
                "or 4, labels 1."
            )
        if len(self.pixels) != len(self.labels):
            raise TrainError(
                f"{images} has {len(self.pixels)} images and {labels} {len(self.labels)} labels: pair them."
            )
        if len(self.labels) == 0 or int(self.labels.min()) < 0:
            raise TrainError(f"{labels} holds no labels from 0 on: name another pair of files.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def highest(self) -> int:
        """The highest class number."""
        return int(self.labels.max())

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = self.pixels[index]
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return self._prepared(pixels), self.labels[index]


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """The array of an idx file, gzipped or not."""
    if not path.exists():
        raise TrainError(f"There is no file {path}: check the path in the data section.")
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TrainError(f"{path} cannot be read ({error}): fetch it anew.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise TrainError(f"{path} is no idx file: name the images-idx3 or labels-idx1 file.")
    if len(data) < 4 + 4 * data[3]:
        raise TrainError(f"{path} is cut off in its header: fetch it anew.")
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    kind = np.dtype(_IDX_TYPES[data[2]]).newbyteorder(">")
    start = 4 + 4 * data[3]
    if len(data) != start + math.prod(shape) * kind.itemsize:
        raise TrainError(f"{path} is cut off: it should hold {shape} values; fetch it anew.")
    return np.frombuffer(data, kind, -1, start).reshape(shape).astype(kind.newbyteorder("="))


_TRAINING = ("train", "training")
_HELD_OUT = ("test", "val", "valid", "validation", "eval", "t10k")


def parts_of(folder: Path) -> tuple[Path, Path | None]:
    """Where a folder of images has those for training, and those held out, or None.

    Its parts are folders of classes (``train/``, ``test/``) or idx files (``train-images-idx3-ubyte``,
    ``t10k-…``, gzipped or not); a folder without such parts is its own.
    """
    files = sorted(path for path in folder.iterdir() if "images-idx3" in path.name or _has_folders(path))
    found = {re.split(r"[-.]", path.name.lower())[0]: path for path in files}
    train = next((found[name] for name in _TRAINING if name in found), None)
    if train is None:
        return folder, None
    return train, next((found[name] for name in _HELD_OUT if name in found), None)


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(inner.is_dir() for inner in path.iterdir())


def idx_pair(path: Path) -> tuple[Path, Path]:
    """The images and labels files that ``path``, an images file, belongs to."""
    labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if labels == path:
        raise TrainError(f"{path} is not named as idx images are: give a file with images-idx3 in its name.")
    return path, labels
