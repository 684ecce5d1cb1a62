"""Claims: one command at a time makes a file.

While a command works on a file it holds a lock on `.NAME.lock` beside it, which the operating system releases when the
process ends, however it ends: a lock file that is left behind by a killed process stops nobody. Where a file system has no
locks there is no claim, and only the exclusive creation of `atomic` remains.
"""

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from negprompt_cli.errors import UsageError

_LOCKS = importlib.util.find_spec("fcntl") is not None
"""Whether the system has Unix's file locks."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the claim on making `path`; the folder it goes to is made, and removed again if nothing came of it.

    Raises:
        UsageError: another process holds it; names the process.
    """
    lock = path.with_name(f".{path.name}.lock")
    made = _make_folders(path.parent)
    descriptor = _locked(lock, path)
    try:
        yield
    finally:
        if descriptor is not None:
            # Removed while it is held: whoever waits for it sees that the name is gone and makes a new one.
            with suppress(OSError):
                lock.unlink()
            os.close(descriptor)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and return what had to be made, the deepest first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    # What cannot be made is told by the command when it writes.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def _locked(lock: Path, path: Path) -> int | None:
    """The descriptor of a lock that is held, or None where there are no locks."""
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
                f"{path} is being made by {holder} at this moment. Wait until it is done, or choose another place.",
                remedy="busy",
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        with suppress(OSError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        os.close(descriptor)
