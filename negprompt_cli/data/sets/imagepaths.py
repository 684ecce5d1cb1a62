"""A compact sequence of many image paths: one block of bytes and the ends of its parts.

ImageNet's training set has 1.28 million files; as `Path` objects they take most of a gigabyte and as much again in
every copy. Here they take the length of their names plus eight bytes and become `Path`s one at a time. Nothing on disk is
looked at.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray


class ImagePaths(Sequence[Path]):
    """Paths below `root`, in a fixed order; `paths[i]` is a `Path`, `paths.relative(i)` the POSIX text below root."""

    __slots__ = ("_block", "_ends", "root")

    def __init__(self, root: Path, relative: Iterable[str]) -> None:
        """Store `relative` (POSIX texts; an absolute one stays absolute) below `root`."""
        block = bytearray()
        ends = []
        for text in relative:
            block += os.fsencode(text)
            ends.append(len(block))
        self.root = root
        self._block = bytes(block)
        self._ends: NDArray[np.int64] = np.asarray(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def relative(self, index: int) -> str:
        """The POSIX text of path `index`, relative to `root`."""
        size = len(self._ends)
        if not -size <= index < size:
            raise IndexError(f"path {index} of {size}")
        index %= size
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._block[start : int(self._ends[index])])

    def relatives(self) -> Iterator[str]:
        """All POSIX texts, in order."""
        start = 0
        for end in self._ends.tolist():
            yield os.fsdecode(self._block[start:end])
            start = end

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> "ImagePaths": ...
    def __getitem__(self, index: int | slice) -> "Path | ImagePaths":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self.root / self.relative(int(index))

    def __iter__(self) -> Iterator[Path]:
        return (self.root / text for text in self.relatives())

    def take(self, indices: NDArray[np.int64]) -> "ImagePaths":
        """The paths at `indices` (n,), in that order."""
        return ImagePaths(self.root, (self.relative(i) for i in indices.tolist()))
