"""SPECs and lists of them; ranges of indices against a slow reading."""

from pathlib import Path

import pytest
from data_trees import ranges_by_hand
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.spec import parse_ranges, parse_spec, select_indices, split_specs
from negprompt_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "base", "selector", "label"),
    [
        ("imagenet", "imagenet", "", ""),
        ("tiny#0-99", "tiny", "0-99", "#0-99"),
        ("a/b#0-4, 7", "a/b", "0-4, 7", "#0-4,7"),
        ("photos#lists/known.txt", "photos", "lists/known.txt", "#known"),
        ("odd#name#3", "odd#name", "3", "#3"),
    ],
)
def test_spec_is_taken_apart(text: str, base: str, selector: str, label: str) -> None:
    spec = parse_spec(text)
    assert (spec.base, spec.selector, spec.label) == (base, selector, label)


def test_a_path_with_a_hash_in_its_name_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "set#1").mkdir()
    assert parse_spec(str(tmp_path / "set#1")).selector == ""
    assert parse_spec(f"{tmp_path / 'set#1'}#0-3").base == str(tmp_path / "set#1")
    (tmp_path / "end ").mkdir()
    assert parse_spec(f"{tmp_path}/end ").base == f"{tmp_path}/end "
    assert [spec.base for spec in split_specs(f"{tmp_path}/end ")] == [f"{tmp_path}/end "]


@pytest.mark.parametrize("text", ["", "  ", "#0-3", "photos#", "photos# "])
def test_half_a_spec_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_spec(text)


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("inaturalist,sun", ["inaturalist", "sun"]),
        ("a#0-4,7,b", ["a#0-4,7", "b"]),
        ("a#0,2-3,9,b#1,5", ["a#0,2-3,9", "b#1,5"]),
        (" a , b ,", ["a", "b"]),
        ("a#known.txt,7", ["a#known.txt", "7"]),
        ("a,7", ["a", "7"]),
        ("a#1,./7", ["a#1", "./7"]),
    ],
)
def test_lists_of_specs(text: str, specs: list[str]) -> None:
    assert [spec.text for spec in split_specs(text)] == specs


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UsageError):
        split_specs(" , ")


def test_commas_of_paths_and_patterns_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert [spec.base for spec in split_specs("a,b")] == ["a,b"]
    assert [spec.base for spec in split_specs("dtd,s-{00,01}.tar,sun")] == ["dtd", "s-{00,01}.tar", "sun"]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_ranges_are_the_union_sorted_without_repeats(pairs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{min(pair)}-{max(pair)}" for pair in pairs)
    assert list(parse_ranges(text, count=51, what="it")) == sorted(ranges_by_hand(text))


@pytest.mark.parametrize("text", ["1-", "-1", "a", "0--3", "1.5", "5-3", "0-10", ""])
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Class selector"):
        parse_ranges(text, count=10, what="it")


def test_a_selector_file_names_class_folders(tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    file.write_text("# what is known\ncat\n\n  ant \ncat\n")
    keys = ["ant", "bee", "cat"]
    assert select_indices(parse_spec(f"x#{file}"), keys, folders=()) == (0, 2)
    assert select_indices(parse_spec("x#known.txt"), keys, folders=[tmp_path]) == (0, 2)


@pytest.mark.parametrize(
    "keys",
    [
        ("0", "1", "10", "2"),
        ("1 euro", "2 dollar", "3 yen"),
        ("001.Sooty_Albatross", "002.Laysan_Albatross"),
        ("n01440764", "n01443537"),
        ("Paris, France", "Rome, Italy"),
        ("names:", "- cat"),
        ("class 1", "class 2"),
    ],
)
def test_a_selector_file_of_folder_names_is_taken_word_for_word(keys: tuple[str, ...], tmp_path: Path) -> None:
    for chosen in (keys, keys[1:], keys[:1]):
        (tmp_path / "known.txt").write_text("".join(f"{key}\n" for key in chosen))
        found = select_indices(parse_spec(f"x#{tmp_path}/known.txt"), keys, folders=[])
        assert [keys[i] for i in found] == list(chosen)


def test_a_selector_file_may_have_any_form_and_spelling(tmp_path: Path) -> None:
    keys = ("Golden_Retriever", "café", "n01440764")
    for name, text in (
        ("a.json", '["golden retriever", "cafe\u0301"]'),
        ("b.csv", "id,name\n0,golden-retriever\n7,CAFÉ\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert select_indices(parse_spec(f"x#{tmp_path}/{name}"), keys, folders=[]) == (0, 1)


def test_a_selector_file_with_a_wrong_name_offers_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    file.write_text("elefant\n")
    with pytest.raises(UsageError, match="Did you mean 'elephant'"):
        select_indices(parse_spec(f"x#{file}"), ["ant", "elephant"], folders=())


def test_a_selector_file_that_is_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known\.txt"):
        select_indices(parse_spec("x#known.txt"), ["ant"], folders=[tmp_path])


def test_an_empty_selector_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match="has no class names"):
        select_indices(parse_spec("x#known.txt"), ["ant"], folders=[tmp_path])


def test_a_selector_needs_classes() -> None:
    with pytest.raises(UsageError, match="no classes"):
        select_indices(parse_spec("x#0"), [], folders=())
