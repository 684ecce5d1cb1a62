"""Faults of the machine, each really caused: full disks, read-only folders, killed processes, no network, odd locales.

What is looked at each time: one message that names what happened and the fix, the exit code, no hang, no traceback, and
what is left on disk. Faults that other tests cause: a damaged cache file (`test_feature_cache`), cut connections and
archives (`test_data_download`), an interrupted encode and a vanished file (`test_features`), a crash at any byte of a row
file (`test_score`), a reader that goes away (`test_score`).
"""

import csv
import importlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from data_trees import class_tree, jpeg, write
from processes import SERVER
from recorder import Recorder
from scoring_world import NAMES, calibrated, make_prompts, run, write_artifact, write_images

from negprompt_cli.cli.faults import explain
from negprompt_cli.data.encoding import features as features_module
from negprompt_cli.data.encoding.feature_cache import FeatureStore, StoreKey, image_keys
from negprompt_cli.data.encoding.features import EncodeOptions, encode_images
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.prepare.check import check_data
from negprompt_cli.data.results.artifacts import load_prompts, save_prompts
from negprompt_cli.data.results.sorting import sort_image
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Silent

KEY = StoreKey("model", "0" * 64, "preprocessing", "float32")
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
LONG = 120.0
"""Seconds after which a command that should have ended counts as hanging."""


