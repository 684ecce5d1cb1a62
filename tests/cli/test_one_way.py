"""One way through a command: the artifact it starts from and its configuration file are opened once."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from scoring_world import make_prompts, run, write_artifact, write_photos

from negprompt_cli.engine.clip import Clip

OPENED: list[Counter[str]] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED and event == "open" and isinstance(arguments[0], str) and arguments[1] in ("r", "rb"):
        OPENED[-1][arguments[0]] += 1


# A hook cannot be taken away again, so it listens only while somebody counts.
sys.addaudithook(_listen)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often Python opens each file to read it."""
    OPENED.append(Counter())
    try:
        yield OPENED[-1]
    finally:
        OPENED.pop()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 14)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("train-negative", ("--positive", "{artifact}", "--shots", 2)),
        ("evaluate", ("--ood", "{photos}/red_circle", "--scores", "mcm")),
        ("calibrate", ("--acceptance", 0.9)),
        ("score", ("{photos}", "--limit", 2)),
        ("transfer", ("--classes", "{names}")),
        ("export", ("--format", "coop")),
    ],
)
def test_an_artifact_and_a_configuration_are_opened_once(
    clip: Clip, photos: Path, tmp_path: Path, name: str, more: tuple[object, ...]
) -> None:
    artifact = write_artifact(
        make_prompts(clip, negatives=(name != "train-negative" and 2) or 0), tmp_path / "a.safetensors"
    )
    (tmp_path / "names.txt").write_text("yellow star\n")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"negative": {"schedule": {"epochs": 1}}}))
    places = {"artifact": artifact, "photos": photos, "names": tmp_path / "names.txt"}
    words = [str(word).format(**places) for word in more]
    if name != "train-negative":
        words += ["--prompts", str(artifact)]
    if name not in ("score", "export", "transfer"):
        words += ["--data", str(photos)]
    with counted() as opened:
        done = run(name, *words, "--config", config, "--device", "cpu", "--run", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert opened[str(artifact)] == 1
    assert opened[str(config)] == 1
