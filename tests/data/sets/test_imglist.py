"""Lists of images: the three forms, where their images are looked for, what keys their classes."""

from pathlib import Path

import numpy as np
import pytest
from data_trees import relatives, write
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.classnames import imagenet_wnids
from negprompt_cli.data.sets.image_list import format_list, parse_line, read_image_list
from negprompt_cli.data.sets.image_records import Line
from negprompt_cli.data.sets.imagesets import ImageSet, load_image_set
from negprompt_cli.errors import UsageError

WNIDS = imagenet_wnids()


def load(spec: object, role: str = "eval", **options: object) -> ImageSet:
    return load_image_set(str(spec), role=role, **{"data_root": Path("nowhere"), **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a/b.jpg 3", Line("a/b.jpg", 3)),
        ("a/b.jpg -1", Line("a/b.jpg", -1)),
        ("a/b.jpg", Line("a/b.jpg", None)),
        ("a/my photo.jpg", Line("a/my photo.jpg", None)),
        ("a/my photo.jpg 12", Line("a/my photo.jpg", 12)),
        ("a/photo 2 b.jpg 12", Line("a/photo 2 b.jpg", 12)),
        ("a/b.jpg  7", Line("a/b.jpg", 7)),
        ("a/b.jpg 7 golden retriever", Line("a/b.jpg", 7, "golden retriever")),
    ],
)
def test_lines(text: str, line: Line) -> None:
    assert parse_line(text) == line


PATHS = st.lists(st.text("abc_-/1", min_size=1).map(lambda text: text + ".jpg"), unique=True, min_size=1)


@given(PATHS, st.data())
def test_lists_round_trip(paths: list[str], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(-1, 999), min_size=len(paths), max_size=len(paths)))
    lines = format_list(paths, labels).splitlines()
    assert [parse_line(line) for line in lines] == [Line(p, n) for p, n in zip(paths, labels, strict=True)]


def test_comments_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    file = write(tmp_path / "list.txt", b"# comment\n\na.jpg 1\n  \nb.jpg 0\n")
    assert read_image_list(file).lines == [Line("a.jpg", 1), Line("b.jpg", 0)]


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lists no image"):
        read_image_list(write(tmp_path / "list.txt", b"# only this\n"))


def test_protocol_csv(tmp_path: Path) -> None:
    good = write(tmp_path / "p.csv", b"train/n01/a, b.JPEG,0\nval/c.JPEG,-2\n")
    assert read_image_list(good).lines == [Line("train/n01/a, b.JPEG", 0), Line("val/c.JPEG", -2)]
    assert read_image_list(good).protocol
    with pytest.raises(UsageError, match="path,label"):
        read_image_list(write(tmp_path / "bad.csv", b"a.jpg\nb.jpg,0\n"))


def test_a_list_without_splits_is_halved(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)))
    lines = [f"{name}/{i}.jpg {c}" for c, name in enumerate(("cat", "dog")) for i in range(4)]
    file = write(tmp_path / "list.txt", "\n".join(lines).encode())
    train, val = load(file, "train"), load(file, "eval")
    assert train.halved
    assert np.bincount(train.labels).tolist() == np.bincount(val.labels).tolist() == [2, 2]
    assert not set(train.paths) & set(val.paths)
    assert len(load(file, "ood")) == 8
    assert any("split in half" in note for note in map(str, train.decisions))


def test_a_list_of_both_splits_serves_each_role_with_its_own(tmp_path: Path) -> None:
    names = ["train/cat/1.jpg", "val/cat/2.jpg", "train/dog/images/3.jpg", "val/dog/images/4.jpg"]
    tree(tmp_path, *names)
    file = write(tmp_path / "list.txt", "".join(f"{name} {'dog' in name:d}\n" for name in names).encode())
    assert relatives(load(file, "train").paths, tmp_path) == [names[0], names[2]]
    for role in ("eval", "ood"):
        assert relatives(load(file, role).paths, tmp_path) == [names[1], names[3]]


@pytest.mark.parametrize(("name", "role"), [("train_x.txt", "train"), ("x-val.txt", "eval"), ("test.txt", "eval")])
def test_a_list_may_say_by_its_name_what_it_is_for(tmp_path: Path, name: str, role: str) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/1.jpg")
    file = write(tmp_path / name, b"cat/1.jpg 0\ndog/1.jpg 1\n")
    assert len(load(file, role)) == 2
    assert not load(file, role).halved
    with pytest.raises(UsageError, match="says that it lists"):
        load(file, {"train": "eval", "eval": "train"}[role])


