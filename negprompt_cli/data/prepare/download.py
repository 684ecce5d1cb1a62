"""Download data sets whose addresses are in the catalogue.

An interrupted download is resumed (HTTP Range). The md5 is checked before unpacking. The sha256 is recorded in
`downloads.json` in the data root, and later downloads of the same address must have it. Only http and https are allowed.
Sets that need a login or are on a shared drive are not downloaded; the error says what to get and where to put it.
`archives` unpacks archives.
"""

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from negprompt_cli._version import __version__
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.prepare.archives import check_space, unpack
from negprompt_cli.data.sets.catalogue import Catalogue, Download, Entry
from negprompt_cli.data.sets.sources import locate
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Progress

RECORD = "downloads.json"
"""Name of the file in the data root that records the sha256 of downloads."""

_BLOCK = 1 << 18
_ATTEMPTS = 4
_MEBI = 1 << 20


@dataclass(frozen=True)
class Downloaded:
    """A data set that is now on disk."""

    name: str
    folder: Path
    url: str
    size: int
    """Size of the archive in bytes."""
    md5: str
    sha256: str


def download_set(
    name: str,
    *,
    data_root: Path,
    sets: Catalogue,
    progress: Progress,
    keep_archive: bool = False,
    timeout: float = 60.0,
    pause: Callable[[float], None] = time.sleep,
) -> Downloaded | None:
    """Download catalogue set `name`, check it and unpack it below the data root.

    Args:
        name: a catalogue name.
        data_root: created if it does not exist.
        sets: the catalogue.
        progress: receives progress messages.
        keep_archive: whether to keep the archive in the data root after unpacking.
        timeout: seconds without data after which a connection counts as lost.
        pause: function that waits some seconds between attempts.

    Returns:
        The result, or None if the set exists already in one of its layouts.

    Raises:
        UsageError: the name is unknown, or the set must be downloaded by hand (the message says how).
        NegPromptError: there is no connection, a wrong checksum, an unsafe archive or not enough space. At most the
            downloaded part of the archive remains in the data root, for the next attempt.
    """
    name, entry = sets.named(name)
    if entry.download is None:
        raise UsageError(by_hand(name, entry, data_root))
    target = data_root / entry.download.makes
    if target.exists() or locate(name, "ood", data_root, sets) is not None:
        return None
    called = PurePosixPath(urlsplit(entry.download.url).path).name
    archive = data_root / (f"{name}.archive" if called in ("", "..") else called)
    _fetch(entry.download, archive, progress=progress, timeout=timeout, pause=pause)
    size = archive.stat().st_size
    md5, sha256 = _checksums(archive)
    _verify(entry.download, archive, md5, sha256, data_root)
    unpack(archive, target, progress=progress)
    _record(data_root, name, {"url": entry.download.url, "bytes": size, "md5": md5, "sha256": sha256})
    if not keep_archive:
        archive.unlink()
    return Downloaded(name, target, entry.download.url, size, md5, sha256)


def by_hand(name: str, entry: Entry, data_root: Path) -> str:
    """Return instructions for a set that cannot be downloaded automatically: what to get and where to put it."""
    if entry.subset is not None:
        return f"{name} consists of classes of {entry.subset.of}, so it is available when {entry.subset.of} is on disk."
    places = "".join(f"\n  {data_root / (at.images or at.eval or at.train or '')} ({at.by})" for at in entry.layouts)
    where = (
        f"\nPut it into one of these places:{places}" if places else f"\nPut it into {data_root}, as torchvision does."
    )
    return f"{name} cannot be downloaded automatically. {entry.fetch or ''}{where}"


def _fetch(
    wanted: Download, archive: Path, *, progress: Progress, timeout: float, pause: Callable[[float], None]
) -> None:
    """Download `wanted` to `archive` in several attempts; each resumes from the .part file.

    Raises:
        UsageError: the address is not http or https.
        NegPromptError: all attempts failed, or the file cannot be written.
    """
    if urlsplit(wanted.url).scheme not in ("http", "https"):
        raise UsageError(f"Only http and https addresses are downloaded, not {wanted.url}.")
    if archive.exists():
        return
    part = archive.with_name(archive.name + ".part")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_ATTEMPTS):
            if attempt:
                pause(2.0**attempt)
            try:
                _fetch_once(wanted, part, progress=progress, timeout=timeout)
                part.replace(archive)
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise NegPromptError(f"{wanted.url}: the server answers {error.code} {error.reason}.") from error
                reason = f"the server answers {error.code} {error.reason}"
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            progress.warn(f"{wanted.url}: {reason}")
    except OSError as error:
        raise NegPromptError(f"Cannot write {part}: {error.strerror or error}.") from error
    kept = f" {part.stat().st_size / _MEBI:.1f} MiB are saved in {part}." if part.exists() else ""
    raise NegPromptError(f"Cannot download {wanted.url}: {reason}.{kept} Run the command again to resume.")


