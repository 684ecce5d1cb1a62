"""Interruption at any moment, and what `--resume` makes of it: the files of a run that was never interrupted."""

import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import interrupt_at
from resume_world import World, every_epoch, files, make_world, slow_and_often
from scoring_world import run as run_here

from negprompt_cli.cli.training import resume_command
from negprompt_cli.config import Config
from negprompt_cli.data.results.checkpoints import DamagedCheckpoint, checkpoint_path, load_checkpoint
from negprompt_cli.engine.prompt_learners.training import EpochReport, State
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.resuming import Resumable

SHORT = ("--set", "positive.schedule.epochs=8", "--set", "negative.schedule.epochs=8")
LONG = ("--set", "positive.schedule.epochs=20", "--set", "negative.schedule.epochs=20")
# Every part of the state counts: Adam's means, L-BFGS's last steps, the best epoch so far, and the generator's draws.
LONG += ("--set", "positive.schedule.keep=best", "--set", "positive.schedule.classes_per_step=2")
LONG += ("--set", "negative.schedule.tolerance=0")
LONG_EPOCHS = 20
BRIEF = partial(slow_and_often, 0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: World) -> tuple[dict[str, bytes], float]:
    """The files of an uninterrupted long fit, and the seconds it took."""
    # The first process also waits for the server to have everything imported.
    assert world.finish(["--version"])[0] == 0
    began = time.monotonic()
    code, said = world.finish(world.command("fit", world.folder / "whole", *LONG), BRIEF)
    assert code == 0, said
    return files(world.folder / "whole"), time.monotonic() - began


@pytest.fixture(scope="module")
def short(world: World) -> dict[str, bytes]:
    """The files of a short stage 1 and stage 2."""
    run = world.folder / "short"
    for step in ("train-positive", "train-negative"):
        assert run_here(*world.command(step, run, *SHORT)).exit_code == 0
    return files(run)


