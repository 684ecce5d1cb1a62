"""A compact sequence of many image paths, stored as one block of bytes and the end of each path.

ImageNet's training set has 1.28 million files. As `Path` objects they take most of a gigabyte, and as much in every copy.
Here each takes the length of its name plus eight bytes, and becomes a `Path` only when it is used. This module does not
access the disk.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray


class ImagePaths(Sequence[Path]):
    """Paths below `root` in a fixed order; `paths[i]` is a `Path`, `paths.relative(i)` the POSIX text relative to root."""

    __slots__ = ("_block", "_ends", "root")

    def __init__(self, root: Path, relative: Iterable[str]) -> None:
        """Store `relative` (POSIX texts; absolute ones stay absolute) below `root`."""
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
        """Return the POSIX text of path `index`, relative to `root`.

        Raises:
            IndexError: there is no such path.
        """
        size = len(self._ends)
        if not -size <= index < size:
            raise IndexError(f"path {index} of {size}")
        index %= size
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._block[start : int(self._ends[index])])

    def relatives(self) -> Iterator[str]:
        """Yield all POSIX texts, in order."""
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
        """Return the paths at `indices` (n,), in that order."""
        return ImagePaths(self.root, (self.relative(i) for i in indices.tolist()))
