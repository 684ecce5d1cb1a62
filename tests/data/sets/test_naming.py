"""Names of a list and the folders they belong to: by key, name, number or order; refused where that is a guess."""

import unicodedata
from pathlib import Path

import pytest
from data_trees import class_tree, write
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.class_list import parse_class_list
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.data.sets.matching import Known, fold
from negprompt_cli.data.sets.naming import name_keys, names_by_label
from negprompt_cli.errors import UsageError


def named(text: str, keys: list[str]) -> dict[str, str]:
    return name_keys(parse_class_list(text, "list", keys=keys), keys).names


@given(st.integers(1, 130), st.integers(0, 1))
def test_folders_that_are_numbers_are_named_in_numeric_order(count: int, start: int) -> None:
    numbers = range(start, start + count)
    keys = sorted(str(n) for n in numbers)
    text = "".join(f"thing {chr(97 + n // 26)}{chr(97 + n % 26)}\n" for n in numbers)
    expected = {str(n): f"thing {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in numbers}
    assert named(text, keys) == expected
    if count > 1:
        rows = "".join(f"{n},{expected[str(n)]}\n" for n in numbers)
        assert named(f"id,name\n{rows}", keys) == expected


def test_the_pairs_are_told(tmp_path: Path) -> None:
    class_tree(tmp_path / "data", {str(n): 2 for n in range(11)})
    names = write(tmp_path / "names.txt", "".join(f"thing {chr(97 + n)}\n" for n in range(11)).encode())
    images = load_image_set(str(tmp_path / "data"), role="ood", data_root=tmp_path, class_names=names)
    assert {c.key: c.name for c in images.classes} == {str(n): f"thing {chr(97 + n)}" for n in range(11)}
    (pairs,) = [d.facts["pairs"] for d in images.decisions if "pairs" in d.facts]
    assert pairs == [[str(n), f"thing {chr(97 + n)}"] for n in range(11)]
    told = " ".join(map(str, images.decisions))
    assert "0 = 'thing a'" in told and "10 = 'thing k'" in told


@pytest.mark.parametrize("keys", [["c1", "c10", "c2"], ["1.5", "10.5", "2.5"], ["img 9", "img 10"]])
def test_other_folders_with_numbers_need_keys(keys: list[str]) -> None:
    keys = sorted(keys)
    with pytest.raises(UsageError, match="folder name"):
        named("ant\nbee\nfly\n"[: 4 * len(keys)], keys)
    assert named("".join(f"{key}\tx {i}\n" for i, key in enumerate(keys)), keys) == {
        key: f"x {i}" for i, key in enumerate(keys)
    }


def test_names_of_the_folders_themselves_are_matched_whatever_their_order() -> None:
    keys = ["Zebra", "apple_pie", "t-shirt"]
    assert named("apple pie\nT-Shirt\nzebra\n", keys) == {
        "Zebra": "zebra",
        "apple_pie": "apple pie",
        "t-shirt": "T-Shirt",
    }
    with pytest.raises(UsageError, match="name of the folder 'Zebra'"):
        named("fruit\nzebra\nshirt\n", keys)


def test_a_longer_list_serves_folders_that_are_some_of_its_numbers() -> None:
    names = [f"thing {chr(97 + i)}" for i in range(20)]
    assert named("\n".join(names), ["0", "12", "7"]) == {"0": names[0], "12": names[12], "7": names[7]}
    assert named("\n".join(names), ["20", "3"]) == {"20": names[19], "3": names[2]}
    with pytest.raises(UsageError, match="folder name"):
        named("\n".join(names), ["12", "7"])  # counted from 0 or from 1?


def test_numbers_of_the_list_are_those_of_the_folders() -> None:
    assert named('{"3": "cat", "12": "dog", "40": "owl"}', ["12", "3"]) == {"12": "dog", "3": "cat"}
    with pytest.raises(UsageError, match="called 5"):
        named('{"3": "cat", "12": "dog"}', ["12", "5"])
    # Folders of other names are in label order, as torchvision counts them.
    assert named('{"1": "feline", "0": "bear"}', ["ursus", "felis"][::-1]) == {"felis": "bear", "ursus": "feline"}


@pytest.mark.parametrize("text", ["cat 1\ndog 0\n", "cat\t1\ndog\t0\n", "cat,1\ndog,0\n", '{"cat": 1, "dog": 0}'])
def test_numbers_beside_folder_names_are_no_names(text: str) -> None:
    assert named(text, ["cat", "dog"]) == {"cat": "cat", "dog": "dog"}


def test_a_folder_called_as_a_column_is_a_class() -> None:
    assert named("label\ta label\nzebra\ta zebra\n", ["label", "zebra"]) == {"label": "a label", "zebra": "a zebra"}


def test_lines_that_begin_with_some_folder_names_are_refused() -> None:
    with pytest.raises(UsageError, match="1 of 3 lines"):
        named("red panda\nowl\nfox\n", ["blue", "green", "red"])
    assert named("red the red one\nblue the blue one\n", ["blue", "green", "red"]) == {
        "red": "the red one",
        "blue": "the blue one",
    }


def test_labels_take_the_name_of_their_number() -> None:
    listed = parse_class_list("ant\nbee\nfly\n", "list")
    cases = [([0, 2], {0: "ant", 2: "fly"}), ([1, 2, 3], {1: "ant", 2: "bee", 3: "fly"}), ([0, 3], None)]
    for labels, expected in cases:
        found = names_by_label(listed, labels)
        assert (None if found is None else {label: entry.name for label, entry in found.items()}) == expected
    numbered = names_by_label(parse_class_list('{"7": "ant", "9": "bee"}', "list"), [9, 7, 9])
    assert numbered is not None and {label: entry.name for label, entry in numbered.items()} == {7: "ant", 9: "bee"}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(TEXTS)
def test_unicode_forms_case_and_separators_are_one_name(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert fold(unicodedata.normalize(form, text)) == fold(text)
    assert fold(f"  {text}  ") == fold(text)
    assert fold("Crème_brûlée") == fold(unicodedata.normalize("NFD", "crème-Brûlée")) == "crème brûlée"


@given(st.lists(TEXTS, unique=True), TEXTS)
def test_an_equal_name_goes_first_and_a_doubtful_one_is_none(names: list[str], text: str) -> None:
    found = Known(names).find(text)
    if text in names:
        assert found == text
    else:
        same = [name for name in names if fold(name) == fold(text)]
        assert found == (same[0] if len(same) == 1 else None)
