"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from negprompt_cli.data.files.atomic import atomic_folder, atomic_path, atomic_write_bytes, atomic_write_text
from negprompt_cli.errors import NegPromptError


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    atomic_write_text(path, "one\nzwölf\n")
    assert path.read_bytes() == "one\nzwölf\n".encode()
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_nothing_changes_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(path) as temporary:
        temporary.write_text("hal")
        raise RuntimeError("halfway")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_lies_beside_it_with_the_same_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.safetensors") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".safetensors"
        temporary.write_bytes(b"x")


def test_a_full_disk_is_one_message_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(NegPromptError, match=r"Cannot write .*x\.txt: No space left"), atomic_path(path) as temporary:
        temporary.write_text("hal")
        raise OSError(28, os.strerror(28))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_place_of_the_folder_and_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for path in (tmp_path / "file" / "x.txt", tmp_path / "folder"):
        with pytest.raises(NegPromptError, match="Cannot write"):
            atomic_write_text(path, "y")
    assert (tmp_path / "file").read_text() == "x"
    assert (tmp_path / "folder" / "inner").is_dir()


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NegPromptError, match="Cannot write"), atomic_path(tmp_path / "x.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    for text in ("one", "two"):
        with atomic_folder(folder, replacing=True) as temporary:
            (temporary / text).write_text(text)
        assert [p.name for p in folder.iterdir()] == [text]
    with pytest.raises(RuntimeError, match="halfway"), atomic_folder(folder, replacing=True) as temporary:
        (temporary / "three").write_text("thr")
        raise RuntimeError("halfway")
    assert (folder / "two").read_text() == "two"
    with pytest.raises(OSError, match="not empty"), atomic_folder(folder) as temporary:
        (temporary / "four").write_text("four")
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_what_was_there_comes_back_when_the_new_folder_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "old").write_text("old")

    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    with pytest.raises(PermissionError), atomic_folder(folder, replacing=True):
        monkeypatch.setattr(Path, "replace", refuse)
    assert (folder / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
