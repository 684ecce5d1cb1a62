"""Images in tar files, including WebDataset shards. Headers are read to find images; nothing is unpacked.

The name of a member decides whether it is an image, as for files in a folder. In WebDataset shards the files of a sample
follow each other and share a key, which is their name up to its first dot: `000001.jpg`, `000001.cls`. A sample's class is
in `.cls` (a number or a name) or in a field of `.json`. An image of a second kind (`000001.seg.png`) is not an image of the
set. For each image of a tar file only its position is kept, in 32 bytes. A compressed tar file must be decompressed from
its beginning to the position, so reading images in order is fastest.
"""

import hashlib
import json
import posixpath
import tarfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedIOBase
from itertools import groupby
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.data.files.tars import DAMAGED, check_end, decompressor, each_member, open_tar
from negprompt_cli.data.sets.filekinds import LeftOut, is_image_name, reason_for, system_part
from negprompt_cli.data.sets.image_records import labelled
from negprompt_cli.errors import UsageError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""Suffixes of supported tar files."""
_UNREADABLE: tuple[type[Exception], ...] = (*DAMAGED, OSError)
MOST_BYTES = 1 << 30
"""Largest image."""
_MOST_LABEL = 1 << 20
"""Largest .cls or .json of a sample."""


@dataclass(frozen=True)
class Sample:
    """An image of a tar file: its name there (POSIX text), and the number or name of its class if known."""

    name: str
    label: int | None = None
    class_name: str = ""


@dataclass
class _Member:
    name: str
    label: bytes | None = None


def samples(shard: Path, left_out: LeftOut, *, labels: bool) -> Iterator[Sample]:
    """Yield the images of a tar file in order, while its headers are read.

    Args:
        shard: the file.
        left_out: counts what is not an image.
        labels: whether to read the classes of samples from .cls and .json.

    Raises:
        UsageError: the file cannot be read or is damaged, or a class in it is invalid.
    """
    try:
        with open_tar(shard) as tar:
            images = tars = 0
            named = ((name, member) for member in each_member(tar) if (name := _name(member)))
            for _, group in groupby(named, lambda pair: _key(pair[0])):
                # The class is read before the next header.
                members = [_Member(name, _label(tar, member) if labels else None) for name, member in group]
                tars += sum(member.name.lower().endswith(SUFFIXES) for member in members)
                for sample in _sample(shard, members, left_out):
                    images += 1
                    yield sample
            check_end(tar)
            if tars and not images:
                raise UsageError(
                    f"{shard} contains {tars} tar files and no images, like ImageNet's training archive. Unpack it, and "
                    "give the tar files that it contains."
                )
    except _UNREADABLE as error:
        raise unreadable(shard, error) from error


def unreadable(shard: Path, error: Exception) -> UsageError:
    """Make the error for a tar file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return UsageError(
        f"{shard} cannot be read as a tar file ({reason}). It may be incomplete. Copy or download it again."
    )


def read(shard: Path, name: str) -> bytes:
    """Return the content of an image.

    Raises:
        OSError: there is no such member, or it cannot be read.
    """
    stat = shard.stat()
    try:
        index = _index(shard, stat.st_size, stat.st_mtime_ns)
        offset, size = index.place(name)
        if size > MOST_BYTES:
            raise OSError(f"it has {size} bytes, which is too large for an image")
        opener = decompressor(shard)
        if opener is None:
            with shard.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        else:
            data = _decompress(shard, stat.st_size, stat.st_mtime_ns, offset, size)
    except DAMAGED as error:
        raise OSError(str(error) or type(error).__name__) from error
    if len(data) < size:
        raise OSError("the tar file ends before the end of this image")
    return data


def _name(member: tarfile.TarInfo) -> str:
    """Return the name of a member that is a file or a link; empty for other members and for names outside the archive."""
    plain = member.isreg() and not member.issparse()
    return _inside(member.name) if plain or member.islnk() or member.issym() else ""


def _inside(name: str) -> str:
    parts = name.split("/")
    return "" if ".." in parts else "/".join(part for part in parts if part not in ("", "."))


def _target(member: tarfile.TarInfo) -> str:
    """Return the name of the member that a link points to; empty if it points outside the tar file."""
    if member.islnk():
        return _inside(member.linkname)
    return _inside(posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname)))


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base[:1] + base[1:].partition(".")[0]


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if not member.isreg() or not member.name.endswith((".cls", ".json")) or member.size > _MOST_LABEL:
        return None
    content = tar.extractfile(member)
    return None if content is None else content.read(member.size)


