"""Class names in files: every form that people have gives the same names, and what is not understood is refused."""

import json
from pathlib import Path

import pytest
import yaml
from data_trees import write
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.class_list import (
    ClassList,
    given_names,
    novel_names,
    ordered_classes,
    parse_class_list,
    read_class_list,
)
from negprompt_cli.data.sets.classnames import imagenet_names, imagenet_wnids
from negprompt_cli.errors import UsageError

NAMES = ["red circle", "blue ring", "golden retriever", "no"]
WNIDS = ["n01440764", "n01443537", "n02099601", "n03028079"]


def names_of(listed: ClassList) -> list[str]:
    return [entry.name for entry in listed.entries]


def said(listed: ClassList) -> str:
    return " ".join(str(decision) for decision in listed.decisions)


FORMS: dict[str, tuple[str, str]] = {
    "plain": ("", "\n".join(NAMES)),
    "comments, blank lines, white space": ("", "# mine\n\n  red circle\nblue   ring\n golden retriever\t\n\nno\n"),
    "old Macintosh and Windows line ends": ("", "\r\n".join(NAMES)),
    "quoted": ("", "".join(f"'{name}',\n" for name in NAMES)),
    "numbered": ("", "".join(f"{i}. {name}\n" for i, name in enumerate(NAMES, 1))),
    "numbered with colons and quotes": ("", "".join(f'{i}: "{name}"\n' for i, name in enumerate(NAMES))),
    "bullets": ("", "".join(f"- {name}\n" for name in NAMES)),
    "index name": ("", "".join(f"{i} {name}\n" for i, name in reversed(list(enumerate(NAMES))))),
    "name index": ("", "".join(f"{name} {i}\n" for i, name in enumerate(NAMES))),
    "index, dash, name": ("", "".join(f"{i} - {name}\n" for i, name in enumerate(NAMES))),
    "index=name": ("", "".join(f"{i}={name}\n" for i, name in enumerate(NAMES))),
    "index, arrow, name": ("", "".join(f"{i} -> {name}\n" for i, name in enumerate(NAMES))),
    "index wnid name": ("", "".join(f"{i} {w} {n}\n" for i, (w, n) in enumerate(zip(WNIDS, NAMES, strict=True)))),
    "three columns": (".csv", "".join(f"{i},{n},{w}\n" for i, (w, n) in enumerate(zip(WNIDS, NAMES, strict=True)))),
    "csv of Open Images": (".csv", "".join(f"/m/0a{i},{name}\n" for i, name in enumerate(NAMES))),
    "csv with codes": (".csv", "LabelName,DisplayName\n" + "".join(f"/m/0a{i},{n}\n" for i, n in enumerate(NAMES))),
    "csv of pandas": (".csv", ",id,name\n" + "".join(f"{i},{i}.0,{n}\n" for i, n in enumerate(NAMES))),
    "TAB": ("", "".join(f"{name}\t{i}\n" for i, name in enumerate(NAMES))),
    "wnid name": ("", "".join(f"{w} {name}\n" for w, name in zip(WNIDS, NAMES, strict=True))),
    "wnid index name": ("", "".join(f"{w} {i} {name}\n" for i, (w, name) in enumerate(zip(WNIDS, NAMES, strict=True)))),
    "wnid TAB name": ("", "".join(f"{w}\t{name}\n" for w, name in zip(WNIDS, NAMES, strict=True))),
    "csv with header": (".csv", "id,name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(NAMES))),
    "csv, name first": (".csv", "class_name,class_id\n" + "".join(f"{name},{i}\n" for i, name in enumerate(NAMES))),
    "csv, more columns": (".csv", "Index;Colour;Name\n" + "".join(f"{i};x;{name}\n" for i, name in enumerate(NAMES))),
    "csv without header": (".csv", "".join(f'{i},"{name}"\n' for i, name in enumerate(NAMES))),
    "csv of one column": (".csv", "label\n" + "".join(f'"{name}"\n' for name in NAMES)),
    "csv of Excel": (".csv", "sep=;\nid;name\n" + "".join(f"{i};{name}\n" for i, name in enumerate(NAMES))),
    "csv in a text file": (".txt", "id,name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(NAMES))),
    "tsv": (".tsv", "id\tname\n" + "".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES))),
    "json list": (".json", json.dumps(NAMES)),
    "json index": (".json", json.dumps(dict(enumerate(NAMES)))),
    "json index, ten first": (".json", json.dumps({str(i): NAMES[i] for i in (2, 0, 3, 1)})),
    "keras": (".json", json.dumps({str(i): [w, n] for i, (w, n) in enumerate(zip(WNIDS, NAMES, strict=True))})),
    "torchvision": (".json", json.dumps({name: i for i, name in enumerate(NAMES)})),
    "pairs": (".json", json.dumps(list(zip(WNIDS, NAMES, strict=True)))),
    "wnid to name": (".json", json.dumps(dict(zip(WNIDS, NAMES, strict=True)))),
    "transformers": (".json", json.dumps({"model_type": "vit", "id2label": dict(enumerate(NAMES)), "label2id": {}})),
    "coco": (".json", json.dumps({"images": [], "categories": [{"id": i, "name": n} for i, n in enumerate(NAMES, 1)]})),
    "json lines": (".jsonl", "".join(json.dumps({"id": i, "name": n}) + "\n" for i, n in enumerate(NAMES))),
    "python": ("", "{0: 'red circle',\n 1: 'blue ring',\n 2: \"golden retriever\",\n 3: 'no'}"),
    "yaml list": (".yaml", "names:\n" + "".join(f"- {name}\n" for name in NAMES)),
    "yaml index": (".yml", "nc: 4\ntrain: ../train\nnames:\n" + "".join(f"  {i}: {n}\n" for i, n in enumerate(NAMES))),
    "yaml without the suffix": ("", yaml.safe_dump({"names": NAMES, "nc": 4})),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_one_list_in_every_form(form: str, encoding: str, tmp_path: Path) -> None:
    suffix, text = FORMS[form]
    path = write(tmp_path / f"names{suffix}", text.encode(encoding))
    listed = read_class_list(path)
    assert names_of(listed) == NAMES
    decision = listed.decisions[0]
    assert decision.kind == "class-names-form"
    assert decision.facts["classes"] == 4
    assert decision.facts["first"][1] == "red circle" and decision.facts["last"][1] == "no"
    assert listed.form in decision.message and str(path) in decision.message
    with path.open("rb") as pipe:
        if suffix in ("", ".json", ".jsonl"):
            assert names_of(read_class_list(pipe, "standard input")) == NAMES


def test_keys_are_kept(tmp_path: Path) -> None:
    for form in (
        "wnid name",
        "wnid index name",
        "wnid TAB name",
        "keras",
        "pairs",
        "wnid to name",
        "three columns",
        "index wnid name",
    ):
        suffix, text = FORMS[form]
        listed = parse_class_list(text, "list", suffix=suffix)
        assert [entry.key for entry in listed.entries] == WNIDS
        assert [c.wnid for c in novel_names(listed).classes] == WNIDS


REFUSED = {
    "one line of names": "red circle,blue ring,no\n",
    "cells without a meaning": "red circle,blue ring\ngreen star,grey dot\n",
    "a table of numbers": "1,2,3\n4,5,6\n",
    "broken JSON": '["red circle", "blue ring"',
    "JSON that maps texts": '{"model": "vit", "dataset": "pets"}',
    "JSON of descriptions": '{"hen": ["two legs", "red comb"], "cock": ["feathers", "a tail"]}',
    "JSON numbers": "[1, 2, 3]",
    "JSON with holes": '["cat", null]',
    "JSON with an empty name": '["cat", ""]',
    "a number twice": '{"0": "cat", "00": "dog"}',
    "a key twice": '{"0": "cat", "0": "dog"}',
    "a wnid twice": "n01440764 tench\nn01440764 cat\n",
    "nothing": "{}",
    "XML": "<classes>\n<name>cat</name>\n</classes>\n",
    "protobuf text": "item {\n  id: 1\n  name: 'cat'\n}\n",
    "an assignment": "classes = ['cat',\n 'dog']\n",
    "settings": "[classes]\nfirst = cat\nsecond = dog\n",
    "broken YAML": "names:\n- cat\n\t- dog\n",
    "YAML with another count": "nc: 3\nnames: [cat, dog]\n",
    "YAML without names": "train: a\nval: b\n",
    "a key twice in YAML": "names:\n  0: cat\n  0: dog\n",
    "unknown wnids": "n99999999\nn99999998\n",
    "terminal codes": "cat\n\x1b[31mdog\n",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_looks_structured_is_never_taken_for_a_name(kind: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_class_list(REFUSED[kind], "the list")
    assert str(raised.value).startswith("the list")
    assert "\n" not in str(raised.value)


def test_a_table_by_its_suffix_is_refused_where_rows_differ() -> None:
    with pytest.raises(UsageError, match="different numbers of cells"):
        parse_class_list("id,name\n0,cat\n1,dog,big\n", "a.csv", suffix=".csv")


WORD = st.text("abcdefgh", min_size=1, max_size=6)


@given(st.lists(st.lists(WORD, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=20))
def test_plain_names_stay_what_they_are(names: list[str]) -> None:
    listed = parse_class_list("\n".join(names), "list")
    assert names_of(listed) == names or names[0] in ("name", "class", "label")
    assert names_of(given_names(names)) == names


@pytest.mark.parametrize(
    "names",
    [
        ["Alien: Covenant", "Jaws"],
        ["type 1", "type 2", "type 3"],
        ["7 up", "cola"],
        ["Boeing 737", "Boeing 747"],
        ["bull's eye", 'the "real" thing'],
        ["Salem, Massachusetts", "Rome"],
        ["C++", "C#"],
        ["rock & roll", "50% off", "a/b"],
        ["漢字", "café", "حصان"],
        ["cat (animal)", "crane (machine)"],
    ],
)
def test_odd_names_are_names(names: list[str]) -> None:
    assert names_of(parse_class_list("\n".join(names), "list")) == names


def test_the_first_synonym_is_the_name_and_the_others_are_told() -> None:
    words = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"
    listed = parse_class_list(words, "synset_words.txt")
    assert names_of(listed) == ["tench", "goldfish"]
    assert "Tinca tinca" in said(listed)
    assert listed.decisions[1].facts["synonyms_left_out"] == {"tench": "Tinca tinca", "goldfish": "Carassius auratus"}
    # The same texts without wnids, as a widely copied dictionary has them.
    assert names_of(parse_class_list("{0: 'tench, Tinca tinca',\n 1: 'goldfish, Carassius auratus'}", "x")) == [
        "tench",
        "goldfish",
    ]
    assert names_of(parse_class_list("tench, Tinca tinca\nmy fish, a pet\nhen\n", "x")) == ["tench", "my fish", "hen"]
    kept = parse_class_list("Salem, Massachusetts\nRome\n", "list")
    assert "kept whole" in said(kept)


def test_wnids_get_their_words() -> None:
    listed = parse_class_list("\n".join(imagenet_wnids()[:5]), "synsets.txt")
    assert names_of(listed) == list(imagenet_names()[:5])
    assert [entry.key for entry in listed.entries] == list(imagenet_wnids()[:5])
    index = parse_class_list(json.dumps({w: i for i, w in enumerate(imagenet_wnids()[:5])}), "class_to_idx")
    assert names_of(index) == list(imagenet_names()[:5])


@pytest.mark.parametrize(
    ("text", "names", "told"),
    [
        ("golden_retriever\nt_shirt\n", ["golden retriever", "t shirt"], "Underscores"),
        (
            "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
            ["Black footed Albatross", "Laysan Albatross"],
            "Numbers",
        ),
        ("/a/apartment_building/outdoor 0\n/b/bar 1\n", ["apartment building outdoor", "bar"], "name index"),
        ('{"3": "dog", "1": "cat"}', ["cat", "dog"], "ordered by their numbers"),
        ('{"3": "dog", "1": "cat"}', ["cat", "dog"], "some are missing"),
        ("cat # the small one\ndog\n", ["cat", "dog"], "Comments after #"),
        ("a photo of a cat\na photo of a dog\n", ["a photo of a cat", "a photo of a dog"], "whole prompts"),
        ("0 cat\n2 dog\n", ["0 cat", "2 dog"], "begin with a number"),
        ("- cat\n* dog\n", ["- cat", "* dog"], "begin with a number or a mark"),
        ("cafe\u0301\n\ufeffcat\u200b\n", ["caf\u00e9", "cat"], "names"),
    ],
)
def test_what_is_changed_is_told(text: str, names: list[str], told: str) -> None:
    listed = parse_class_list(text, "list")
    assert names_of(listed) == names
    assert told in said(listed)


def test_distinct_names_and_names_in_label_order() -> None:
    listed = parse_class_list("cat\ndog\nCat\n", "list")
    novel = novel_names(listed)
    assert [c.name for c in novel.classes] == ["cat", "dog"]
    assert novel.decisions[:-1] == listed.decisions
    assert novel.decisions[-1].kind == "classes-left-out" and novel.decisions[-1].facts["classes"] == ["Cat"]
    assert [(c.key, c.name) for c in ordered_classes(parse_class_list("cat\ncat\n", "list"))] == [
        ("cat", "cat"),
        ("cat (2)", "cat"),
    ]


@pytest.mark.parametrize("names", ["cat", [], ["cat", " "], ["cat", 3]])
def test_names_given_in_python_are_a_list_of_texts(names: object) -> None:
    with pytest.raises(UsageError):
        given_names(names)  # type: ignore[arg-type]


def test_a_name_given_in_python_is_taken_as_it_is() -> None:
    assert names_of(given_names(['["cat"]', "# dog", "a\nb"])) == ['["cat"]', "# dog", "a b"]
