"""Files that appear complete or not at all: written beside their place, synced, then renamed over it.

A crash, a full disk or Ctrl-C leaves whatever was there before untouched and no half-written file behind. A folder of
many files can be made so too, where there was none before.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from negprompt_cli.errors import NegPromptError, UsageError


def check_place(path: Path) -> None:
    """Refuse, before any work, a place for a file that is a folder or is below a file.

    Raises:
        UsageError: it is; names what is in the way.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file name.")
    for folder in path.parents:
        if folder.is_dir():
            return
        if folder.exists():
            raise UsageError(f"{path} cannot be written, because {folder} is a file and not a folder. Choose a folder.")


@contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it replaces `path`, on failure it is removed.

    The folder of `path` is made where it is missing. The temporary name keeps the suffix of `path`, because some
    writers choose the format by it. What the body raises is passed on, except that an OSError becomes the clear
    message below.

    Args:
        path: where the file shall be.
        replace: whether a file that is there by then may be replaced.

    Raises:
        NegPromptError: the file cannot be written (disk full, read-only, a folder in its place); names `path`.
        UsageError: without `replace`, the file is there by then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if replace or not _linked(temporary, path):
            temporary.replace(path)
    except OSError as error:
        raise NegPromptError(
            f"Cannot write {path}: {error.strerror or error}. "
            "Free space or choose another place; what was there before is unchanged."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file its name unless that is taken; False where a file system has no links and the name is free."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise UsageError(
            f"{path} was made by another command in the meantime, and is left as it is.", remedy="overwrite"
        ) from None
    except OSError:
        if path.exists():
            raise UsageError(f"{path} was made by another command in the meantime.", remedy="overwrite") from None
        return False
    return True


def atomic_write_bytes(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` to `path` atomically: complete or not at all.

    Raises:
        NegPromptError: the file cannot be written; names `path`.
        UsageError: without `replace`, the file is there by then.
    """
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str, *, replace: bool = True) -> None:
    r"""Write `text` to `path` as UTF-8 with `\n` line ends atomically: complete or not at all.

    Raises:
        NegPromptError: the file cannot be written; names `path`.
        UsageError: without `replace`, the file is there by then.
    """
    atomic_write_bytes(path, text.encode("utf-8"), replace=replace)


@contextmanager
def atomic_folder(folder: Path, *, replacing: bool = False) -> Iterator[Path]:
    """Yield a folder beside `folder` to fill; on success it becomes `folder`, on failure it is removed.

    Args:
        folder: absent or empty.
        replacing: `folder` may hold anything, which is removed once the new one is in its place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    before = temporary.with_name(f"{temporary.name}-before")
    try:
        yield temporary
        # Temporary folders are private, others may have to read this one.
        temporary.chmod(0o755)
        if folder.is_dir():
            if replacing:
                folder.rename(before)
            else:
                folder.rmdir()
        temporary.replace(folder)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        if before.is_dir() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
