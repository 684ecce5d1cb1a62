"""Claims prevent two commands from making the same file at the same time.

While a command works on a file NAME, it holds a lock on `.NAME.lock` in the same folder. The operating system releases the
lock when the process ends, even after a crash, so an old lock file blocks nobody. On file systems without locks there are no
claims; the exclusive creation of `atomic` still applies.
"""

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from negprompt_cli.errors import UsageError

_LOCKS = importlib.util.find_spec("fcntl") is not None
"""Whether the operating system has Unix file locks."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the claim on `path`. Its folder is created, and removed again at the end if it is still empty.

    Raises:
        UsageError: another process holds the claim; the message names the process.
    """
    lock = path.with_name(f".{path.name}.lock")
    made = _make_folders(path.parent)
    descriptor = _locked(lock, path)
    try:
        yield
    finally:
        if descriptor is not None:
            # The file is removed while it is locked. A waiting process sees that the name is gone and creates a new file.
            with suppress(OSError):
                lock.unlink()
            os.close(descriptor)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents, and return those that were missing, deepest first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    # If this fails, the command reports it when it writes the file.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def _locked(lock: Path, path: Path) -> int | None:
    """Take the lock and return its file descriptor, or None if locks are not supported.

    Raises:
        UsageError: another process holds the lock.
    """
    if not _LOCKS:
        return None
    import fcntl

    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise UsageError(
                f"{holder} is writing {path} now. Wait until it has finished, or choose another path.",
                remedy="busy",
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        with suppress(OSError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                with suppress(OSError):  # Without the name on a full disk: the lock is held all the same.
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        os.close(descriptor)
