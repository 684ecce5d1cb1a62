"""Unpack an untrusted archive from the internet.

All members are checked before the first is written. Only plain files and folders whose names stay inside the target are
accepted. Their number, and their size relative to the archive's, are limited: images are never compressed a hundredfold, but
archive bombs are. They must fit on the disk, and memory is limited to a few blocks. The archive is unpacked into a temporary
folder, which is renamed at the end. Owners, permissions and times in the archive are ignored. Files that systems add to
archives (`filekinds`: __MACOSX, ._photo.jpg, .DS_Store) are not unpacked.
"""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from negprompt_cli.data.files.tars import DAMAGED, each_member, most_bytes, open_tar
from negprompt_cli.data.sets.filekinds import system_name, system_part
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Progress

_BLOCK = 1 << 20
_DAMAGED: tuple[type[Exception], ...] = (
    *DAMAGED,
    zipfile.BadZipFile,
    RuntimeError,  # The archive is encrypted, or zipfile does not know its compression.
)
_SPARE = 64 << 20
"""Disk space that must remain free, in bytes."""
MAX_MEMBERS = 4_000_000
_MAX_NAME = 4096


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    folder: bool
    odd: str
    """The kind of the member if it is neither a file nor a folder."""


_Each = Iterator[tuple[_Member, Callable[[], IO[bytes]]]]
"""Members of an archive in order, each with a function that opens its content."""


def _tar_members(path: Path) -> _Each:
    with open_tar(path) as tar:
        for member in each_member(tar):
            content: Callable[[], Any] = partial(tar.extractfile, member)
            yield _Member(member.name, member.size, member.isdir(), _tar_kind(member)), content
        # The checksum of gzip follows the last member and is checked only when it is read.
        while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
            pass


def _zip_members(path: Path) -> _Each:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            content = partial(archive.open, member)
            yield _Member(member.filename, member.file_size, member.is_dir(), _zip_kind(member)), content


def _listed(archive: Path, members: _Each) -> list[_Member]:
    """Return the members without their contents.

    Raises:
        NegPromptError: there are too many members, or they are too large together.
    """
    most = most_bytes(archive)
    listed: list[_Member] = []
    size = 0
    for member, _ in members:
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
    """Unpack a .tar, .tar.gz, .tgz or .zip atomically as the folder `target`.

    If the archive has a single top folder, that folder becomes `target`.

    Args:
        archive: the file.
        target: a folder that does not exist yet.
        progress: receives progress messages.

    Raises:
        NegPromptError: the file is not an archive or is damaged; a member is a link or a device or would be outside the
            target; or there is not enough disk space. Temporary files are removed.
    """
    each = _reader(archive)
    with _clear_errors(archive):
        listed = _listed(archive, each(archive))
    members = [member for member in listed if not _is_systems(member.name, folder=member.folder)]
    top = _check(archive, listed, members)
    check_space(target.parent, sum(member.size for member in members), what=f"Unpacking {archive.name}")
    unfinished = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with _clear_errors(archive), progress.task(f"Unpacking {archive.name}", len(members), "files") as task:
            unfinished.mkdir(parents=True)
            for member, content in each(archive):
                if _is_systems(member.name, folder=member.folder):
                    continue
                place = _place(unfinished, member.name, top)
                (place if member.folder else place.parent).mkdir(parents=True, exist_ok=True)
                if not member.folder:
                    with content() as source, place.open("wb") as file:
                        shutil.copyfileobj(source, file, _BLOCK)
                task.advance()
            unfinished.rename(target)
        if len(members) < len(listed):
            progress.say(
                f"{len(listed) - len(members)} members of {archive.name} were left out: systems and editors made them"
            )
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _reader(archive: Path) -> Callable[[Path], _Each]:
    if zipfile.is_zipfile(archive):
        return _zip_members
    with suppress(*_DAMAGED, OSError), open_tar(archive):
        return _tar_members
    raise NegPromptError(f"{archive} is neither a tar nor a zip archive. Remove it and download again.")


@contextmanager
def _clear_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise NegPromptError(f"{archive} is damaged: {error}. Remove it and download again.") from error
    except OSError as error:
        raise NegPromptError(
            f"Cannot unpack {archive}: {error.strerror or error}. Temporary files were removed."
        ) from error


def _is_systems(name: str, *, folder: bool) -> bool:
    """Whether a system made a member or one of its folders."""
    name = name.rstrip("/")
    return bool(system_part(name) or (folder and system_name(PurePosixPath(name).name, folder=True)))


def _check(archive: Path, listed: Iterable[_Member], members: Iterable[_Member]) -> str:
    """Check all `listed` members, and return the single top folder of `members`, or ''.

    Raises:
        NegPromptError: a member is dangerous.
    """
    for member in listed:
        path = PurePosixPath(member.name)
        if member.odd:
            raise NegPromptError(f"{archive} is refused: {member.name!r} is {member.odd}, not a plain file.")
        if "\0" in member.name or len(member.name) > _MAX_NAME:
            raise NegPromptError(f"{archive} is refused: {member.name[:100]!r}... is not a valid file name.")
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
    """Check that `needed` bytes fit on the disk of `folder` (or of the nearest existing folder above it).

    Raises:
        NegPromptError: there is not enough space; the message has both numbers.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE:
        raise NegPromptError(
            f"{what} needs {needed / 2**30:.2f} GiB in {folder}, but only {free / 2**30:.2f} GiB are free.",
            remedy="data-root",
        )