@pytest.fixture
def interrupted(world: World, short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with a finished stage 1 and a stage 2 that was interrupted in its fifth epoch."""
    run = tmp_path / "run"
    run.mkdir()
    for name, content in short.items():
        if name.startswith("positive"):
            (run / name).write_bytes(content)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run_here(*world.command("train-negative", run, *SHORT)).exit_code == 130
    checkpoint = load_checkpoint(run / "negative.checkpoint.safetensors")
    assert [r.epoch for r in checkpoint.state.history] == [1, 2, 3, 4]
    assert not (run / "negative.safetensors").exists()
    return run


def visible(run: Path) -> dict[str, bytes]:
    """The files of a run folder but for the checkpoint, and temporary ones that a kill may leave."""
    return {n: b for n, b in files(run).items() if "checkpoint" not in n and not Path(n).name.startswith(".")}


# Killed.


def kill_until_done(world: World, whole: dict[str, bytes], seconds: float, run: Path, moment: random.Random) -> int:
    """Start the fit again and again, killing it at random moments of its course; how often it had to be killed."""
    command, kills = world.command("fit", run, *LONG, "--resume"), 0
    for _ in range(2):
        process = world.start(command, world.folder / "killed.txt", BRIEF)
        process.join(moment.uniform(0, seconds))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
        for name, content in visible(run).items():
            # Before its calibration the negative artifact is a file of its own.
            assert name == "negative.safetensors" or content == whole[name], name
    code, said = world.finish(command)
    assert code == 0, said
    assert visible(run) == whole
    # A writer that was killed may leave its hidden temporary file; the checkpoint itself is gone.
    assert not any(checkpoint_path(run / f"{stage}.safetensors").exists() for stage in ("positive", "negative"))
    return kills


def test_killed_at_random_moments(world: World, whole: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    kill_until_done(world, *whole, tmp_path / "run", random.Random(0))


@pytest.mark.slow
def test_killed_at_ten_random_moments(world: World, whole: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    kills, number = 0, 0
    while kills < 10:
        kills += kill_until_done(world, *whole, tmp_path / str(number), random.Random(100 + number))
        number += 1


def kill_behind(count: int) -> None:
    """Kill this process once its n-th file of negative prompts is in its place; checkpoints come after every epoch."""
    every_epoch()
    rename, link, placed = Path.replace, Path.hardlink_to, []

    def place(file: Path) -> None:
        if file.name.startswith("negative"):
            placed.append(file)
        if len(placed) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self: Path, target: Path) -> Path:
        done = rename(self, target)
        place(target)
        return done

    def hardlink_to(self: Path, target: Path) -> None:
        link(self, target)
        # Its first name goes a moment later.
        target.unlink()
        place(self)

    Path.replace, Path.hardlink_to = replace, hardlink_to  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("count", "last"),
    [
        (1, "checkpoint.safetensors"),
        (8, "checkpoint.safetensors"),
        (9, "negative.safetensors"),
        (10, "config.yaml"),
        (11, "metrics.jsonl"),
    ],
)
def test_killed_between_any_two_files(
    world: World, short: dict[str, bytes], tmp_path: Path, count: int, last: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name, content in short.items():
        if name.startswith("positive"):
            (run / name).write_bytes(content)
    command = world.command("train-negative", run, *SHORT)
    code, _ = world.finish(command, partial(kill_behind, count))
    assert code == -signal.SIGKILL
    newest = max(run.glob("negative*"), key=lambda p: p.stat().st_mtime_ns)
    assert newest.name.endswith(last)
    result = run_here(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert files(run) == short


# Ctrl-C and SIGTERM.


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_keep_the_last_epoch_and_print_the_command_that_goes_on(
    world: World, whole: tuple[dict[str, bytes], float], tmp_path: Path, number: int, expected: int
) -> None:
    run, said = tmp_path / "a run", tmp_path / "said.txt"
    process = world.start(world.command("fit", run, *LONG, "-v"), said, partial(slow_and_often, 0.05))
    checkpoint = run / "positive.checkpoint.safetensors"
    counted = re.compile(r"(\d+) epochs, loss")
    while not (checkpoint.exists() and "5" in counted.findall(said.read_text("utf-8"))) and process.is_alive():
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, number)
    process.join(60)
    text = said.read_text("utf-8")
    assert process.exitcode == expected, text
    assert "Traceback" not in text
    reported = max(int(n) for n in counted.findall(text))
    # The signal may come between an epoch's end and its line.
    epochs = len(load_checkpoint(checkpoint).state.history)
    assert epochs - reported in (0, 1)
    program, *arguments = shlex.split(text.splitlines()[-1])
    assert program == "negprompt"
    assert arguments[-1] == "--resume"
    code, again = world.finish(arguments)
    assert code == 0, again
    assert f"Resuming after epoch {epochs} of at most {LONG_EPOCHS}" in again
    assert files(run) == whole[0]


def test_a_failure_keeps_the_last_epoch_too(
    world: World, short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, command = tmp_path / "run", world.command("train-positive", tmp_path / "run", *SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, NegPromptError)
        assert run_here(*command).exit_code == 1
    assert "Resuming after epoch 6 of at most 8" in run_here(*command, "--resume").stderr
    assert files(run) == {n: b for n, b in short.items() if n.startswith("positive")}


def test_checkpoints_are_a_second_apart(tmp_path: Path) -> None:
    now, out = [0.0], tmp_path / "positive.safetensors"
    resumable = Resumable("positive", Config(), out, progress=Silent(), clock=lambda: now[0])
    written = []
    for epoch, now[0] in enumerate([0.0, 0.5, 0.9, 1.0, 1.1, 1.9, 2.0, 7.0], start=1):
        history = tuple(EpochReport(e, 9, {"loss": 1.0}, 0.5, 0.1, None) for e in range(1, epoch + 1))
        contexts = torch.zeros(1, 2, 3)
        resumable.keep(State(contexts, {}, contexts.clone(), 0, torch.Generator().get_state(), 2.0, history))
        written.append(len(load_checkpoint(checkpoint_path(out)).state.history))
    assert written == [1, 1, 1, 4, 4, 4, 7, 8]


def test_interruption_before_the_first_epoch_leaves_nothing(
    world: World, short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1)
    result = run_here(*world.command("train-positive", tmp_path / "run", *SHORT))
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["/usr/bin/negprompt", "fit", "my photos"], "negprompt fit 'my photos' --resume"),
        (["negprompt", "fit", "--resume", "x"], "negprompt fit --resume x"),
        (["negprompt", "fit", "--", "-odd"], "negprompt fit --resume -- -odd"),
        (["/x/negprompt_cli/__main__.py", "--debug", "fit"], "python -m negprompt_cli --debug fit --resume"),
        (["negprompt", "fit", "--set", "data.spec=a'b$c"], """negprompt fit --set 'data.spec=a'"'"'b$c' --resume"""),
    ],
)
def test_the_command_that_goes_on(typed: list[str], expected: str) -> None:
    assert resume_command(typed, torchrun=False) == expected


def test_the_command_that_goes_on_in_several_processes() -> None:
    typed = ["/x/negprompt_cli/__main__.py", "fit", "x"]
    assert resume_command(typed, torchrun=True) == "torchrun ... -m negprompt_cli fit x --resume"
    assert resume_command([*typed, "--gpus=2"], torchrun=True) == "negprompt fit x --gpus=2 --resume"


# What --resume finds.


def test_resumed_training_is_the_whole_one(world: World, short: dict[str, bytes], interrupted: Path) -> None:
    result = run_here(*world.command("train-negative", interrupted, *SHORT), "--resume")
    assert result.exit_code == 0, result.output
    assert "Resuming after epoch 4 of at most 8" in result.stderr
    assert files(interrupted) == short


def test_without_a_checkpoint_it_starts_and_says_so(world: World, short: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in ("train-positive", "train-negative"):
        result = run_here(*world.command(step, run, *SHORT), "--resume")
        assert result.exit_code == 0, result.output
        assert "Starting from the first epoch" in result.stderr
    assert files(run) == short


def test_finished_stays_as_it_is(
    world: World, short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(world.folder / "short", tmp_path / "run"))
    monkeypatch.setattr(
        "negprompt_cli.steps.shared.workbench.load_clip", lambda *_: pytest.fail("the model was loaded")
    )
    for step in ("train-positive", "train-negative"):
        for more in ((), ("--overwrite",)):
            result = run_here(*world.command(step, run, *SHORT), "--resume", *more)
            assert result.exit_code == 0, result.output
            assert "already finished" in result.stderr
            assert result.stderr.endswith(f"{run / step.removeprefix('train-')}.safetensors\n")
    assert files(run) == short


def test_without_resume_a_checkpoint_is_replaced_and_it_is_said(
    world: World, short: dict[str, bytes], interrupted: Path
) -> None:
    result = run_here(*world.command("train-negative", interrupted, *SHORT), "-q")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("\n") == 1
    assert "because this run does not resume" in result.stderr
    assert files(interrupted) == short


def test_several_seeds_go_on_with_the_one_that_was_interrupted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = world.command("train-positive", tmp_path / "run", *SHORT, "--seeds", "1,2,3")
    assert run_here(*world.command("train-positive", tmp_path / "whole", *SHORT, "--seeds", "1,2,3")).exit_code == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8 + 4)
        assert run_here(*command).exit_code == 130
    result = run_here(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("already finished") == 1
    assert "Resuming after epoch 3 of at most 8" in result.stderr
    assert files(tmp_path / "run") == files(tmp_path / "whole")


# What --resume refuses.


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--lr", 0.3), ("negative.schedule.sgd.lr: not recorded in the file, 0.3 now",)),
        (("--set", "negative.score=paper"), ('"paper" now',)),
        (
            ("--loss", "quoted", "--seed", 4),
            ("seed: 0 in the file, 4 now", 'negative.loss.name: "separation" in the file, "quoted"'),
        ),
        (("--positive", "zero-shot"), ("positive artifact: ", 'in the file, "zero-shot" now')),
    ],
)
def test_another_configuration_is_refused(
    world: World, interrupted: Path, more: tuple[object, ...], says: tuple[str, ...]
) -> None:
    before = files(interrupted)
    result = run_here(*world.command("train-negative", interrupted, *SHORT), "--resume", *more)
    assert result.exit_code == 2, result.output
    for text in says:
        assert text in result.stderr
    assert files(interrupted) == before


def test_a_finished_artifact_of_another_configuration_is_refused(world: World, tmp_path: Path, short: object) -> None:
    run = Path(shutil.copytree(world.folder / "short", tmp_path / "run"))
    command = world.command("train-negative", run, *SHORT, "--resume", "--negatives", 3)
    before, result = files(run), run_here(*command)
    assert result.exit_code == 2
    assert "negative.count: 2 in the file, 3 now" in result.stderr
    assert "--overwrite" in result.stderr
    assert files(run) == before
    assert run_here(*command, "--overwrite").exit_code == 0
    assert files(run)["negative.safetensors"] != before["negative.safetensors"]


def test_other_images_are_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = World(Path(shutil.copytree(world.folder, tmp_path / "world")))
    command = mine.command("train-positive", tmp_path / "run", *SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert run_here(*command).exit_code == 130
    # All of a class, so that whatever half is trained on has changed.
    for path in (mine.images / "red_circle").iterdir():
        shutil.copy(mine.images / "green_square" / path.name, path)
    result = run_here(*command, "--resume")
    assert result.exit_code == 2
    assert re.search("training features: [0-9a-f]{12} in the file, [0-9a-f]{12} now", result.stderr)
    assert "training labels" not in result.stderr


# Damage.


def test_a_damaged_checkpoint_is_said_and_the_training_starts_again(
    world: World, short: dict[str, bytes], interrupted: Path
) -> None:
    path = interrupted / "negative.checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = run_here(*world.command("train-negative", interrupted, *SHORT), "--resume")
    assert result.exit_code == 0, result.output
    assert f"{path} is not a readable checkpoint" in result.stderr
    assert "Starting from the first epoch" in result.stderr
    assert files(interrupted) == short


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_goes_unseen(interrupted: Path, data: st.DataObject) -> None:
    path, broken = interrupted / "negative.checkpoint.safetensors", interrupted / "broken.safetensors"
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "truncated"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    broken.write_bytes(content)
    with pytest.raises(UsageError):
        load_checkpoint(broken)


def test_a_later_schema_is_not_taken_for_damage(interrupted: Path) -> None:
    path = interrupted / "negative.checkpoint.safetensors"
    path.write_bytes(path.read_bytes().replace(b"negprompt/checkpoint/2", b"negprompt/checkpoint/3"))
    with pytest.raises(UsageError, match="Resume with the version") as caught:
        load_checkpoint(path)
    assert not isinstance(caught.value, DamagedCheckpoint)


def test_another_file_is_not_a_checkpoint(world: World, short: object) -> None:
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(world.folder / "short" / "negative.safetensors")


# Places that cannot be written to.


def limit_files(size: int) -> None:
    """No file of this process may grow beyond `size` bytes."""
    every_epoch()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def full_for_a_while() -> None:
    """The disk is full from the second epoch to the fifth."""
    every_epoch()
    from negprompt_cli.steps.shared.resuming import Resumable

    real, hard = Resumable.keep, resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def keep(self: Resumable, state: Any) -> None:
        full = 2 <= len(state.history) <= 5
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500 if full else hard, hard))
        real(self, state)

    Resumable.keep = keep  # type: ignore[method-assign]


def full_from_the_third() -> None:
    """The disk is full from the third epoch on."""
    every_epoch()
    from negprompt_cli.steps.shared.resuming import Resumable

    real = Resumable.keep

    def keep(self: Resumable, state: Any) -> None:
        if len(state.history) == 3:
            limit_files(2500)
        real(self, state)

    Resumable.keep = keep  # type: ignore[method-assign]


def test_a_place_that_takes_no_checkpoint_is_found_in_the_first_epoch(
    world: World, short: object, tmp_path: Path
) -> None:
    code, said = world.finish(
        world.command("train-positive", tmp_path / "run", *SHORT, "-q"), partial(limit_files, 2500)
    )
    assert code == 1
    assert said == (
        f"error: Cannot write {tmp_path / 'run' / 'positive.checkpoint.safetensors'}: File too large. Free disk space "
        "or choose another path. An existing file is unchanged.\n"
    )
    assert files(tmp_path / "run") == {}


def test_a_disk_that_is_full_for_a_while_stops_nothing(world: World, short: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, said = world.finish(world.command("train-positive", run, *SHORT, "-q"), full_for_a_while)
    assert code == 0, said
    # Said once, not at every epoch.
    assert said.count("The training continues.") == 1
    assert files(run) == {n: b for n, b in short.items() if n.startswith("positive")}


def test_a_disk_that_stays_full_keeps_the_last_checkpoint(
    world: World, short: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = world.command("train-positive", run, *SHORT, "-q")
    code, said = world.finish(command, full_from_the_third)
    assert code == 1, said
    assert "positive.safetensors: File too large" in said
    assert list(files(run)) == ["positive.checkpoint.safetensors"]
    assert len(load_checkpoint(run / "positive.checkpoint.safetensors").state.history) == 2
    assert run_here(*command, "--resume").exit_code == 0
    assert files(run) == {n: b for n, b in short.items() if n.startswith("positive")}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write to, root included."""
    folder = tmp_path / "locked"
    folder.mkdir()

    def lock(sign: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["chattr", f"{sign}i", folder], capture_output=True)

    folder.chmod(0o500)
    if os.geteuid() == 0 and (shutil.which("chattr") is None or lock("+").returncode):
        pytest.skip("root writes everywhere, and this file system has no immutable folders")
    yield folder
    if os.geteuid() == 0:
        lock("-")
    folder.chmod(0o700)


def test_a_read_only_folder_is_found_in_the_first_epoch(world: World, short: object, read_only: Path) -> None:
    result = run_here(*world.command("train-positive", read_only, *SHORT))
    assert result.exit_code == 1
    assert f"Cannot write {checkpoint_path(read_only / 'positive.safetensors')}" in result.stderr
    assert files(read_only) == {}
