"""What a command says: which stream, how many lines without a terminal, tables that fit, and bars in narrow terminals."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from negprompt_cli.cli import console
from negprompt_cli.cli.console import Talk, table_text

SETS = ["inaturalist", "sun", "places", "dtd", "ninco", "openimage-o"]
CELLS = ["97.3 ± 0.3 / 12.1 ± 1.2"] * len(SETS)


def loud(**more: bool) -> Talk:
    return Talk(**{"quiet": False, "as_json": False, **more})


def run_task(talk: Talk, seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose steps end at these times."""
    times = iter([0.0, *seconds, seconds[-1]])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    with talk.task("Training", len(seconds), "epochs") as task:
        for i in range(len(seconds)):
            task.advance(1, f"loss {i}")


def test_a_quick_task_is_two_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_task(loud(), [0.1 * i for i in range(1, 61)], monkeypatch)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["Training: 60 epochs", "Training: 60 epochs in 6.0 s, loss 59"]


def test_a_task_that_may_end_early_names_its_total_as_the_most(capsys: pytest.CaptureFixture[str]) -> None:
    with loud().task("Training", 100, "epochs", at_most=True) as task:
        task.advance(3)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "Training: at most 100 epochs"
    assert last.startswith("Training: 3 epochs in ")


def test_a_long_task_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_task(loud(), [float(4 * i) for i in range(1, 11)], monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"Training: {n} of 10 epochs" for n in (3, 6, 9)]
    assert lines[1].endswith("0.25/s, 28 s left, loss 2")


def test_verbose_is_a_line_per_epoch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_task(loud(verbose=True), [0.1, 0.2, 0.3], monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and lines[2] == "Training: 2 epochs, loss 1"


@pytest.mark.parametrize("how", ["quiet", "as_json"])
def test_quiet_and_json_are_silent_but_for_warnings(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    talk = loud(**{how: True})
    talk.say("a")
    talk.line("b")
    talk.table("c", ["d"], [["e"]])
    talk.facts("f", [("g", "h")])
    with talk.task("i", 1, "j") as task:
        task.advance()
    talk.warn("k")
    assert capsys.readouterr() == ("", "warning: k\n")


def test_paths_made_are_on_stderr_unless_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    loud().result(Path("a/b"), {})
    assert capsys.readouterr() == ("", "Wrote a/b\n")
    loud(quiet=True).result(Path("a/b"), {})
    assert capsys.readouterr() == ("a/b\n", "")


def test_what_was_said_is_not_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    talk = loud()
    for _ in range(2):
        talk.say("model: tiny")
    assert capsys.readouterr().err == "model: tiny\n"


def test_a_table_that_fits_keeps_its_form() -> None:
    text = table_text("Title", ["score", "near"], [["mcm", "97.3 / 12.1"], ["max-logit", "7.3 / 2.1"]])
    title, header, line, *rows = text.splitlines()
    # How far the columns are apart is up to the version of rich.
    assert [title, set(line)] == ["Title", {"─"}]
    assert [row.split() for row in (header, *rows)] == [
        ["score", "near"],
        ["mcm", "97.3", "/", "12.1"],
        ["max-logit", "7.3", "/", "2.1"],
    ]
    assert len({len(row) for row in (header, line, *rows)}) == 1


def test_a_table_of_many_sets_is_drawn_in_parts() -> None:
    columns, rows = ["score", *SETS], [["negprompt", *CELLS], ["mcm", *CELLS]]
    text = table_text("x" * 30 + " y" * 40, columns, rows, labels=1)
    assert max(map(len, text.splitlines())) <= 80
    headings = [line.split() for line in text.splitlines() if line.startswith("score")]
    assert len(headings) > 1 and [name for heading in headings for name in heading[1:]] == list(SETS)
    assert text.count("97.3 ± 0.3 / 12.1 ± 1.2") == 2 * len(SETS)
    assert len(re.findall("^mcm ", text, re.MULTILINE)) == len(headings)


def test_texts_wrap_between_words_and_paths_are_never_broken() -> None:
    path = "/data/" + "folder/" * 20
    text = table_text("", ["name", "what"], [["a", f"word {path} word " + "many words " * 20]])
    assert path in text
    plain = table_text("", ["name", "what"], [["a", "many words " * 20]])
    assert max(map(len, plain.splitlines())) <= 80


def test_facts_are_lines_that_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    loud().facts("made", [("artifact", "/tmp/" + "x" * 100), ("sha256", "0" * 64)])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["/tmp/" + "x" * 100, "0" * 64]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_bars_stay_whole_in_narrow_terminals(width: int) -> None:
    script = (
        "from negprompt_cli.cli.console import Talk\n"
        "with Talk(quiet=False, as_json=False).task('Training positive prompts', 60, 'epochs') as task:\n"
        "    [task.advance(1, 'loss 0.1953 cross-entropy 0.1940 ID accuracy 90.0%') for _ in range(60)]\n"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", script], stderr=follower, env=environment, check=True)
    os.close(follower)
    shown = io.BytesIO()
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:
            break
        if not block:
            break
        shown.write(block)
    os.close(leader)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue().decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    bar = next(line for line in reversed(lines) if "60/60" in line)
    assert len(bar) <= width
    assert lines[-1].startswith("Training positive prompts: 60 epochs in ")
