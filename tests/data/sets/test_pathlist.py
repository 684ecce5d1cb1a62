"""What `score` is given: lists as arguments and on standard input, in the forms that other programs write."""

import io
import json
import os
from pathlib import Path

import pytest
from data_trees import write

from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.pathlist import check_paths, list_paths, stdin_names
from negprompt_cli.errors import UsageError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [write(tmp_path / "photos" / name) for name in ("a b.jpg", "é.png", "sub/c.jpg")]


def taken(*arguments: str, stdin: bytes = b"") -> list[Path]:
    return list(list_paths(arguments, stdin_names(io.BytesIO(stdin)), LeftOut()))


class Slow(io.RawIOBase):
    """A pipe that gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read1(self, _: int) -> bytes:
        first, self._data = self._data[:1], self._data[1:]
        return first


NAMES = ["photos/a b.jpg", "photos/é.png", "photos/sub/c.jpg"]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    "form",
    ["lines", "no end", "CRLF", "NUL", "NUL, no end", "byte order mark", "quoted", "backslashes", "labels", "file:"],
)
def test_lists_on_standard_input(form: str, slow: bool, photos: list[Path]) -> None:
    text = {
        "lines": "".join(f"{name}\n" for name in NAMES),
        "no end": "\n".join(NAMES),
        "CRLF": "".join(f"{name}\r\n" for name in NAMES),
        "NUL": "".join(f"{name}\0" for name in NAMES),
        "NUL, no end": "\0".join(NAMES),
        "byte order mark": "\ufeff" + "\n".join(NAMES),
        "quoted": "".join(f'"{name}"\n' for name in NAMES),
        "backslashes": "".join(name.replace("/", "\\") + "\n" for name in NAMES),
        "labels": "".join(f"{name} {i}\n" for i, name in enumerate(NAMES)),
        "file:": "".join(f"file://{path}\n" for path in photos),
    }[form].encode()
    stream = Slow(text) if slow else io.BytesIO(text)
    found = list(list_paths(["-"], stdin_names(stream), LeftOut()))  # type: ignore[arg-type]
    assert [path.resolve() for path in found] == photos


def test_utf_16_of_windows(photos: list[Path]) -> None:
    assert [p.resolve() for p in taken("-", stdin="\r\n".join(NAMES).encode("utf-16"))] == photos


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(raw, "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(b"x")
    assert [path.exists() for path in taken("-", stdin=raw + b"\n")] == [True]


def test_a_name_that_is_there_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('"q".jpg', "back\\slash.jpg", "a.jpg 3"):
        write(tmp_path / name)
        assert taken("-", stdin=f"{name}\n".encode()) == [Path(name)]
    assert taken("-", stdin=b"nowhere.jpg\n") == [Path("nowhere.jpg")]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl", ".lst"])
def test_a_list_as_an_argument_stands_for_its_images(suffix: str, photos: list[Path]) -> None:
    text = {
        ".txt": "".join(f"{name} 0\n" for name in NAMES),
        ".lst": "".join(f"{name}\n" for name in NAMES),
        ".csv": "image,score\n" + "".join(f"{name},0.5\n" for name in NAMES),
        ".json": json.dumps([{"file_name": name, "label": 0} for name in NAMES]),
        ".jsonl": "".join(json.dumps({"path": name}) + "\n" for name in NAMES),
    }[suffix]
    file = write(Path(f"list{suffix}"), text.encode())
    decision = check_paths([str(file)])[0]
    assert decision.kind == "list-form" and decision.facts["images"] == 3
    assert taken(str(file)) == [Path(name) for name in NAMES]
    assert taken(str(file.absolute())) == photos
    below = write(Path("photos/list.txt"), b"sub/c.jpg\n")
    assert taken(str(below), "photos/a b.jpg") == [Path("photos/sub/c.jpg"), Path("photos/a b.jpg")]


def test_a_text_that_is_no_list_and_an_image_called_txt(photos: list[Path]) -> None:
    with pytest.raises(UsageError, match="not found") as raised:
        check_paths([str(write(Path("notes.txt"), b"buy milk\n"))])
    assert "\n" not in str(raised.value)
    from PIL import Image

    Image.new("RGB", (4, 4)).save("image.txt", "PNG")
    assert check_paths(["image.txt"]) == ()
    assert taken("image.txt") == [Path("image.txt")]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_argument_is_refused(empty: str, photos: list[Path]) -> None:
    with pytest.raises(UsageError, match="empty path"):
        check_paths(["photos", empty])
