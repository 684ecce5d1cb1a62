"""Recognise files that are not weights although their name suggests it, such as the remains of a failed download.

The first bytes decide; nothing is unpacked.
"""

from pathlib import Path

_START_BYTES = 512


def impostor(path: Path) -> str | None:
    """Return what a file really is and what to do, as one or two sentences, or None if that is unknown.

    Args:
        path: a file that could not be read as weights.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
            file.seek(0, 2)
            size = file.tell()
    except OSError as error:
        return f"it cannot be opened ({error.strerror or error})."
    text = start.lstrip().lower()
    if not size:
        return "it is empty. Copy or download it again."
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, perhaps one that asks to confirm the download. Download the file itself."
    if text.startswith((b"{", b"[")):
        return "it is JSON text, not weights."
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or start[257:262] == b"ustar":
        return "it is an archive. Unpack it and give the file that it contains."
    if start.startswith(b"PK\x03\x04"):
        return "it is an incomplete or damaged zip archive. Copy or download it again."
    if not start.strip(b"\0"):
        return "it contains only zeros, probably because copying was interrupted. Copy it again."
    return None
