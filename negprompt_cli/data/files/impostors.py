"""Files that are not what their name says: what a download or a checkout leaves in the place of weights.

Told by their first bytes; nothing is unpacked.
"""

from pathlib import Path

_START_BYTES = 512


def impostor(path: Path) -> str | None:
    """What a file of weights really is and what to do about it, as one or two sentences, or None where that is not known.

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
        return "it is a pointer of Git LFS, not the file itself. Run `git lfs pull` where it was checked out."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, as a download that asks for a confirmation leaves it. Download the file itself."
    if text.startswith((b"{", b"[")):
        return "it is JSON text, not weights."
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or start[257:262] == b"ustar":
        return "it is an archive. Unpack it and give the file in it."
    if start.startswith(b"PK\x03\x04"):
        return "it is a zip archive that is cut short or damaged. Copy or download it again."
    if not start.strip(b"\0"):
        return "it holds zeros only, as an interrupted copy leaves it. Copy it again."
    return None