def tree(root: Path, *names: str) -> None:
    for name in names:
        write(root / name)


def test_labels_with_a_folder_each_are_keyed_by_folder(tmp_path: Path) -> None:
    tree(tmp_path, "dog/1.jpg", "cat/1.jpg", "cat/2.jpg")
    file = write(tmp_path / "list-val.txt", b"dog/1.jpg 0\ncat/2.jpg 1\ncat/1.jpg 1\ncat/1.jpg 1\n")
    images = load(file)
    assert [c.key for c in images.classes] == ["cat", "dog"]
    assert relatives(images.paths, tmp_path) == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
    assert images.labels.tolist() == [0, 0, 1]
    assert images.name == "list-val"
    assert [c.key for c in load(f"{file}#1").classes] == ["dog"]


def test_images_are_found_from_the_list_above_it_and_below_the_data_root(tmp_path: Path) -> None:
    tree(tmp_path / "data", "pets/dog/1.jpg", "pets/cat/1.jpg")
    text = b"pets/dog/1.jpg 0\npets/cat/1.jpg 1\n"
    beside = write(tmp_path / "data" / "list-val.txt", text)
    below = write(tmp_path / "data" / "pets" / "lists" / "list-val.txt", text)
    elsewhere = write(tmp_path / "lists" / "list-val.txt", text)
    for file, root in ((beside, "nowhere"), (below, "nowhere"), (elsewhere, tmp_path / "data")):
        assert load(file, data_root=Path(root)).root == tmp_path / "data"
    with pytest.raises(UsageError, match="first image was not found") as raised:
        load(elsewhere)
    assert str(tmp_path / "lists" / "pets" / "dog" / "1.jpg") in str(raised.value)


