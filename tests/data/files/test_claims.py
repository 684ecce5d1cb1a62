"""One command at a time makes a file: a second one is refused, and what a killed one left behind stops nobody."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from negprompt_cli.data.files.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path):
    path = tmp_path / "run" / "negative.safetensors"
    other = holder(path)
    try:
        with pytest.raises(UsageError, match=f"process {other.pid} on"), claimed(path):
            raise AssertionError("both hold it")
        # Another file of the same run is free.
        with claimed(path.with_name("positive.safetensors")):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert [p.name for p in path.parent.iterdir()] == [".negative.safetensors.lock"]
    with claimed(path):
        path.write_bytes(b"made")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_within_one_process_too(tmp_path: Path):
    with claimed(tmp_path / "a"), pytest.raises(UsageError, match=f"process {os.getpid()}"), claimed(tmp_path / "a"):
        pass
    with claimed(tmp_path / "a"):
        pass


def test_a_full_disk_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with (
        claimed(tmp_path / "a"),
        pytest.raises(UsageError, match="another process is writing"),
        claimed(tmp_path / "a"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_nothing_are_removed(tmp_path: Path):
    with pytest.raises(ValueError, match="stop"), claimed(tmp_path / "a" / "b" / "c"):
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_take_turns(tmp_path: Path):
    script = """
import sys, time, random
from pathlib import Path
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.errors import UsageError
path, inside = Path(sys.argv[1]), Path(sys.argv[1] + ".inside")
got = 0
end = time.monotonic() + 20
while got < 40 and time.monotonic() < end:
    try:
        with claimed(path):
            inside.touch(exist_ok=False)  # raises where another one is inside
            time.sleep(0.0005)
            inside.unlink()
            got += 1
    except UsageError:
        time.sleep(random.random() * 0.001)
print(got)
"""
    commands = [[sys.executable, "-c", script, str(tmp_path / "a")] for _ in range(3)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["40"] * 3


def test_what_was_made_in_the_meantime_is_not_replaced(tmp_path: Path):
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"first", replace=False)
    with pytest.raises(UsageError, match="in the meantime"):
        atomic_write_bytes(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    atomic_write_bytes(path, b"third")
    assert path.read_bytes() == b"third"
