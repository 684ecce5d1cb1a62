"""SPECs of one's own data: splits, halves, selectors, names, limits, matching to an artifact's classes, digests."""

import hashlib
import os
import pickle
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_trees import ASSETS, class_tree, jpeg, needs_assets, relatives, write, write_catalogue
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.imagepaths import ImagePaths
from negprompt_cli.data.sets.imagesets import ImageSet, default_ood, files_digest, load_image_set, match_classes
from negprompt_cli.data.sets.spec import parse_spec
from negprompt_cli.errors import NegPromptError, UsageError


def load(spec: object, role: str = "ood", **options: object) -> ImageSet:
    return load_image_set(str(spec), role=role, **{"data_root": Path("nowhere"), **options})  # type: ignore[arg-type]


# --- splits and halves


def test_train_and_val_serve_their_roles(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 2, "dog": 3})
    class_tree(tmp_path / "val", {"cat": 1, "dog": 1})
    class_tree(tmp_path / "test", {"cat": 4, "dog": 4})
    train, val, ood = (load(tmp_path, role) for role in ("train", "eval", "ood"))
    assert relatives(train.paths, tmp_path) == [
        "train/cat/000.jpg", "train/cat/001.jpg", "train/dog/000.jpg", "train/dog/001.jpg", "train/dog/002.jpg",
    ]  # fmt: skip
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert relatives(val.paths, tmp_path) == relatives(ood.paths, tmp_path) == ["val/cat/000.jpg", "val/dog/000.jpg"]
    assert not train.halved
    assert train.decisions[0].facts["folders"] == ["test"] and len(train.decisions) == 1


def test_test_serves_where_there_is_no_val(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 2})
    class_tree(tmp_path / "test", {"cat": 3})
    assert len(load(tmp_path, "eval")) == 3


def test_without_splits_classes_are_halved_and_it_is_said(tmp_path: Path) -> None:
    class_tree(tmp_path, {"ant": 1, "cat": 4, "dog": 5})
    train, val, everything = (load(tmp_path, role) for role in ("train", "eval", "ood"))
    assert np.bincount(train.labels).tolist() == [1, 2, 3]
    assert np.bincount(val.labels, minlength=3).tolist() == [0, 2, 2]
    assert not set(train.paths) & set(val.paths)
    assert set(train.paths) | set(val.paths) == set(everything.paths)
    assert any("split in half" in note for note in map(str, train.decisions))
    assert train.halved
    assert val.halved
    assert not everything.halved
    assert any("ant" in note for note in map(str, val.decisions))


def test_halves_are_the_same_for_every_seed_and_whatever_else_is_there(tmp_path: Path) -> None:
    class_tree(tmp_path / "a", {"cat": 20})
    class_tree(tmp_path / "b", {"ant": 3, "cat": 20, "dog": 7})
    first = load(tmp_path / "a", "train", seed=1)
    second = load(tmp_path / "b", "train", seed=2)
    cats = [path.name for path in second.paths if path.parent.name == "cat"]
    assert [path.name for path in first.paths] == cats != [f"{i:03d}.jpg" for i in range(10)]


def test_only_train_is_halved_too(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 6})
    train, val = load(tmp_path, "train"), load(tmp_path, "eval")
    assert len(train) == len(val) == 3
    assert not set(train.paths) & set(val.paths)


def test_only_val_cannot_be_trained_on(tmp_path: Path) -> None:
    class_tree(tmp_path / "val", {"cat": 6})
    assert len(load(tmp_path, "eval")) == 6
    with pytest.raises(UsageError, match="train/"):
        load(tmp_path, "train")


def test_naming_a_split_itself(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 6})
    class_tree(tmp_path / "val", {"cat": 4})
    assert len(load(tmp_path / "val", "eval")) == 4
    assert len(load(tmp_path / "train", "train")) == 6
    for folder, role in (("val", "train"), ("train", "eval")):
        with pytest.raises(UsageError, match="beside"):
            load(tmp_path / folder, role)


