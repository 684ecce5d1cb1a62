"""Write files atomically: write a temporary file in the same folder, sync it, then rename it over the target.

A crash, a full disk or Ctrl-C leaves the previous file unchanged and no incomplete file. Folders can be written in the
same way.
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
    """Check, before any work, that a file can be written at `path`.

    Raises:
        UsageError: `path` is a folder, or one of its parents is a file.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give a file name.")
    for folder in path.parents:
        if folder.is_dir():
            return
        if folder.exists():
            raise UsageError(f"Cannot write {path}: {folder} is a file, not a folder. Choose another path.")


@contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it replaces `path`, on failure it is removed.

    A missing folder is created. The temporary name keeps the suffix of `path`, because some writers choose the format by
    it. Errors of the body are passed on, except that an OSError becomes a NegPromptError.

    Args:
        path: the file to write.
        replace: whether an existing file may be replaced.

    Raises:
        NegPromptError: `path` cannot be written (disk full, read-only, a folder of that name).
        UsageError: `replace` is False and `path` exists when the file is complete.
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
            "Free disk space or choose another path. An existing file is unchanged."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _linked(temporary: Path, path: Path) -> bool:
    """Link `temporary` as `path` if that does not exist; return False if the file system does not support links.

    Raises:
        UsageError: `path` exists.
    """
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise UsageError(
            f"Another command has created {path} in the meantime. That file is unchanged.", remedy="overwrite"
        ) from None
    except OSError:
        if path.exists():
            raise UsageError(f"Another command has created {path} in the meantime.", remedy="overwrite") from None
        return False
    return True


def atomic_write_bytes(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` to `path` atomically. `replace` and errors are those of `atomic_path`."""
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str, *, replace: bool = True) -> None:
    r"""Write `text` to `path` atomically, as UTF-8 with `\n` line ends. `replace` and errors are those of `atomic_path`."""
    atomic_write_bytes(path, text.encode("utf-8"), replace=replace)


@contextmanager
def atomic_folder(folder: Path, *, replacing: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it is renamed to `folder`, on failure it is removed.

    Args:
        folder: the folder to write; it must not exist or must be empty.
        replacing: whether `folder` may have any content; it is removed after the new folder is in place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    before = temporary.with_name(f"{temporary.name}-before")
    try:
        yield temporary
        # Temporary folders are private, but other users may need to read this one.
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
