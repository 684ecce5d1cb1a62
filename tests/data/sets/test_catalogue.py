"""The catalogue as data: valid, complete in itself, and clear about what is wrong in one's own."""

from pathlib import Path

import pytest
from data_trees import ranges_by_hand, write, write_catalogue

from negprompt_cli.data.prepare.listing import list_sets
from negprompt_cli.data.sets.catalogue import built_in, load_catalogue, protocols
from negprompt_cli.data.sets.spec import split_specs
from negprompt_cli.errors import UsageError

NAMES = [
    "imagenet",
    "imagenet10",
    "imagenet20",
    "imagenet100",
    "p1",
    "p2",
    "p3",
    "p4",
    "inaturalist",
    "sun",
    "places",
    "dtd",
    "ssb-hard",
    "ninco",
    "textures",
    "openimage-o",
    "imagenet-o",
    "cifar10",
    "cifar100",
    "svhn",
    "mnist",
    "food101",
    "oxford-pets",
    "flowers102",
    "eurosat",
]


def test_the_promised_sets_are_there() -> None:
    assert set(NAMES) <= set(built_in().sets)


def test_every_set_has_a_title_a_citation_and_a_way_to_get_it() -> None:
    for name, entry in built_in().sets.items():
        assert entry.title, name
        assert entry.citation, name
        assert entry.download or entry.fetch or entry.subset or entry.comes_with, name
        # How many distorted images OpenOOD's list has is not known here.
        assert entry.images.eval or name == "imagenet-c", name


def test_names_and_defaults_refer_to_sets_that_exist() -> None:
    sets = built_in().sets
    for name, entry in sets.items():
        assert name == name.lower()
        for other in split_specs(entry.default_ood) if entry.default_ood else ():
            assert other.text in sets, name


def test_class_counts_of_subsets_are_those_of_their_protocols() -> None:
    for name, entry in built_in().sets.items():
        if entry.subset is not None and entry.subset.protocol is not None:
            ranges = protocols()[entry.subset.protocol].part(entry.subset.part)
            count = len(ranges_by_hand(ranges))
            assert count == entry.classes, name
            assert entry.images.eval == 50 * count, name


def test_one_cannot_download_what_needs_a_login() -> None:
    sets = built_in().sets
    assert sets["imagenet"].download is None
    assert sets["ssb-hard"].download is None
    assert all(entry.download.md5 for entry in sets.values() if entry.download)


LAYOUT = {"by": "me", "images": "x"}


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"a": {"title": "A"}}, "layouts"),
        ({"a": {"layouts": [LAYOUT]}}, "title"),
        ({"a": {"title": "A", "layouts": [LAYOUT], "colour": 1}}, "colour"),
        ({"a": {"title": "A", "layouts": [{"by": "me"}]}}, "images"),
        ({"a": {"title": "A", "layouts": [{"by": "me", "images": "x", "train": "y"}]}}, "either"),
        ({"a": {"title": "A", "layouts": [{"by": "me", "train": "x", "eval": "y", "imglist": "z"}]}}, "imglist"),
        ({"a": {"title": "A", "subset": {"of": "b", "classes": "0"}}}, "b"),
        ({"a": {"title": "A", "subset": {"of": "imagenet"}}}, "protocol"),
        ({"a": {"title": "A", "subset": {"of": "imagenet", "protocol": "p5"}}}, "p5"),
        ({"a": {"title": "A", "torchvision": "ImageFolder"}}, "CIFAR10"),
        ({"a": {"title": "A", "layouts": [LAYOUT], "images": {"eval": 0}}}, "greater than 0"),
        ({"a b": {"title": "A", "layouts": [LAYOUT]}}, "pattern"),
        ({"a": {"title": "A", "layouts": [LAYOUT], "download": {"url": "http://x", "makes": "x", "md5": "1"}}}, "md5"),
    ],
)
def test_a_wrong_catalogue_says_what_is_wrong(tmp_path: Path, sets: dict[str, object], said: str) -> None:
    file = write_catalogue(tmp_path / "own.yaml", sets)
    with pytest.raises(UsageError, match=said) as raised:
        load_catalogue(tmp_path, file)
    assert "Traceback" not in str(raised.value)


def test_subsets_of_themselves_are_refused(tmp_path: Path) -> None:
    a = {"title": "A", "subset": {"of": "b", "classes": "0"}}
    b = {"title": "B", "subset": {"of": "a", "classes": "0"}}
    with pytest.raises(UsageError, match="subset of itself"):
        load_catalogue(tmp_path, write_catalogue(tmp_path / "own.yaml", {"a": a, "b": b}))


@pytest.mark.parametrize("content", [b"sets: [", b"", b"- a", b"\xff\xfe", b"sets: !!python/object/apply:os.getcwd []"])
def test_what_is_no_catalogue_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match=r"own\.yaml"):
        load_catalogue(tmp_path, write(tmp_path / "own.yaml", content))


def test_a_missing_catalogue_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.yaml"):
        load_catalogue(tmp_path, tmp_path / "own.yaml")


def test_ones_own_entries_win(tmp_path: Path) -> None:
    own = {"dtd": {"title": "Mine", "layouts": [LAYOUT]}}
    write_catalogue(tmp_path / "catalogue.yaml", own)
    assert load_catalogue(tmp_path).sets["dtd"].title == "Mine"
    assert built_in().sets["dtd"].title != "Mine"
    newer = write_catalogue(tmp_path / "newer.yaml", {"dtd": {**own["dtd"], "title": "Newer"}})
    assert load_catalogue(tmp_path, newer).sets["dtd"].title == "Newer"


def test_names_are_found_in_any_case_and_suggested() -> None:
    assert built_in().named("ImageNet")[0] == "imagenet"
    with pytest.raises(UsageError, match="'inaturalist'"):
        built_in().named("inaturalst")


def test_listing_tells_what_is_here_and_counts(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "SUN" / f"{name}.jpg")
    write(tmp_path / "ImageNet" / "val" / "n01440764" / "x.JPEG")
    rows = {row.name: row for row in list_sets(built_in(), tmp_path)}
    assert {name for name, row in rows.items() if row.here} >= {"sun", "imagenet", "p1", "p4-ood", "imagenet10"}
    assert not rows["places"].here
    assert (rows["sun"].eval, rows["places"].how, rows["p1"].how) == (10000, "download", "with imagenet")
    counted = {row.name: row for row in list_sets(built_in(), tmp_path, count=True)}
    assert (counted["sun"].eval, counted["places"].eval) == (3, None)
    assert (counted["imagenet"].eval, counted["imagenet"].classes, counted["imagenet"].train) == (1, 1000, None)