def test_links_hold_no_images_out(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 4, "dog": 4})
    (tmp_path / "val").symlink_to("train")
    train, val = load(tmp_path, "train"), load(tmp_path, "eval")
    assert len(train) == len(val) == 4 and {*train.paths}.isdisjoint(val.paths)
    assert "not used: val" in " ".join(map(str, train.decisions))
    (tmp_path / "train" / "hound").symlink_to("dog")
    told = [d for d in load(tmp_path, "train").decisions if d.warning]
    assert [d.facts["links"] for d in told] == [["hound = dog"]]


def test_classes_of_one_name_are_told_of(tmp_path: Path) -> None:
    class_tree(tmp_path, {"Cat": 2, "cat": 2, "red_fox": 2, "red fox": 2, "dog": 2})
    images = load(tmp_path)
    (told,) = [d for d in images.decisions if "same_name" in d.facts]
    assert told.warning and told.facts["same_name"] == [["Cat", "cat"], ["red fox", "red_fox"]]
    assert len(images.classes) == 5


def test_train_and_test_may_be_classes(tmp_path: Path) -> None:
    class_tree(tmp_path, {"bus": 2, "train": 2, "test": 2})
    assert [c.key for c in load(tmp_path).classes] == ["bus", "test", "train"]


def test_a_flat_test_folder_alone_is_a_split(tmp_path: Path) -> None:
    write(tmp_path / "test" / "a.jpg")
    images = load(tmp_path)
    assert images.labels.tolist() == [-1]
    assert images.classes == ()


# --- what is a class, what is an image


def test_the_class_list_is_that_of_both_splits(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"ant": 1, "cat": 1, "dog": 1})
    class_tree(tmp_path / "val", {"cat": 1, "dog": 1, "eel": 1})
    val = load(f"{tmp_path}#1,3", "eval")
    assert [c.key for c in val.classes] == ["cat", "eel"]
    assert [path.parent.name for path in val.paths] == ["cat", "eel"]
    with pytest.raises(UsageError, match="eel"):
        load(tmp_path, "train")
    assert any("ant" in note for note in map(str, load(tmp_path, "eval").decisions))


def test_a_class_without_images_is_an_error_for_training_and_a_note_otherwise(tmp_path: Path) -> None:
    class_tree(tmp_path, {"cat": 2, "dog": 2, "yak": 0})
    with pytest.raises(UsageError, match="yak"):
        load(tmp_path, "train")
    assert any("yak" in note for note in map(str, load(tmp_path).decisions))
    assert len(load(f"{tmp_path}#0-1", "train")) == 2


def test_only_images_are_listed_at_any_depth_and_in_code_point_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "B.webp", "sub/c.tif", "._a.jpg", ".hidden/x.jpg", "__MACOSX/y.jpg", "d.txt", "e"):
        write(tmp_path / "cat" / name)
    write(tmp_path / "dog" / "1.jpg")
    images = load(f"{tmp_path}#0")
    assert relatives(images.paths, tmp_path) == ["cat/B.webp", "cat/a.jpeg", "cat/b.PNG", "cat/sub/c.tif"]


