"""Unpacking an archive from the internet without trusting it.

Every member is looked at before the first is written: only plain files and folders whose names stay inside the target
are accepted, and their sizes must fit on the disk. Everything is unpacked beside the target and renamed at the end, so
the target is there whole or not at all. Owners, permissions and times in the archive are ignored.
"""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from negprompt_cli.data.progress import Progress
from negprompt_cli.errors import NegPromptError

_BLOCK = 1 << 20
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # an encrypted member, or a compression that zipfile does not know
)
_SPARE = 64 << 20
"""Bytes of disk space that are left free."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    folder: bool
    odd: str
    """What it is, if it is neither a file nor a folder."""


class _Archive(Protocol):
    def members(self) -> list[_Member]:
        """What is in the archive, in order."""

    def contents(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Name and content of each file, in order."""


class _Tar:
    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self) -> list[_Member]:
        with tarfile.open(self._path) as tar:
            members = [_Member(m.name, m.size, m.isdir(), _tar_kind(m)) for m in tar]
            # gzip's own checksum stands behind the last member and is only looked at when that is read.
            while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
                pass
            return members

    def contents(self) -> Iterator[tuple[str, IO[bytes]]]:
        with tarfile.open(self._path) as tar:
            for member in tar:
                if member.isfile() and (source := tar.extractfile(member)) is not None:
                    yield member.name, source


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self) -> list[_Member]:
        with zipfile.ZipFile(self._path) as archive:
            return [_Member(m.filename, m.file_size, m.is_dir(), _zip_kind(m)) for m in archive.infolist()]

    def contents(self) -> Iterator[tuple[str, IO[bytes]]]:
        with zipfile.ZipFile(self._path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as source:
                        yield member.filename, source


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isfile() or member.isdir():
        return ""
    return "a link" if member.issym() or member.islnk() else "a device or pipe"


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    return "" if stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or device"


def unpack(archive: Path, target: Path, *, progress: Progress) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip as the folder `target`, whole or not at all.

    A single top folder in the archive becomes `target` itself, whatever it is called.

    Args:
        archive: the file.
        target: a folder that does not exist yet.
        progress: is told how far it is.

    Raises:
        NegPromptError: not an archive or a damaged one, a member that is a link or device or that would land outside
            the target, or not enough space; nothing is left behind.
    """
    opened = _open(archive)
    with _clear_errors(archive):
        members = opened.members()
    top = _check(archive, members)
    check_space(target.parent, sum(member.size for member in members), what=f"Unpacking {archive.name}")
    partial = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _clear_errors(archive), progress.task(f"unpacking {archive.name}", len(members), "files") as task:
            partial.mkdir(parents=True)
            for member in members:
                if member.folder:
                    _place(partial, member.name, top).mkdir(parents=True, exist_ok=True)
                    task.advance()
            for name, source in opened.contents():
                place = _place(partial, name, top)
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
                task.advance()
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(archive: Path) -> _Archive:
    if zipfile.is_zipfile(archive):
        return _Zip(archive)
    if tarfile.is_tarfile(archive):
        return _Tar(archive)
    raise NegPromptError(f"{archive} is neither a tar nor a zip archive. Remove it and download again.")


@contextmanager
def _clear_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise NegPromptError(f"{archive} is damaged: {error}. Remove it and download again.") from error
    except OSError as error:
        raise NegPromptError(f"Unpacking {archive} failed: {error.strerror or error}. Nothing was kept.") from error


def _check(archive: Path, members: Iterable[_Member]) -> str:
    """Refuse dangerous members; return the single top folder of all members, or ''."""
    tops = set()
    files_on_top = False
    for member in members:
        path = PurePosixPath(member.name)
        if member.odd:
            raise NegPromptError(f"{archive} is refused: {member.name!r} is {member.odd}, not a plain file.")
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name.split("/")[0]:
            raise NegPromptError(f"{archive} is refused: {member.name!r} would be written outside the target folder.")
        if path.parts:
            tops.add(path.parts[0])
            files_on_top |= len(path.parts) == 1 and not member.folder
    return tops.pop() if len(tops) == 1 and not files_on_top else ""


def _place(folder: Path, name: str, top: str) -> Path:
    path = PurePosixPath(name)
    return folder.joinpath(*path.parts[1 if top else 0 :])


def check_space(folder: Path, needed: int, *, what: str) -> None:
    """Ask whether `needed` bytes fit on the disk of `folder` (or of the nearest folder above that exists).

    Raises:
        NegPromptError: they do not; says how much is missing.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE:
        raise NegPromptError(
            f"{what} needs {needed / 2**30:.2f} GiB in {folder}, but only {free / 2**30:.2f} GiB are free. "
            "Free space or choose another --data-root."
        )
