"""Class names. Oracles: open_clip's and timm's own public API."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.classnames import (
    class_label,
    imagenet_names,
    imagenet_wnids,
    label_classes,
    words,
)
from negprompt_cli.data.sets.naming import read_class_names
from negprompt_cli.errors import UsageError


def test_imagenet_names_and_wnids_are_those_of_the_libraries() -> None:
    import open_clip
    from timm.data import ImageNetInfo

    assert imagenet_names() == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert imagenet_wnids() == tuple(ImageNetInfo().label_names())
    assert list(imagenet_wnids()) == sorted(imagenet_wnids())


def test_names_that_occur_twice_stay_two_classes() -> None:
    wnids = imagenet_wnids()
    for first, second, name in ((657, 744, "missile"), (836, 837, "sunglasses")):
        a, b = class_label(wnids[first]), class_label(wnids[second])
        assert a.name == b.name == name
        assert a.key != b.key
    assert len({class_label(wnid).key for wnid in wnids}) == 1000


@pytest.mark.parametrize(
    ("folder", "name", "wnid"),
    [
        ("n01440764", "tench", "n01440764"),
        ("golden_retriever", "golden retriever", None),
        ("T-shirt__red", "T shirt red", None),
        ("_", "_", None),
    ],
)
def test_folders_read_as_names(folder: str, name: str, wnid: str | None) -> None:
    label = class_label(folder)
    assert (label.key, label.name, label.wnid) == (folder, name, wnid)


def test_a_wnid_outside_imagenet_1k_is_named_by_wordnet() -> None:
    assert "n00007846" not in imagenet_wnids()
    assert class_label("n00007846").name == "person"
    assert class_label("n99999999").name == "n99999999"


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_words_have_no_separators_left(folder: str) -> None:
    name = words(folder)
    assert name
    if name != folder:
        assert "_" not in name
        assert "-" not in name
        assert "  " not in name


KEYS = ["n01440764", "n01443537", "n01484850"]


def test_coop_form_may_list_more_classes_than_there_are(tmp_path: Path) -> None:
    file = tmp_path / "classnames.txt"
    file.write_text("n01440764 a tench\nn01443537 goldfish\nn01484850 white shark\nn02123045 tabby cat\n")
    assert read_class_names(file, KEYS[:2]).names == {"n01440764": "a tench", "n01443537": "goldfish"}


def test_tabs_and_keys_with_spaces(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("# mine\nbig dog\tdog of size\nbig cat lion\n")
    assert read_class_names(file, ["big", "big cat", "big dog"]).names == {"big dog": "dog of size", "big cat": "lion"}


def test_one_name_per_line_in_sorted_order(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("ant lion\nbee\ncat\n")
    assert read_class_names(file, ["00", "01", "02"]).names == {"00": "ant lion", "01": "bee", "02": "cat"}


@pytest.mark.parametrize("text", ["ant\nbee\n", "", "00 ant\n00 bee\n"])
def test_files_that_do_not_fit_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "names.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"names\.txt"):
        read_class_names(file, ["00", "01", "02"])


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match="UTF-8"):
        read_class_names(file, KEYS)


def test_file_names_win_over_folder_names() -> None:
    named = label_classes(KEYS, {"n01440764": "my fish"})
    assert [c.name for c in named] == ["my fish", "goldfish", "great white shark"]
    assert [c.wnid for c in named] == KEYS