def test_a_link_back_to_a_folder_above_ends(tmp_path: Path) -> None:
    class_tree(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [p.parent.name for p in load(f"{tmp_path}#0").paths] == ["cat"]


def test_images_beside_class_folders_are_left_out_and_said(tmp_path: Path) -> None:
    class_tree(tmp_path, {"cat": 1, "dog": 1})
    write(tmp_path / "stray.jpg")
    images = load(tmp_path)
    assert len(images) == 2
    assert any("1 images directly in" in note for note in map(str, images.decisions))


def test_a_flat_folder_beside_other_folders_is_flat(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    write(tmp_path / "meta" / "list.txt")
    assert load(tmp_path).labels.tolist() == [-1]


@pytest.mark.parametrize("role", ["train", "eval"])
def test_a_flat_folder_has_no_classes_to_train_on(tmp_path: Path, role: str) -> None:
    write(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="class folders"):
        load(tmp_path, role)
    with pytest.raises(UsageError, match="flat folder"):
        load(f"{tmp_path}#0")


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "readme.txt")
    with pytest.raises(UsageError, match=r"\.jpg"):
        load(tmp_path)
    class_tree(tmp_path / "set", {"cat": 0})
    with pytest.raises(UsageError, match=r"\.jpg"):
        load(tmp_path / "set")


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    folder.mkdir()
    name = os.fsencode(folder) + b"/\xff\xfe.jpg"
    try:
        Path(os.fsdecode(name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    class_tree(tmp_path, {"dog": 1})
    images = load(tmp_path)
    assert images.paths[0].is_file()
    assert len(files_digest(images.paths, images.root)) == 64


# --- names


def test_class_names_from_the_folder_and_from_the_option(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"c1": 1, "c2": 1})
    class_tree(tmp_path / "val", {"c1": 1, "c2": 1})
    write(tmp_path / "classnames.txt", b"c1 tabby cat\nc2 sheep dog\n")
    assert [c.name for c in load(tmp_path, "eval").classes] == ["tabby cat", "sheep dog"]
    assert [c.name for c in load(tmp_path / "val", "eval").classes] == ["tabby cat", "sheep dog"]
    mine = write(tmp_path / "mine.txt", b"lion\nwolf\n")
    images = load(f"{tmp_path}#1", "eval", class_names=mine)
    assert [c.name for c in images.classes] == ["wolf"]
    assert any("mine.txt" in note for note in map(str, images.decisions))


def test_classes_that_a_names_file_leaves_out_are_said(tmp_path: Path) -> None:
    class_tree(tmp_path, {"c1": 1, "c_2": 1})
    mine = write(tmp_path / "mine.txt", b"c1 lion\n")
    images = load(tmp_path, class_names=mine)
    assert [c.name for c in images.classes] == ["lion", "c 2"]
    assert any("c_2" in note for note in map(str, images.decisions))


@pytest.mark.parametrize(
    ("folder", "name"), [("photos", "photos"), ("photos/val", "photos-val"), ("my set/images", "my_set-images")]
)
def test_short_names(tmp_path: Path, folder: str, name: str) -> None:
    class_tree(tmp_path / folder, {"cat": 1, "dog": 1})
    assert load(tmp_path / folder).name == name
    assert load(f"{tmp_path / folder}#0").name == f"{name}#0"


def test_a_relative_path_may_start_from_the_data_root(tmp_path: Path) -> None:
    class_tree(tmp_path / "mine", {"cat": 1})
    assert len(load("mine", data_root=tmp_path)) == 1


@pytest.mark.parametrize(("spec", "near"), [("inaturalst", "inaturalist"), ("ImagNet", "imagenet"), ("dtdd", "dtd")])
def test_an_unknown_name_offers_near_ones(spec: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"'{near}'") as raised:
        load(spec)
    assert "no such path" in str(raised.value)


def test_a_path_of_a_catalogue_name_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_tree(tmp_path / "imagenet", {"cat": 2})
    with pytest.raises(UsageError, match=r"\./imagenet"):
        load("imagenet")
    assert len(load("./imagenet")) == 2


def test_an_image_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="single image"):
        load(write(tmp_path / "a.jpg", jpeg()))


def test_default_ood() -> None:
    def found(spec: str) -> list[str]:
        return [own.text for own in default_ood(parse_spec(spec))]

    assert [found(f"p{i}") for i in range(1, 5)] == [["p1-ood"], ["p2-ood"], ["p3-ood"], ["p4-ood"]]
    assert found("imagenet") == ["inaturalist", "sun", "places", "dtd"]
    assert found("p1#0-3") == []
    assert found("some/folder") == []


# --- limits


def test_a_limit_takes_classes_evenly_and_depends_on_the_seed(tmp_path: Path) -> None:
    class_tree(tmp_path, {"ant": 2, "cat": 30, "dog": 30})
    images = load(tmp_path, limit=14)
    assert len(images) == 14
    assert np.bincount(images.labels).tolist() == [2, 6, 6]
    assert any("14 of its 62" in note for note in map(str, images.decisions))
    assert list(load(tmp_path, limit=14).paths) == list(images.paths)
    assert list(load(tmp_path, limit=14, seed=1).paths) != list(images.paths)
    assert len(load(tmp_path, limit=100)) == 62


def test_a_limit_of_a_flat_folder_is_not_its_beginning(tmp_path: Path) -> None:
    for i in range(50):
        write(tmp_path / f"{i:02d}.jpg")
    names = [path.name for path in load(tmp_path, limit=10).paths]
    assert names == sorted(names) != [f"{i:02d}.jpg" for i in range(10)]


# --- matching


def labelled(*classes: tuple[str, str, str | None]) -> ImageSet:
    """One image of each class."""
    labels = tuple(ClassLabel(*c) for c in classes)
    paths = ImagePaths(Path("/x"), [f"{c.key}.jpg" for c in labels])
    return ImageSet("x", "x", paths, np.arange(len(labels)), labels, Path("/x"), "", ())


def test_matching_by_wnid_wherever_both_know_it() -> None:
    images = labelled(("n01", "red fish", "n01"), ("n02", "cat", "n02"))
    artifact = [ClassLabel("b", "cat", "n02"), ClassLabel("c", "dog", None), ClassLabel("a", "a fish", "n01")]
    matched = match_classes(images, artifact)
    assert matched.labels.tolist() == [2, 0]
    assert matched.classes == tuple(artifact)


def test_matching_by_name_where_one_side_has_no_wnid() -> None:
    images = labelled(("n01", "Gold  Fish", "n01"), ("tabby", "tabby cat", None))
    artifact = [ClassLabel("0", "tabby cat", "n77"), ClassLabel("1", "gold fish", None)]
    assert match_classes(images, artifact).labels.tolist() == [1, 0]


def test_the_same_name_with_another_wnid_is_another_class() -> None:
    images = labelled(("n01", "crane", "n01"))
    with pytest.raises(UsageError, match=r"crane \(n01\)"):
        match_classes(images, [ClassLabel("n02", "crane", "n02")])


def test_names_that_occur_twice_never_merge() -> None:
    images = labelled(("n04008634", "missile", "n04008634"), ("n03773504", "missile", "n03773504"))
    twice = [ClassLabel("0", "missile", None), ClassLabel("1", "missile", None)]
    assert match_classes(images, twice).labels.tolist() == [0, 1]
    assert match_classes(labelled(("x", "missile", None)), twice).labels.tolist() == [0]
    by_wnid = [ClassLabel(w, "missile", w) for w in ("n03773504", "n04008634")]
    assert match_classes(images, by_wnid).labels.tolist() == [1, 0]
    with pytest.raises(UsageError, match="missile"):
        match_classes(images, twice[:1])


def test_classes_that_do_not_match_are_named() -> None:
    images = labelled(("cat", "cat", None), ("dog", "dog", None), ("emu", "emu", None))
    with pytest.raises(UsageError, match=r"2 of 3 classes .* dog, emu"):
        match_classes(images, [ClassLabel("c", "cat", None)])


def test_unlabelled_images_stay_unlabelled() -> None:
    images = labelled(("cat", "cat", None), ("dog", "dog", None))
    images = images.take(np.array([0, 1, 1]))
    images.labels[1] = -1
    artifact = [ClassLabel("d", "dog", None), ClassLabel("c", "cat", None)]
    assert match_classes(images, artifact).labels.tolist() == [1, -1, 0]


# --- digests and the compact sequence


def test_the_digest_is_sha256_over_paths_and_sizes(tmp_path: Path) -> None:
    class_tree(tmp_path, {"cat": 2})
    images = load(tmp_path)
    by_hand = hashlib.sha256(b"cat/000.jpg\x001\ncat/001.jpg\x001\n").hexdigest()
    assert files_digest(images.paths, images.root) == by_hand
    assert files_digest(list(images.paths)[::-1], images.root) != by_hand
    write(tmp_path / "cat" / "001.jpg", b"yz")
    assert files_digest(images.paths, images.root) != by_hand
    (tmp_path / "cat" / "001.jpg").unlink()
    with pytest.raises(NegPromptError, match=r"001\.jpg"):
        files_digest(images.paths, images.root)


@given(st.lists(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1)))
def test_image_paths_are_a_sequence_of_paths(names: list[str]) -> None:
    names = [name for name in names if name not in (".", "..")]
    paths = ImagePaths(Path("/root"), names)
    plain = [Path("/root") / name for name in names]
    assert list(paths) == plain == [paths[i] for i in range(len(paths))]
    assert [paths[i - len(names)] for i in range(len(names))] == plain
    assert list(paths[1::2]) == plain[1::2]
    assert list(paths.relatives()) == names
    assert list(pickle.loads(pickle.dumps(paths))) == plain
    with pytest.raises(IndexError):
        paths[len(names)]