def _fetch_once(wanted: Download, part: Path, *, progress: Progress, timeout: float) -> None:
    """Append the missing bytes to `part`, over one connection.

    Raises:
        ConnectionError: the answer ends early, or does not fit the saved part.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(wanted.url, headers={"User-Agent": f"negprompt/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if _total(error.headers, 0) == have:
                return
            part.unlink()
            raise ConnectionError("the saved part does not fit the file on the server, so it was removed") from error
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT and _starts_at(answer.headers, have)
        have = have if resumed else 0
        total = _total(answer.headers, have) or wanted.size
        if total:
            check_space(part.parent, total - have, what=f"Downloading {wanted.url}")
        with (
            part.open("ab" if resumed else "wb") as file,
            progress.task(f"Downloading {part.name.removesuffix('.part')}", (total or 0) // _MEBI, "MiB") as task,
        ):
            task.advance(have // _MEBI)
            while block := answer.read(_BLOCK):
                file.write(block)
                task.advance((have + len(block)) // _MEBI - have // _MEBI)
                have += len(block)
        if total and have < total:
            raise ConnectionError(f"the connection ended after {have} of {total} bytes")
        if total and have > total:
            part.unlink()
            raise ConnectionError(f"the server sent {have} bytes instead of {total}")


def _starts_at(headers: Message, position: int) -> bool:
    """Whether a partial answer begins at the requested position; servers may send another range."""
    return str(headers.get("Content-Range", "")).startswith(f"bytes {position}-")


def _total(headers: Message, have: int) -> int | None:
    """Return the size of the whole file, or None if the answer does not state it."""
    span = str(headers.get("Content-Range", ""))
    if "/" in span:
        total = span.rsplit("/", 1)[1]
        return int(total) if total.isdigit() else None
    length = str(headers.get("Content-Length", ""))
    return int(length) + have if length.isdigit() else None


def _checksums(archive: Path) -> tuple[str, str]:
    """Return md5 (for integrity only) and sha256 of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(_BLOCK):
            md5.update(block)
            sha256.update(block)
    return md5.hexdigest(), sha256.hexdigest()


def _verify(wanted: Download, archive: Path, md5: str, sha256: str, data_root: Path) -> None:
    """Compare an archive's checksums with the catalogue and with an earlier download; remove it if they differ.

    Raises:
        NegPromptError: a checksum differs.
    """
    if wanted.md5 is not None and md5 != wanted.md5:
        archive.unlink()
        raise NegPromptError(
            f"{wanted.url} has the md5 {md5}, but {wanted.md5} is expected. The file was removed; nothing was unpacked. Try "
            "again. If the md5 is the same, the file on the server has changed."
        )
    earlier = next((r for r in _read_record(data_root).values() if r.get("url") == wanted.url), None)
    if earlier is not None and earlier.get("sha256") != sha256:
        archive.unlink()
        raise NegPromptError(
            f"{wanted.url} has the sha256 {sha256}, but an earlier download had {earlier.get('sha256')} (recorded in "
            f"{data_root / RECORD}). The file was removed; nothing was unpacked."
        )


def _read_record(data_root: Path) -> dict[str, dict[str, Any]]:
    path = data_root / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NegPromptError(f"{path} cannot be read: {error}. Repair or remove it.") from error
    if not isinstance(record, dict) or not all(isinstance(value, dict) for value in record.values()):
        raise NegPromptError(f"{path} is not a valid record of downloads. Repair or remove it.")
    return record


def _record(data_root: Path, name: str, facts: dict[str, Any]) -> None:
    record = {**_read_record(data_root), name: facts}
    atomic_write_text(data_root / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