def test_openood_list_of_a_flat_imagenet_val(tmp_path: Path) -> None:
    names = [f"imagenet_1k/val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]
    tree(tmp_path / "images_largescale", *names)
    labels = (657, 744, 0)
    text = format_list(names, labels)
    file = write(tmp_path / "benchmark_imglist" / "imagenet" / "test_imagenet.txt", text.encode())
    images = load(file, data_root=tmp_path)
    assert [c.key for c in images.classes] == [WNIDS[0], WNIDS[657], WNIDS[744]]
    assert [c.name for c in images.classes] == ["tench", "missile", "missile"]
    assert [path.name[-6] for path in images.paths] == ["3", "1", "2"]


def test_labels_that_nothing_names_need_a_file(tmp_path: Path) -> None:
    tree(tmp_path, "all/1.jpg", "all/2.jpg", "all/3.jpg")
    file = write(tmp_path / "list-val.txt", b"all/1.jpg 2\nall/2.jpg 0\nall/3.jpg 2\n")
    with pytest.raises(UsageError, match="does not name its classes"):
        load(file, "eval")
    assert load(file, "ood").labels.tolist() == [-1, -1, -1]
    names = write(tmp_path / "names.txt", b"ant lion\nbee\ncat\n")
    images = load(file, class_names=names)
    assert [(c.key, c.name) for c in images.classes] == [("00000", "ant lion"), ("00002", "cat")]
    assert images.labels.tolist() == [0, 1, 1]


def test_coop_class_names_key_labels_by_wnid(tmp_path: Path) -> None:
    tree(tmp_path, "all/1.jpg", "all/2.jpg")
    file = write(tmp_path / "list-val.txt", b"all/1.jpg 1\nall/2.jpg 0\n")
    write(tmp_path / "list-val.classnames.txt", b"n01440764 a tench\nn01443537 goldfish\n")
    images = load(file)
    assert [(c.key, c.name) for c in images.classes] == [("n01440764", "a tench"), ("n01443537", "goldfish")]
    assert [path.name for path in images.paths] == ["2.jpg", "1.jpg"]


def test_names_in_the_lines(tmp_path: Path) -> None:
    tree(tmp_path, "all/1.jpg", "all/2.jpg")
    file = write(tmp_path / "list-val.txt", b"all/1.jpg 1 brown bear\nall/2.jpg 0 ape\n")
    assert [c.name for c in load(file).classes] == ["ape", "brown bear"]


def test_a_plain_list_takes_folders_as_classes_or_has_none(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/1.jpg", "flat1.jpg")
    folders = write(tmp_path / "a-train.txt", b"dog/1.jpg\ncat/1.jpg\n")
    assert [c.key for c in load(folders, "train").classes] == ["cat", "dog"]
    flat = write(tmp_path / "b.txt", b"flat1.jpg\ndog/1.jpg\n")
    assert load(flat, "ood").labels.tolist() == [-1, -1]
    with pytest.raises(UsageError, match=r"None of the 2 training images of .* has a class"):
        load(flat, "train")


def test_ood_labels_choose_the_images_of_a_role(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/1.jpg", "x/1.jpg", "y/1.jpg")
    file = write(tmp_path / "list-val.txt", b"cat/1.jpg 0\nx/1.jpg -1\ndog/1.jpg 1\ny/1.jpg -1\n")
    assert relatives(load(file).paths, tmp_path) == ["cat/1.jpg", "dog/1.jpg"]
    assert relatives(load(file, "ood").paths, tmp_path) == ["x/1.jpg", "y/1.jpg"]
    only = write(tmp_path / "only-val.txt", b"x/1.jpg -1\n")
    with pytest.raises(UsageError, match="lists no evaluation images"):
        load(only)


def test_protocol_csv_leaves_out_the_known_unknowns(tmp_path: Path) -> None:
    cls_loc = tmp_path / "ImageNet1k" / "ILSVRC" / "Data" / "CLS-LOC"
    names = {f"val/{WNIDS[i]}/ILSVRC2012_val_{i:08d}.JPEG": label for i, label in ((3, 0), (4, 1), (5, -1), (6, -2))}
    tree(cls_loc, *names)
    text = "".join(f"{name},{label}\n" for name, label in names.items())
    file = write(tmp_path / "protocols" / "p9_val.csv", text.encode())
    known, unknown = load(file, data_root=tmp_path), load(file, "ood", data_root=tmp_path)
    assert [c.key for c in known.classes] == [WNIDS[3], WNIDS[4]]
    assert [path.parent.name for path in unknown.paths] == [WNIDS[6]]
    assert known.root == cls_loc


def test_absolute_paths(tmp_path: Path) -> None:
    tree(tmp_path / "far", "cat/1.jpg", "dog/1.jpg")
    lines = "".join(f"{tmp_path}/far/{name}/1.jpg\n" for name in ("cat", "dog"))
    file = write(tmp_path / "lists" / "list-val.txt", lines.encode())
    assert [path.is_file() for path in load(file).paths] == [True, True]


def test_one_name_per_line_follows_the_labels_of_a_list(tmp_path: Path) -> None:
    tree(tmp_path, "dog/1.jpg", "cat/1.jpg")
    file = write(tmp_path / "list-val.txt", b"dog/1.jpg 0\ncat/1.jpg 1\n")
    by_label = write(tmp_path / "names.txt", b"wolf\nlion\n")
    by_key = write(tmp_path / "keyed.txt", b"dog wolf\ncat lion\n")
    for names in (by_label, by_key):
        images = load(file, class_names=names)
        assert [(c.key, c.name) for c in images.classes] == [("cat", "lion"), ("dog", "wolf")]


@pytest.mark.parametrize("other", ["./a/1.jpg", "a/../a/1.jpg", "{}/a/1.jpg"])
def test_an_image_is_one_however_its_path_is_written(other: str, tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/2.jpg")
    again = other.format(tmp_path)
    same = write(tmp_path / "same.csv", f"path,label\na/1.jpg,cat\na/2.jpg,dog\n{again},cat\n".encode())
    assert sorted(load(same, "ood").paths.relatives()) == ["a/1.jpg", "a/2.jpg"]
    two = write(tmp_path / "two.csv", f"path,label\na/1.jpg,cat\na/2.jpg,dog\n{again},dog\n".encode())
    with pytest.raises(UsageError, match="1 images with several classes"):
        load(two, "train")
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "b.jpg").touch()
    led = write(tmp_path / "led.txt", b"link/../b.jpg\n")
    assert list(load(led, "ood").paths.relatives()) == ["b.jpg"]


def test_what_labels_are_named_is_said_and_labels_without_names_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    names = write(tmp_path / "names.txt", b"cat\ndog\ncow\n")
    listed = write(tmp_path / "a.csv", b"path,label\n1.jpg,1\n2.jpg,2\n")
    told = [d.message for d in load(listed, "train", class_names=names).decisions]
    assert any("1 is 'dog', 2 is 'cow'" in text for text in told)
    gap = write(tmp_path / "b.csv", b"path,label\n1.jpg,0\n2.jpg,2\n3.jpg,4\n")
    with pytest.raises(UsageError, match=r"names\.txt has no names for the labels of .*b\.csv, which are 0, 2, 4"):
        load(gap, "train", class_names=names)
