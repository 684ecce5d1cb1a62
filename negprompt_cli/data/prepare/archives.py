"""Unpacking an archive from the internet without trusting it.

Every member is looked at before the first is written: only plain files and folders whose names stay inside the target
are accepted. Their number, and their size beside the archive's, are bounded (images do not shrink a hundredfold, bombs
do), they must fit on the disk, and no header makes more than a few blocks be held in memory. Everything is unpacked
beside the target and renamed at the end, so the target appears complete or not at all. Owners, permissions and times in
the archive are ignored. What systems put into archives (`filekinds`: __MACOSX, ._photo.jpg, .DS_Store) is not unpacked.
"""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from negprompt_cli.data.files.tars import DAMAGED, each_member, most_bytes, open_tar
from negprompt_cli.data.sets.filekinds import system_name, system_part
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Progress

_BLOCK = 1 << 20
_DAMAGED: tuple[type[Exception], ...] = (
    *DAMAGED,
    zipfile.BadZipFile,
    RuntimeError,  # an encrypted member, or a compression that zipfile does not know
)
_SPARE = 64 << 20
"""Bytes of disk space that are left free."""
MAX_MEMBERS = 4_000_000
_MAX_NAME = 4096


@dataclass(frozen=True, slots=True)
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
        with open_tar(self._path) as tar:
            members = _listed(self._path, (_Member(m.name, m.size, m.isdir(), _tar_kind(m)) for m in each_member(tar)))
            # gzip's own checksum is after the last member and is only looked at when that is read.
            while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
                pass
            return members

    def contents(self) -> Iterator[tuple[str, IO[bytes]]]:
        with open_tar(self._path) as tar:
            for member in each_member(tar):
                if member.isfile() and (source := tar.extractfile(member)) is not None:
                    yield member.name, source


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self) -> list[_Member]:
        with zipfile.ZipFile(self._path) as archive:
            entries = archive.infolist()
            return _listed(self._path, (_Member(m.filename, m.file_size, m.is_dir(), _zip_kind(m)) for m in entries))

    def contents(self) -> Iterator[tuple[str, IO[bytes]]]:
        with zipfile.ZipFile(self._path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as source:
                        yield member.filename, source


def _listed(archive: Path, members: Iterable[_Member]) -> list[_Member]:
    """Members as a list, if there are not too many and the files are not too large together."""
    most = most_bytes(archive)
    listed: list[_Member] = []
    size = 0
    for member in members:
        listed.append(member)
        size += member.size
        if len(listed) > MAX_MEMBERS or size > most:
            many = f"{MAX_MEMBERS} files" if len(listed) > MAX_MEMBERS else f"{most / 2**30:.0f} GiB"
            raise NegPromptError(f"{archive} is refused: it decompresses to more than {many}, too much for its size.")
    return listed


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isfile() or member.isdir():
        return ""
    return "a link" if member.issym() or member.islnk() else "a device or pipe"


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    return "" if stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or device"


def unpack(archive: Path, target: Path, *, progress: Progress) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip as the folder `target` atomically: complete or not at all.

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
        listed = opened.members()
    members = [member for member in listed if not _is_systems(member.name, folder=member.folder)]
    top = _check(archive, listed, members)
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
                if _is_systems(name, folder=False):
                    continue
                place = _place(partial, name, top)
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
                task.advance()
            partial.rename(target)
        if len(members) < len(listed):
            progress.say(
                f"left out of {archive.name}: {len(listed) - len(members)} members made by systems and editors"
            )
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(archive: Path) -> _Archive:
    if zipfile.is_zipfile(archive):
        return _Zip(archive)
    with suppress(*_DAMAGED, OSError), open_tar(archive):
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


def _is_systems(name: str, *, folder: bool) -> bool:
    """Whether a member is made by a system, or is in a folder that is."""
    name = name.rstrip("/")
    return bool(system_part(name) or (folder and system_name(PurePosixPath(name).name, folder=True)))


def _check(archive: Path, listed: Iterable[_Member], members: Iterable[_Member]) -> str:
    """Refuse dangerous members among those `listed`; return the single top folder of `members`, or ''."""
    for member in listed:
        path = PurePosixPath(member.name)
        if member.odd:
            raise NegPromptError(f"{archive} is refused: {member.name!r} is {member.odd}, not a plain file.")
        if "\0" in member.name or len(member.name) > _MAX_NAME:
            raise NegPromptError(f"{archive} is refused: {member.name[:100]!r}... is no name of a file.")
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name.split("/")[0]:
            raise NegPromptError(f"{archive} is refused: {member.name!r} would be written outside the target folder.")
    tops = set()
    files_on_top = False
    for member in members:
        path = PurePosixPath(member.name)
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
            f"{what} needs {needed / 2**30:.2f} GiB in {folder}, but only {free / 2**30:.2f} GiB are free.",
            remedy="data-root",
        )