def test_listing_many_files_opens_none_and_keeps_little(tmp_path: Path) -> None:
    count, folders = 10_000, 50
    for c in range(folders):
        (tmp_path / f"class_{c:02d}").mkdir()
        for i in range(count // folders):
            os.close(os.open(tmp_path / f"class_{c:02d}" / f"image_{i:08d}.jpg", os.O_CREAT | os.O_WRONLY))

    audited: list[str] = []
    sys.addaudithook(lambda event, given: audited.append(str(given[0])) if event == "open" and audited else None)
    load(tmp_path / "class_00")  # facts and modules that are loaded once are not the listing's
    audited.append("from here on")
    tracemalloc.start()
    images = load(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    opened = list(audited)
    audited.clear()
    assert not [name for name in opened if name.endswith(".jpg")]
    assert len(images) == count
    assert kept < 60 * count, "a path takes the length of its name, an end and a label"
    assert peak < 200 * count


# --- one's own catalogue


def test_a_catalogue_of_ones_own(tmp_path: Path) -> None:
    class_tree(tmp_path / "root" / "herbs" / "a", {"mint": 2, "sage": 2, "dill": 2})
    write(tmp_path / "root" / "herbs" / "weeds" / "x.jpg")
    sets: dict[str, object] = {
        "herbs": {"title": "Herbs", "layouts": [{"by": "mine", "images": "herbs/a"}], "classes": 3},
        "two-herbs": {"title": "Two", "subset": {"of": "herbs", "classes": "0,2"}},
        "weeds": {"title": "Weeds", "layouts": [{"by": "mine", "images": "herbs/weeds"}]},
    }
    file = write_catalogue(tmp_path / "own.yaml", sets)
    root = tmp_path / "root"
    assert [c.key for c in load("two-herbs", "train", data_root=root, catalogue=file).classes] == ["dill", "sage"]
    assert len(load("weeds", data_root=root, catalogue=file)) == 1
    write_catalogue(root / "catalogue.yaml", sets)
    assert [c.key for c in load("herbs#1", data_root=root).classes] == ["mint"]
    assert load("herbs#1", data_root=root).name == "herbs#1"


# --- the example images


@needs_assets
def test_the_near_ood_pair() -> None:
    known, unknown = load(ASSETS / "tiny-imagenet#0-99", "eval"), load(f"{ASSETS}/tiny-imagenet#100-199")
    assert (len(known), len(known.classes), len(unknown), len(unknown.classes)) == (2500, 100, 2500, 100)
    assert max(c.key for c in known.classes) < min(c.key for c in unknown.classes)
    train = load(ASSETS / "tiny-imagenet#0-99", "train")
    assert np.bincount(train.labels).tolist() == [16] * 100
    assert train.classes == known.classes


@needs_assets
def test_folders_without_splits() -> None:
    assert len(load(ASSETS / "textures")) == 600
    assert np.bincount(load(f"{ASSETS}/cifar10#0-4,9", "train").labels).tolist() == [30] * 6
    assert [c.name for c in load(ASSETS / "imagenette", "eval").classes][:2] == ["tench", "English Springer Spaniel"]


def test_a_folder_of_a_catalogue_name_in_another_layout_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    with pytest.raises(UsageError, match="none of these layouts") as caught:
        load_image_set("textures", role="ood", data_root=tmp_path)
    assert str(tmp_path / "textures") in str(caught.value)
    with pytest.raises(UsageError) as other:
        load_image_set("textures", role="ood", data_root=tmp_path / "elsewhere")
    assert "none of these layouts" not in str(other.value)
