"""Tar files of other people, plain or compressed: member by member, in bounded memory, and nothing in them is trusted.

tarfile reads an extended header whole, however long the archive says it is, keeps every member it has seen, and unfolds a
compressed file without end; here it may do none of that.
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
    # What the libraries let through where a header is no header.
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
)
"""What reading a damaged tar file raises, beside OSError."""
MAX_RATIO, HARMLESS = 100, 1 << 30
"""An archive may unfold to so many times its size, or to so many bytes, whichever is more."""
_MAX_READ = 16 << 20
"""Most that is read at once."""

_COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _Gentle(io.RawIOBase):
    """A decompressed stream that refuses to be read a lot at once, or beyond `most` bytes."""

    def __init__(self, stream: io.BufferedIOBase, most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("a header claims to be longer than any is")
        data = self._stream.read(size)
        if self._stream.tell() > self._most:
            raise tarfile.ReadError(f"it unfolds to more than {self._most / 2**30:.0f} GiB, as no image set does")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as the stream does."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Where the stream is."""
        return self._stream.tell()


def decompressor(path: Path) -> Callable[[Path], io.BufferedIOBase] | None:
    """What opens a compressed file, told by its first bytes; None where it is not compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), None)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar file of any compression, read gently.

    Raises:
        OSError, or one of `DAMAGED`: it cannot be read.
    """
    opener = decompressor(path)
    with path.open("rb") as file, opener(path) if opener else nullcontext(file) as stream:
        yield tarfile.open(fileobj=_Gentle(stream, most_bytes(path)), mode="r:")  # noqa: SIM115 - the stream is closed


def each_member(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, which it does not keep in memory meanwhile."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


def check_end(tar: tarfile.TarFile) -> None:
    """Refuse a tar file that is cut short or damaged between members, once all were taken: tarfile just ends there.

    Raises:
        tarfile.ReadError: the block of zeros that ends a tar file is not there.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without the mark that ends a tar file")


def most_bytes(archive: Path) -> int:
    """Most bytes that an archive may unfold to."""
    return max(HARMLESS, MAX_RATIO * archive.stat().st_size)