@pytest.fixture(scope="module")
def artifact(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(calibrated(make_prompts(clip), 0.4), tmp_path_factory.mktemp("run") / "negative.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, name in enumerate(NAMES):
        write_images(folder / name.replace(" ", "_"), 4, seed=i)
    return folder


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


def negprompt(*arguments: object, prefix: str = "", **environment: str) -> Result:
    """Run the command in a process of its own, `prefix` (shell) before it; never hang."""
    words = " ".join(f'"${{{i}}}"' for i in range(1, len(arguments) + 1))
    line = ["bash", "-c", f"{prefix}{sys.executable} -m negprompt_cli {words}", "bash", *(str(a) for a in arguments)]
    ran = subprocess.run(line, capture_output=True, env={**ENVIRONMENT, **environment}, timeout=LONG)
    return Result(ran.returncode, _text(ran.stdout), _text(ran.stderr))


def here(*arguments: object) -> Result:
    """Run the command in this process."""
    ran = run(*arguments)
    return Result(ran.exit_code, ran.stdout, ran.stderr)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def complains(ran: Result, code: int, *says: str) -> None:
    """One clear message, the exit code, no traceback and no blame on the program."""
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    assert "This is a bug" not in ran.err
    message = ran.err[ran.err.index("error: ") :]
    for text in says:
        assert text in message, message


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """RLIMIT_FSIZE for this process: writing beyond it fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`tiny_disk(options)` mounts a small file system in memory; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    if os.name != "posix" or shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder that cannot be written to: without write permission, or for root, whom that does not bind, mounted so."""
    if os.geteuid():
        folder = tmp_path / "read-only"
        folder.mkdir(mode=0o555)
        return folder
    mount: Callable[[str], Path] = request.getfixturevalue("tiny_disk")
    return mount("ro,size=64k")


def left(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones included."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# A full disk


def test_an_artifact_on_a_full_disk(clip: Clip, tiny_disk: Callable[[str], Path]) -> None:
    disk = tiny_disk("size=4k")
    out = disk / "run" / "negative.safetensors"
    with pytest.raises(NegPromptError, match=r"Cannot write .*negative\.safetensors: No space left on device"):
        save_prompts(make_prompts(clip), out)
    assert left(disk) == []


def test_what_was_there_before_outlives_a_full_disk(
    clip: Clip, tiny_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    size = write_artifact(make_prompts(clip), tmp_path / "size.safetensors").stat().st_size
    disk = tiny_disk(f"size={4 * (-(-size // 4096) + 1)}k")
    out = disk / "negative.safetensors"
    before = save_prompts(make_prompts(clip), out)
    with pytest.raises(NegPromptError, match="No space left"):
        save_prompts(make_prompts(clip, negatives=3), out)
    assert load_prompts(out).sha256 == before.sha256
    assert left(disk) == ["negative.safetensors"]


def test_the_feature_cache_on_a_full_disk(
    clip: Clip, images: Path, tiny_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tiny_disk("size=4k")
    monkeypatch.setenv("NEGPROMPT_CACHE", str(disk))
    photos = load_image_set(str(images), role="ood", data_root=images)
    with pytest.raises(NegPromptError, match=r"No space left.*NEGPROMPT_CACHE=FOLDER"):
        encode_images(clip, photos, EncodeOptions(workers=0), Silent())
    assert [name for name in left(disk) if name.endswith(".safetensors")] == []
    assert len(encode_images(clip, photos, EncodeOptions(workers=0, cache=False), Silent())) == len(photos)


def test_a_command_whose_file_does_not_fit_leaves_nothing(artifact: Path, clip: Clip, tmp_path: Path) -> None:
    names = write(tmp_path / "novel.txt", b"blue star\n")
    arguments = ("transfer", "--classes", names, "--prompts", artifact, "--run", tmp_path / "run")
    with no_file_larger_than(3000):
        complains(here(*arguments), 1, "Cannot write", "File too large", "Free disk space")
    assert left(tmp_path / "run") == []
    assert here(*arguments).code == 0
    made = tmp_path / "run" / "transfer-novel.safetensors"
    before, files = made.read_bytes(), left(tmp_path / "run")
    with no_file_larger_than(3000):
        complains(here(*arguments, "--overwrite"), 1, "An existing file is unchanged")
    assert made.read_bytes() == before
    assert left(tmp_path / "run") == files


def test_rows_on_a_full_disk_are_gone_on_with(artifact: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "rows.csv"
    arguments = ("score", "--prompts", artifact, "--out", out, "--image-batch", "1", images)
    with no_file_larger_than(700):
        complains(here(*arguments), 1, "Cannot write", "File too large", "--append")
    assert left(out.parent) == ["rows.csv.part"]
    assert here(*arguments, "--append").code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert sorted(row["path"] for row in rows) == sorted(str(p) for p in images.rglob("*.png"))
    assert all(row["score"] for row in rows)
    assert left(out.parent) == ["rows.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["config", "show"]], ids=" ".join)
def test_standard_output_on_a_full_disk(arguments: list[str]) -> None:
    complains(negprompt(*arguments, prefix="exec >/dev/full; "), 1, "No space left on device")


def test_a_copy_on_a_full_disk_leaves_no_part(tiny_disk: Callable[[str], Path], tmp_path: Path) -> None:
    disk = tiny_disk("size=8k")
    photo = write(tmp_path / "photo.jpg", bytes(100_000))
    with pytest.raises(NegPromptError, match="No space left"):
        sort_image(photo, disk, prediction="cat", is_ood=False, copy=True)
    assert left(disk) == []


# A folder that cannot be written to


def test_a_run_folder_that_is_read_only(artifact: Path, read_only: Path, tmp_path: Path) -> None:
    names = write(tmp_path / "novel.txt", b"blue star\n")
    ran = here("transfer", "--classes", names, "--prompts", artifact, "--run", read_only / "run")
    complains(ran, 1, "Cannot write", "choose another path")
    assert list(read_only.iterdir()) == []


def test_a_cache_that_is_read_only(
    artifact: Path, images: Path, read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEGPROMPT_CACHE", str(read_only))
    arguments = (
        "evaluate",
        "--prompts",
        artifact,
        "--run",
        tmp_path / "run",
        "--data",
        images,
        "--ood",
        images / "red_circle",
    )
    complains(here(*arguments), 1, "feature cache", "NEGPROMPT_CACHE=FOLDER", "--no-cache")
    assert not (tmp_path / "run").exists()
    ran = here(*arguments, "--no-cache")
    assert ran.code == 0, ran.err


def test_a_damaged_shard_in_a_cache_that_is_read_only(tiny_disk: Callable[[str], Path]) -> None:
    disk = tiny_disk("size=1m")
    store = FeatureStore(KEY, progress=Silent(), root=disk)
    store.add([b"\0" * 16], torch.ones(1, 3))
    store.add([b"\1" * 16], torch.zeros(1, 3))
    shard = sorted(disk.rglob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-3])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    listener = Recorder()
    _, known = FeatureStore(KEY, progress=listener, root=disk).get([b"\0" * 16, b"\1" * 16])
    assert known.sum() == 1
    assert len(listener.warned) == 1


# The cache, several processes at once


def fill(root: Path, me: int, rounds: int) -> None:
    """What a process does that encodes images: it looks what is there and adds, again and again."""
    listener = Recorder()
    for number in range(rounds):
        store = FeatureStore(KEY, progress=listener, root=root)
        rows = [100 * me + number, 100 * (1 - me) + number, 1000 + number]
        store.add(keys_of(rows), torch.tensor([[float(row)] * 30_000 for row in rows]))
    if listener.warned:
        raise SystemExit(1)


def keys_of(rows: Iterable[int]) -> list[bytes]:
    return [row.to_bytes(16, "big") for row in rows]


def test_two_processes_fill_one_cache_at_once(tmp_path: Path) -> None:
    rounds = 15
    fillers = [SERVER.Process(target=fill, args=(tmp_path, me, rounds)) for me in (0, 1)]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join(LONG)
        assert filler.exitcode == 0
    listener = Recorder()
    rows = [*range(rounds), *range(100, 100 + rounds), *range(1000, 1000 + rounds)]
    features, known = FeatureStore(KEY, progress=listener, root=tmp_path).get(keys_of(rows))
    assert known.all()
    assert features is not None
    assert features[:, 0].tolist() == rows
    assert listener.warned == []


def test_a_shard_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    FeatureStore(KEY, progress=Silent(), root=tmp_path).add([b"\0" * 16], torch.ones(1, 3))
    (shard,) = tmp_path.rglob("*.safetensors")
    half = write(shard.with_name(f".{shard.stem}.00aa.tmp.safetensors"), shard.read_bytes()[:40])
    listener = Recorder()
    _, known = FeatureStore(KEY, progress=listener, root=tmp_path).get([b"\0" * 16])
    assert known.all()
    assert listener.warned == []
    assert half.exists()


def test_a_process_killed_while_it_fills_the_cache_loses_only_what_it_was_writing(tmp_path: Path) -> None:
    filler = SERVER.Process(target=fill, args=(tmp_path, 0, 10_000))
    filler.start()
    deadline = time.monotonic() + LONG
    while len(list(tmp_path.rglob("*/[!.]*.safetensors"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    filler.kill()
    filler.join()
    listener = Recorder()
    _, known = FeatureStore(KEY, progress=listener, root=tmp_path).get(keys_of(range(4)))
    assert known.all()
    assert listener.warned == []


# Data that change while they are read


def test_images_that_go_after_they_were_listed(clip: Clip, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 5)
    photos = load_image_set(str(tmp_path / "photos"), role="ood", data_root=tmp_path)
    decode = features_module.image_keys

    def keys_and_then_gone(paths: list[Path]) -> list[bytes]:
        keys = decode(paths)
        (tmp_path / "photos" / "002.png").unlink()
        return keys

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features_module, "image_keys", keys_and_then_gone)
        with pytest.raises(BrokenImage, match=r"002\.png: there is no such file"):
            encode_images(clip, photos, EncodeOptions(workers=0), Silent())
    write_images(tmp_path / "photos", 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features_module, "image_keys", keys_and_then_gone)
        encoded = encode_images(clip, photos, EncodeOptions(workers=0, on_error="skip"), Silent())
    assert len(encoded) == 4
    assert [Path(p).name for p in encoded.skipped] == ["002.png"]


def test_an_image_that_changes_is_not_remembered_as_what_it_was(clip: Clip, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "photos", 1, seed=1)
    photos = load_image_set(str(tmp_path / "photos"), role="ood", data_root=tmp_path)
    first = encode_images(clip, photos, EncodeOptions(workers=0), Silent()).features
    write_images(tmp_path / "photos", 1, seed=2)
    os.utime(path, (1, 1))
    second = encode_images(clip, photos, EncodeOptions(workers=0), Silent()).features
    assert not torch.equal(first, second)


def test_a_class_folder_that_goes_while_it_is_checked(tmp_path: Path) -> None:
    class_tree(tmp_path / "set", {"cat": 2, "dog": 2}, decodable=True)

    class Vandal(Silent):
        def task(self, title: str, total: int, unit: str, *, at_most: bool = False):  # type: ignore[no-untyped-def]
            shutil.rmtree(tmp_path / "set" / "dog", ignore_errors=True)
            return super().task(title, total, unit)

    report = check_data(str(tmp_path / "set"), data_root=tmp_path, progress=Vandal())
    assert report.decoded == 4


@pytest.mark.parametrize("year", [1901, 1970, 2100, 2400])
def test_odd_times_of_files(year: int, clip: Clip, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "photos", 1)
    when = int((year - 1970) * 365.2425 * 86400)
    os.utime(path, (when, when))
    photos = load_image_set(str(tmp_path / "photos"), role="ood", data_root=tmp_path)
    once = encode_images(clip, photos, EncodeOptions(workers=0), Silent()).features
    assert torch.equal(encode_images(clip, photos, EncodeOptions(workers=0), Silent()).features, once)
    assert len(image_keys([path])) == 1


# Processes that are killed, memory that runs out


def grandchildren() -> set[int]:
    """Processes that were forked from a server of this one."""
    return {pid for child in children(os.getpid()) for pid in children(child)}


def children(pid: int) -> list[int]:
    """Processes that `pid` started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("step", ["score", "evaluate"])
def test_a_decoding_worker_that_is_killed(step: str, artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for i, name in enumerate(NAMES):
        write_images(folder / name.replace(" ", "_"), 60, seed=i)
    out = tmp_path / "out"
    arguments = [step, "--prompts", artifact, "--workers", "2", "--image-batch", "1"]
    if step == "score":
        arguments += [folder, "--out", out / "rows.csv"]
    else:
        arguments += ["--data", folder, "--ood", folder / "red_circle", "--run", out]
    before = grandchildren()
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + LONG
        while not killed and time.monotonic() < deadline:
            for worker in grandchildren() - before:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    ran = here(*arguments)
    killer.join()
    complains(ran, 1, "decodes images was killed", "fewer --workers")
    assert not (out / "rows.csv").exists()
    assert not (out / "evaluation.json").exists()


def test_a_device_without_memory_for_one_image(
    artifact: Path, images: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def full(pixels: torch.Tensor, **_: object) -> torch.Tensor:
        asked.append(len(pixels))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Clip, "encode_images", lambda self, pixels, **more: full(pixels, **more))
    photos = load_image_set(str(images), role="ood", data_root=images)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        encode_images(clip, photos, EncodeOptions(workers=0, batch_size=8), Silent())
    assert asked[:4] == [8, 4, 2, 1]
    said = explain(caught.value)
    assert said is not None
    assert "ran out of memory" in said
    assert "--device cpu" in said


@pytest.mark.parametrize("kind", ["torch", "python"])
def test_memory_that_runs_out_is_said(
    kind: str, images: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: object, **__: object) -> object:
        return torch.empty(1 << 50, dtype=torch.uint8) if kind == "torch" else bytearray(1 << 50)

    monkeypatch.setattr("negprompt_cli.steps.score.run_score", hungry)
    complains(
        here("score", "--prompts", artifact, "--out", tmp_path / "rows.csv", images),
        1,
        "ran out of memory",
        "--workers",
    )


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("no_such_package.part")
    assert "no_such_package" in (explain(caught.value) or "")
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("negprompt_cli.no_such_module")
    assert explain(caught.value) is None


def test_what_is_no_fault_of_the_machine_stays_a_defect() -> None:
    assert explain(RuntimeError("shape mismatch")) is None
    assert explain(KeyError("x")) is None


# No network


CUT_OFF = "unshare -n "
"""In a name space without any device but an idle loopback: what an unplugged machine sees."""
CAN_CUT_OFF = subprocess.run(["bash", "-c", f"{CUT_OFF} true"], capture_output=True).returncode == 0


def test_a_model_that_is_not_here_without_network(images: Path, tmp_path: Path) -> None:
    if not CAN_CUT_OFF:
        pytest.skip("processes cannot be cut off the network here (unshare -n)")
    started = time.monotonic()
    ran = negprompt(
        *("train-positive", "--data", images, "--run", tmp_path / "run", "-q"),
        prefix=CUT_OFF,
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_OFFLINE="0",
    )
    complains(ran, 1, "could not be loaded", "Without internet", "HF_HOME", "local-dir:", "--pretrained FILE")
    assert "Retrying" not in ran.err
    assert len(ran.err.splitlines()) < 6
    assert time.monotonic() - started < LONG
    assert left(tmp_path / "run") == []


def test_offline_is_honoured_without_a_single_connection(tmp_path: Path, images: Path) -> None:
    script = textwrap.dedent(
        """
        import socket, sys

        def refuse(*arguments, **more):
            print("CONNECTED", file=sys.stderr)
            raise OSError("no")

        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        from negprompt_cli.cli import main
        main()
        """
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "train-positive", "--data", images, "--run", tmp_path / "run"],
        capture_output=True,
        env={**ENVIRONMENT, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        timeout=LONG,
    )
    complains(Result(ran.returncode, "", _text(ran.stderr)), 1, "could not be loaded", "Without internet")
    assert b"CONNECTED" not in ran.stderr


def test_data_that_cannot_be_fetched(tmp_path: Path) -> None:
    if not CAN_CUT_OFF:
        pytest.skip("processes cannot be cut off the network here (unshare -n)")
    catalogue = write(
        tmp_path / "mine.yaml",
        b"sets: {mine: {title: x, layouts: [{by: me, images: m}], download: {url: 'http://127.0.0.1:9/a.zip', makes: m}}}",
    )
    script = "import time; time.sleep = lambda _: None; from negprompt_cli.cli import main; main()"
    command = ["data", "download", "mine", "--catalogue", catalogue, "--data-root", tmp_path / "data"]
    ran = subprocess.run(
        [*CUT_OFF.split(), sys.executable, "-c", script, *command], capture_output=True, env=ENVIRONMENT, timeout=LONG
    )
    says = ("Cannot download http://127.0.0.1:9/a.zip", "Run the command again")
    complains(Result(ran.returncode, "", _text(ran.stderr)), 1, *says)
    assert left(tmp_path / "data") == []


# Odd locales and odd names


NAMES_OF_FILES = ("été.png", "日本.png", "new\nline.png", "return\rhere.png", 'quote",comma.png', "sep\u2028.png")
RAW = b"not-utf8-\xe9.png"
CLASSES = ("rot é", "緑", "blue_triangle")
COERCED = {"LANG": "C", "PYTHONUTF8": "0"}
"""Python turns this into C.UTF-8."""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with UTF-8 names in sets/, and images with every kind of name."""
    folder = tmp_path_factory.mktemp("odd")
    for i, name in enumerate(CLASSES):
        paths = write_images(folder / "sets" / name, 4, seed=i)
        for path, called in zip(paths, NAMES_OF_FILES[2 * i : 2 * i + 2], strict=False):
            path.rename(path.with_name(called))
    raw = write_images(folder / "raw", 2)[0]
    os.rename(raw, os.path.join(os.fsencode(folder / "raw"), RAW))  # noqa: PTH104, PTH118 - bytes
    return folder


def listed(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*.png")}


def read_rows(text: str, form: str) -> list[dict[str, Any]]:
    if form == "csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_scores_of_files_with_any_name(form: str, odd: Path, artifact: Path) -> None:
    ran = run("score", "--prompts", artifact, "--format", form, odd)
    assert ran.exit_code == 0, ran.stderr
    rows = read_rows(_text(ran.stdout_bytes), form)
    assert {row["path"] for row in rows} == listed(odd)
    assert not any(row["error"] for row in rows)


def test_computing_in_a_locale_without_letters(odd: Path, artifact: Path, tmp_path: Path) -> None:
    names = write(tmp_path / "neu.txt", "grüner Kreis\n日本\n".encode())
    commands = [
        ["score", "--prompts", artifact, "--out", tmp_path / "rows.csv", odd],
        ["transfer", "--classes", names, "--prompts", artifact, "--run", tmp_path / "run"],
    ]
    script = textwrap.dedent(
        """
        import json, sys
        from negprompt_cli.cli import app

        for arguments in json.loads(sys.argv[1]):
            try:
                app([argument.encode().decode("ascii", "surrogateescape") for argument in arguments])
            except SystemExit as end:
                print(f"exit code {end.code}", file=sys.stderr)
        """
    )
    given = json.dumps([[str(argument) for argument in command] for command in commands])
    ran = subprocess.run(
        [sys.executable, "-c", script, given], capture_output=True, env={**ENVIRONMENT, **ASCII}, timeout=LONG
    )
    said = _text(ran.stderr)
    assert said.count("exit code 0") == 2, said
    assert "warning: this locale has only ASCII characters" in said
    assert {row["path"] for row in read_rows(_text((tmp_path / "rows.csv").read_bytes()), "csv")} == listed(odd)
    assert load_prompts(tmp_path / "run" / "transfer-neu.safetensors").names == ["grüner Kreis", "日本"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_evaluation_of_files_with_any_name(form: str, odd: Path, clip: Clip, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    prompts = write_artifact(make_prompts(clip, classes=("rot é", "緑", "blue triangle")), tmp_path / "n.safetensors")
    saved = tmp_path / f"scores.{form}"
    ran = here(
        *("evaluate", "--prompts", prompts, "--run", tmp_path / "run", "--json"),
        *("--data", odd / "sets", "--ood", odd / "raw", "--save-scores", saved),
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["id"]["classes"] == 3
    if form == "parquet":
        from pyarrow import parquet

        rows = parquet.read_table(saved).to_pylist()
    else:
        rows = read_rows(_text(saved.read_bytes()), form)
    escaped = {name.encode("utf-8", "backslashreplace").decode() for name in listed(odd / "raw")}
    paths = {row["path"] for row in rows if row["role"] == "ood"}
    assert paths == (escaped if form == "parquet" else listed(odd / "raw"))
    own = {row["path"] for row in rows if row["role"] == "id"}
    assert len(own) == 6
    assert own <= listed(odd / "sets")
    assert {row["label_name"] for row in rows if row["role"] == "id"} == {"rot é", "緑", "blue triangle"}


@pytest.mark.parametrize("locale", [COERCED, ASCII], ids=["C", "ascii"])
def test_a_check_of_files_with_any_name(locale: dict[str, str], odd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(odd / "sets", folder / "train")
    broken = write(folder / "train" / "緑" / "bro\nken é.png", b"x")
    ran = negprompt("data", "check", folder, **locale)
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert "1 images cannot be read" in ran.out
    ran = negprompt("data", "check", folder, "--json", **locale)
    (finding,) = (f for f in json.loads(ran.out)["findings"] if f["kind"] == "broken")
    # JSON in ASCII writes the bytes that this locale has no letters for as lone surrogates, which name the same file.
    (item,) = finding["items"]
    encoding = "ascii" if locale is ASCII else "utf-8"
    assert item.encode(encoding, "surrogateescape") == os.fsencode(broken)


def test_a_sample_of_files_with_any_name(tmp_path: Path) -> None:
    for i, (key, name) in enumerate((("été", "ä ö.jpg"), ("緑", "日\u2028本.jpg"))):
        write(tmp_path / "set" / "train" / key / name, jpeg(i))
    arguments = ("data", "sample", tmp_path / "set", "--shots", "1", "--out", tmp_path / "few-train.txt")
    ran = negprompt(*arguments, **COERCED)
    assert ran.code == 0, ran.err
    assert len(load_image_set(str(tmp_path / "few-train.txt"), role="train", data_root=tmp_path)) == 2
    before = (tmp_path / "few-train.txt").read_bytes()
    complains(negprompt(*arguments, "--overwrite", **ASCII), 2, "An imglist cannot contain", "Rename the file")
    (tmp_path / "set" / "train" / "été" / "ä ö.jpg").rename(tmp_path / "set" / "train" / "été" / "new\nline.jpg")
    complains(here(*arguments, "--overwrite"), 2, "An imglist cannot contain", "Rename the file")
    assert (tmp_path / "few-train.txt").read_bytes() == before


def test_a_list_in_utf8_in_a_locale_without_letters(tmp_path: Path) -> None:
    for i, key in enumerate(("cat", "dog")):
        write(tmp_path / key / "a.jpg", jpeg(i))
        write(tmp_path / key / "é.jpg", jpeg(9 + i))
    lines = [f"{key}/{name}.jpg {i}" for name in ("a", "é") for i, key in enumerate(("cat", "dog"))]
    file = write(tmp_path / "list-val.txt", "\n".join(lines).encode())
    complains(negprompt("data", "check", file, **ASCII), 1, "encoding, ascii, cannot express", "PYTHONUTF8=1")
    assert negprompt("data", "check", file, **COERCED).code == 0


def test_a_sorted_name_with_a_line_end(odd: Path, tmp_path: Path) -> None:
    place = sort_image(odd / "sets" / "緑" / "new\nline.png", tmp_path, prediction="緑\n", is_ood=False, copy=False)
    assert place == tmp_path / "id" / "緑_" / "new\nline.png"
