"""Read untrusted tar files, plain or compressed, member by member and in bounded memory.

Python's tarfile reads extended headers of any claimed length, keeps all members in memory, and decompresses without limit.
This module prevents all three.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

DAMAGED: tuple[type[Exception], ...] = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    # The libraries do not convert these errors if a header is invalid.
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
)
"""Exceptions, besides OSError, that reading a damaged tar file raises."""
MAX_RATIO, HARMLESS = 100, 1 << 30
"""An archive may decompress to MAX_RATIO times its size or to HARMLESS bytes, whichever is more."""
_MAX_READ = 16 << 20
"""Largest number of bytes read at once."""

_COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _Bounded(io.RawIOBase):
    """A decompressed stream that refuses to read more than `_MAX_READ` bytes at once, or more than `most` in total."""

    def __init__(self, stream: io.BufferedIOBase, most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("a header claims an impossible length")
        data = self._stream.read(size)
        if self._stream.tell() > self._most:
            raise tarfile.ReadError(f"it decompresses to more than {self._most / 2**30:.0f} GiB, too much for its size")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position in the stream."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the stream."""
        return self._stream.tell()


def decompressor(path: Path) -> Callable[[Path], io.BufferedIOBase] | None:
    """Return the class that opens a compressed file, chosen by its first bytes; None if it is not compressed.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), None)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar file of any compression, with the limits of this module.

    Raises:
        OSError, or one of `DAMAGED`: it cannot be read.
    """
    opener = decompressor(path)
    with path.open("rb") as file, opener(path) if opener else nullcontext(file) as stream:
        yield tarfile.open(fileobj=_Bounded(stream, most_bytes(path)), mode="r:")  # noqa: SIM115 - the stream is closed


def each_member(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file without keeping them in memory."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


def check_end(tar: tarfile.TarFile) -> None:
    """Check, after all members were read, that a tar file is complete. At damaged data tarfile just stops without an error.

    Raises:
        tarfile.ReadError: the block of zeros at the end of the tar file is missing.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end-of-archive mark is missing")


def most_bytes(archive: Path) -> int:
    """Return the largest number of bytes that an archive may decompress to."""
    return max(HARMLESS, MAX_RATIO * archive.stat().st_size)
