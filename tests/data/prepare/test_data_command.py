"""`negprompt data ...` from outside: what goes to stdout, what to stderr, and the exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from data_trees import ASSETS, class_tree, jpeg, needs_assets, write, write_catalogue
from typer.testing import CliRunner, Result

from negprompt_cli.cli.data import data_app
from negprompt_cli.cli.error_exit import GuardedGroup
from negprompt_cli.data.sets.imagesets import load_image_set

app = typer.Typer(cls=GuardedGroup, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NEGPROMPT_DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)], env=env)


def ok(*arguments: object, env: dict[str, str] | None = None) -> Result:
    result = run(*arguments, env=env)
    assert result.exit_code == 0, result.stderr
    return result


def test_importing_the_commands_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "PIL", "pydantic", "torchvision", "open_clip"}
    code = f"import sys, negprompt_cli.cli.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ls(tmp_path: Path) -> None:
    write(tmp_path / "root" / "SUN" / "a.jpg")
    shown = ok("ls", "--data-root", tmp_path / "root")
    assert shown.stderr == ""
    assert re.search(r"^sun +yes +- +10000", shown.stdout, re.MULTILINE)
    assert re.search(r"^places +download ", shown.stdout, re.MULTILINE)
    assert max(map(len, shown.stdout.splitlines())) <= 80
    quiet = ok("ls", "-q", env={"NEGPROMPT_DATA_ROOT": str(tmp_path / "root")})
    assert quiet.stdout == "sun\n"
    document = json.loads(ok("ls", "--json", "--count", "--data-root", tmp_path / "root").stdout)
    assert document["schema"] == "negprompt/data/1"
    rows = {row["name"]: row for row in document["sets"]}
    assert (rows["sun"]["here"], rows["sun"]["eval"], rows["dtd"]["here"]) == (True, 1, False)
    assert rows["dtd"]["citation"]


def test_ls_knows_ones_own_catalogue(tmp_path: Path) -> None:
    file = write_catalogue(
        tmp_path / "own.yaml", {"herbs": {"title": "Herbs", "layouts": [{"by": "me", "images": "x"}]}}
    )
    assert "herbs" in ok("ls", "--catalogue", file).stdout


def test_check_says_clean_or_not_by_its_exit_code(tmp_path: Path) -> None:
    class_tree(tmp_path / "pets", {"cat": 2, "dog": 2}, decodable=True)
    clean = ok("check", "pets")
    assert "pets: no problems, 4 images decoded" in clean.stdout
    broken = write(tmp_path / "pets" / "cat" / "000.jpg", b"no image")
    bad = run("check", "pets")
    assert bad.exit_code == 1
    assert str(broken.relative_to(tmp_path)) in bad.stdout
    assert "pets: 1 problems" in bad.stdout
    document = json.loads(run("check", "pets", "--json").stdout)
    assert (document["schema"], document["clean"]) == ("negprompt/data-check/1", False)
    assert document["findings"][0]["kind"] == "broken"
    assert document["findings"][0]["items"] == ["pets/cat/000.jpg"]
    assert document["parts"] == [{"role": "all", "images": 4, "classes": 2, "expected_images": None, "left_out": {}}]
    assert ok("check", "pets", "--no-decode").exit_code == 0
    assert run("check", "pets#1", "--ood", "pets#0,pets").exit_code == 1


def test_quiet_check_still_names_problems(tmp_path: Path) -> None:
    class_tree(tmp_path / "pets", {"cat": 2, "dog": 2}, decodable=True)
    assert ok("check", "pets", "-q").stderr == ""
    write(tmp_path / "pets" / "cat" / "000.jpg", b"")
    assert "empty-file" in run("check", "pets", "-q").stderr


def test_many_bad_files_are_shortened_on_the_console_only(tmp_path: Path) -> None:
    class_tree(tmp_path / "pets", {"cat": 30, "dog": 1})
    result = run("check", "pets")
    assert "and 21 more (--json lists all)" in result.stdout
    assert len(json.loads(run("check", "pets", "--json").stdout)["findings"][0]["items"]) == 31


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "inaturalst"], "inaturalist"),
        (["check", "sun", "--data-root", "nowhere"], "nowhere/SUN"),
        (["download", "imagenett"], "imagenet"),
        (["download", "imagenet"], "login"),
        (["download", "sun", "plces"], "places"),
        (["sample", "pets", "--out", "x.txt"], "pets"),
        (["ls", "--catalogue", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_download_of_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "data" / "SUN" / "a.jpg")
    done = ok("download", "sun")
    assert done.stdout == ""
    assert "already there" in done.stderr
    assert "cite: " in done.stderr
    assert json.loads(ok("download", "sun", "--json").stdout) == {
        "schema": "negprompt/data-download/1",
        "downloaded": [],
    }


def test_sample_writes_a_list_that_is_a_spec(tmp_path: Path) -> None:
    class_tree(tmp_path / "data" / "my pets" / "train", {"big_cat": 5, "dog": 2})
    class_tree(tmp_path / "data" / "my pets" / "val", {"big_cat": 1, "dog": 1})
    done = ok("sample", "my pets", "--shots", 3, "--seed", 1, "--out", "lists/few-train.txt")
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "Wrote lists/few-train.txt")
    assert "dog has only 2 images" in done.stderr
    lines = (tmp_path / "lists" / "few-train.txt").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["0", "0", "0", "1", "1"]
    assert all(line.startswith("my pets/train/") for line in lines)
    assert (tmp_path / "lists" / "few-train.classnames.txt").read_text() == "big_cat\tbig cat\ndog\tdog\n"
    back = load_image_set("lists/few-train.txt", role="train", data_root=Path("data"))
    assert [c.name for c in back.classes] == ["big cat", "dog"]
    assert [f"my pets/{path.relative_to(Path('data/my pets')).as_posix()}" for path in back.paths] == [
        line.rsplit(" ", 1)[0] for line in lines
    ]
    assert not back.halved


def test_sample_draws_by_seed_and_keeps_what_is_there(tmp_path: Path) -> None:
    class_tree(tmp_path / "pets", {"cat": 40, "dog": 40})
    texts = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        ok("sample", "pets", "--shots", 4, "--seed", seed, "--out", f"{name}-train.txt")
        texts[name] = (tmp_path / f"{name}-train.txt").read_text()
    assert texts["a"] == texts["b"] != texts["c"]
    refused = run("sample", "pets", "--shots", 4, "--out", "a-train.txt")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "a-train.txt").read_text() == texts["a"]
    ok("sample", "pets", "--shots", 4, "--seed", 1, "--out", "a-train.txt", "--overwrite")
    assert (tmp_path / "a-train.txt").read_text() == texts["c"]
    document = json.loads(ok("sample", "pets", "--shots", 2, "--out", "d.txt", "--json").stdout)
    assert (document["images"], document["classes"], document["short"]) == (4, 2, {})
    assert "d-train.txt" in run("sample", "pets", "--shots", 4, "--out", "d.txt", "--overwrite").stderr


def test_a_sample_of_nothing_labelled_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "flat" / "a.jpg", jpeg())
    assert run("sample", "flat", "--out", "x.txt").exit_code == 2


@needs_assets
def test_the_example_images_are_clean() -> None:
    ok("check", ASSETS / "cifar10", "--ood", f"{ASSETS / 'imagenette'}#5-9")