def _sample(shard: Path, group: list[_Member], left_out: LeftOut) -> Iterator[Sample]:
    """Yield the images among the members with one key, with the class from the other members."""
    images = [member.name for member in group if is_image_name(_base(member.name))]
    if all(member.name.endswith((".cls", ".json", ".txt")) for member in group) and any(
        member.label is not None and member.name.endswith(".cls") for member in group
    ):
        raise UsageError(
            f"{shard}: {group[0].name} has a class, but the image of that sample is not next to it. In WebDataset shards "
            "the files of a sample follow each other. Write the tar file sorted by name."
        )
    plain = [name for name in images if _base(name)[1:].count(".") == 1]
    label, class_name = _class(shard, group)
    for member in group:
        name = member.name
        if pattern := system_part(name):
            left_out.add("system", pattern, f"{shard}/{name}")
        elif name not in images:
            reason, what = reason_for(_base(name), folder=False) or ("other", "")
            sibling = images and what in (".cls", ".json", ".txt")
            left_out.add("beside" if sibling else reason, what, f"{shard}/{name}")
        elif plain and name not in plain and len(group) > len(images):
            left_out.add("twin", PurePosixPath(name).suffix.lower(), f"{shard}/{name}")
        else:
            yield Sample(name, label, class_name)


def _class(shard: Path, group: list[_Member]) -> tuple[int | None, str]:
    number, name = None, ""
    for member in group:
        if member.label is None:
            continue
        text = member.label.decode("utf-8", "replace").strip()
        value: Any = text
        if member.name.endswith(".json"):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                raise UsageError(f"{shard}: {member.name} is not valid JSON.") from None
        found = labelled(value, f"{shard}: {member.name}")
        if found is not None:
            number, name = found[0] if number is None else number, name or found[1]
    return number, name


@dataclass(frozen=True)
class _Index:
    """The positions of the images in a tar file: sorted digests of their names (n,), and offsets and sizes (n,) in bytes."""

    digests: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def place(self, name: str) -> tuple[int, int]:
        """Return offset and size of a member.

        Raises:
            OSError: there is no such member, or several have that name, so that the name is ambiguous.
        """
        wanted = np.frombuffer(_digest(name), dtype="S16")[0]
        first, end = (int(np.searchsorted(self.digests, wanted, side=side)) for side in ("left", "right"))
        if end == first:
            raise OSError("the tar file has no such member")
        if end - first > 1:
            raise OSError(f"the tar file has {end - first} members of this name: write it again with a name for each")
        return int(self.offsets[first]), int(self.sizes[first])


@lru_cache(maxsize=64)
def _index(shard: Path, size: int, changed: int) -> _Index:
    digests, places = bytearray(), array("q")
    links: list[tuple[bytes, str]] = []
    with open_tar(shard) as tar:
        for member in each_member(tar):
            name = _name(member)
            if not name or not is_image_name(_base(name)):
                continue
            if member.islnk() or member.issym():
                links.append((_digest(name), _target(member)))
            else:
                digests += _digest(name)
                places.extend((member.offset_data, member.size))
    index = _sorted_index(digests, places)
    for digest, target in links:
        with suppress(OSError):  # Reading a link without a target later raises that there is no such member.
            places.extend(index.place(target))
            digests += digest
    return _sorted_index(digests, places) if links else index


def _sorted_index(digests: bytearray, places: "array[int]") -> _Index:
    keys = np.frombuffer(bytes(digests), dtype="S16")
    order = np.argsort(keys, kind="stable")
    table = np.frombuffer(places.tobytes(), dtype=np.int64).reshape(-1, 2)[order]
    return _Index(keys[order], table[:, 0], table[:, 1])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


_decompressing = Lock()


def _decompress(shard: Path, size: int, changed: int, offset: int, length: int) -> bytes:
    """Return bytes of a compressed tar file. Reading forward is fast; going back decompresses from the beginning."""
    with _decompressing:
        stream = _stream(shard, size, changed)
        try:
            stream.seek(offset)
            return stream.read(length)
        except BaseException:
            _stream.cache_clear()
            raise


@lru_cache(maxsize=1)
def _stream(shard: Path, size: int, changed: int) -> BufferedIOBase:
    opener = decompressor(shard)
    if opener is None:
        raise OSError("the file was changed: it is not compressed any more")
    return opener(shard)
