"""`check_data`: clean on good data, and every kind of damage named."""

import shutil
from pathlib import Path

import pytest
from data_trees import ASSETS, class_tree, jpeg, needs_assets, write, write_catalogue
from PIL import Image

from negprompt_cli.data.prepare.check import Report, check_data
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent


def check(spec: object, **options: object) -> Report:
    return check_data(str(spec), **{"data_root": Path("nowhere"), "progress": Silent(), **options})  # type: ignore[arg-type]


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.problems}


def only(report: Report, kind: str) -> tuple[str, ...]:
    """The items of the one problem there is."""
    assert [finding.kind for finding in report.problems] == [kind]
    return report.problems[0].items


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Two classes with training and evaluation images, all different."""
    for part, start in (("train", 0), ("val", 100)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(3):
                write(tmp_path / "pets" / part / name / f"{i}.jpg", jpeg(start + 10 * c + i))
    return tmp_path / "pets"


def test_good_data_are_clean(good: Path) -> None:
    report = check(good)
    assert not report.findings
    assert [(p.role, p.images, p.classes) for p in report.parts] == [("train", 6, 2), ("eval", 6, 2)]
    assert report.decoded == 12


def test_one_split_by_itself_is_not_compared_with_itself(good: Path) -> None:
    report = check(good / "train")
    assert not report.problems
    assert [(p.role, p.images) for p in report.parts] == [("train", 6)]
    file = write(good / "few-train.txt", b"train/cat/0.jpg 0\ntrain/dog/0.jpg 1\n")
    assert not check(file).problems
    assert [(p.role, p.images) for p in check(good / "val").parts] == [("eval", 6)]


def test_broken_and_empty_files_are_named(good: Path) -> None:
    broken = write(good / "val" / "cat" / "1.jpg", jpeg(5, (300, 300))[:400])
    empty = write(good / "train" / "dog" / "2.jpg", b"")
    report = check(good)
    assert kinds(report) == {"broken", "empty-file"}
    assert {f.kind: f.items for f in report.problems} == {"broken": (str(broken),), "empty-file": (str(empty),)}


def test_without_decoding_only_sizes_are_seen(good: Path) -> None:
    write(good / "val" / "cat" / "1.jpg", b"no image")
    write(good / "train" / "dog" / "2.jpg", b"")
    report = check(good, decode=False)
    assert kinds(report) == {"empty-file"}
    assert report.decoded == 0


def test_a_limit_decodes_fewer(good: Path) -> None:
    assert check(good, limit=2).decoded == 4


def test_files_of_a_list_that_are_missing(good: Path) -> None:
    file = write(good / "list.txt", b"val/cat/0.jpg 0\nval/dog/0.jpg 1\nval/dog/9.jpg 1\n")
    assert only(check(file), "missing") == (str(good / "val" / "dog" / "9.jpg"),)


def test_identical_images_within_a_part_and_across_parts(good: Path) -> None:
    within = good / "val" / "cat" / "copy.jpg"
    shutil.copy(good / "val" / "cat" / "1.jpg", within)
    assert only(check(good), "duplicate") == (f"{good / 'val' / 'cat' / '1.jpg'} = {within}",)
    within.unlink()
    leak = good / "val" / "dog" / "leak.jpg"
    shutil.copy(good / "train" / "dog" / "0.jpg", leak)
    assert only(check(good), "leak") == (f"{good / 'train' / 'dog' / '0.jpg'} = {leak}",)


def test_files_of_the_same_size_are_not_therefore_the_same(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.bmp")
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 1
    assert not check(tmp_path).problems


def test_classes_without_images(good: Path) -> None:
    (good / "train" / "yak").mkdir()
    report = check(good)
    assert kinds(report) == {"empty-class"}
    assert any("yak" in finding.message for finding in report.problems)


def test_counts_against_the_catalogue(good: Path, tmp_path: Path) -> None:
    entry = {
        "title": "Pets",
        "layouts": [{"by": "me", "train": "pets/train", "eval": "pets/val"}],
        "images": {"train": 6, "eval": 7},
        "classes": 3,
    }
    file = write_catalogue(tmp_path / "own.yaml", {"pets": entry})
    report = check("pets", data_root=tmp_path, catalogue=file)
    said = [finding.message for finding in report.problems]
    assert said == ["train: 2 classes, expected 3", "eval: 6 images, expected 7", "eval: 2 classes, expected 3"]
    assert not check("pets#0", data_root=tmp_path, catalogue=file).problems


def test_the_count_of_a_list_layout_is_its_own(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "all" / f"{i}.jpg", jpeg(i))
    write(tmp_path / "part.txt", b"0.jpg -1\n2.jpg -1\n")
    entry = {
        "title": "X",
        "images": {"eval": 3},
        "layouts": [{"by": "L", "images": "all", "imglist": "part.txt", "count": 2}, {"by": "L", "images": "all"}],
    }
    file = write_catalogue(tmp_path / "own.yaml", {"x": entry})
    assert not check("x", data_root=tmp_path, catalogue=file).problems
    (tmp_path / "part.txt").unlink()
    assert not check("x", data_root=tmp_path, catalogue=file).problems


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (("golf_ball", "golf-ball"), True),
        (("Cat", "cat_"), True),
        (("class 1", "01"), True),
        (("n99999999", "cat"), True),
        (("cat", "ox"), False),
        (("n04008634", "n03773504"), False),
    ],
)
def test_class_names(tmp_path: Path, folders: tuple[str, str], problem: bool) -> None:
    class_tree(tmp_path, dict.fromkeys(folders, 2), decodable=True)
    assert kinds(check(tmp_path)) == ({"class-name"} if problem else set())


def test_the_names_of_the_classes_are_in_the_report(tmp_path: Path) -> None:
    class_tree(tmp_path / "set", {str(n): 2 for n in (0, 2, 10)})
    names = write(tmp_path / "names.txt", b"ant lion\nbee\nfly\n")
    report = check(tmp_path / "set", class_names=names, decode=False)
    assert [(c.key, c.name) for c in report.classes] == [("0", "ant lion"), ("10", "fly"), ("2", "bee")]


@pytest.mark.parametrize("split", ["", "train"])
def test_a_lone_class_called_data_is_a_warning(tmp_path: Path, split: str) -> None:
    class_tree(tmp_path / "set" / split, {"data": 4})
    said = [finding for finding in check(tmp_path / "set", decode=False).findings if "only class" in finding.message]
    assert [finding.level for finding in said] == ["warning"]


def test_imagenet_names_that_occur_twice_are_only_a_warning(tmp_path: Path) -> None:
    class_tree(tmp_path, {"n04008634": 2, "n03773504": 2}, decodable=True)
    report = check(tmp_path)
    assert not report.problems
    assert any("missile" in finding.message for finding in report.findings)


def test_overlap_with_an_ood_set(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    class_tree(other, {"Dog": 0, "emu": 0})
    write(other / "Dog" / "0.jpg", jpeg(500))
    shutil.copy(good / "val" / "cat" / "0.jpg", other / "emu" / "same.jpg")
    report = check(good, ood=[str(other)])
    assert [finding.items for finding in report.problems] == [
        ("Dog",),
        (f"{good / 'val' / 'cat' / '0.jpg'} = {other / 'emu' / 'same.jpg'}",),
    ]
    assert not check(good, ood=[f"{other}#1"], decode=False).problems[1:]


def test_the_same_folder_as_id_and_ood_is_an_overlap(good: Path) -> None:
    report = check(f"{good}#0", ood=[str(good)])
    assert kinds(report) == {"overlap"}
    assert sum(len(finding.items) for finding in report.problems) == 1 + 3
    assert not check(f"{good}#0", ood=[f"{good}#1"]).problems


def test_rotated_photos_and_other_files_are_warnings(good: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").save(good / "val" / "cat" / "1.jpg", exif=exif)
    write(good / "val" / "cat" / "phone.HEIC")
    write(good / "val" / "cat" / "list.txt")
    report = check(good)
    assert not report.problems
    assert {finding.kind for finding in report.findings} == {"exif-rotation", "other-file"}
    assert any(".heic" in finding.message for finding in report.findings)


def test_a_flat_folder_can_be_checked(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", jpeg(1))
    assert [(p.role, p.images, p.classes) for p in check(tmp_path).parts] == [("all", 1, 0)]


def test_what_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        check("sun")


@needs_assets
def test_the_example_images_are_clean_and_a_damaged_copy_is_not(tmp_path: Path) -> None:
    assert not check(ASSETS / "textures", ood=[str(ASSETS / "cifar10")]).problems
    copy = tmp_path / "imagenette"
    shutil.copytree(ASSETS / "imagenette", copy, copy_function=shutil.copyfile)
    for folder in (copy, *copy.rglob("*")):
        folder.chmod(0o755)
    assert not check(copy, decode=False).problems
    first, second, *_ = sorted((copy / "val" / "n01440764").iterdir())
    first.write_bytes(first.read_bytes()[:500])
    second.write_bytes(b"")
    shutil.rmtree(copy / "train" / "n03028079")
    (copy / "train" / "n03028079").mkdir()
    shutil.copy(next((copy / "train" / "n03000684").iterdir()), copy / "val" / "n03000684" / "leak.JPEG")
    report = check(copy, ood=[f"{ASSETS / 'imagenette'}#0"])
    assert kinds(report) == {"broken", "empty-file", "empty-class", "overlap"}
    assert first.name in str(report.problems)
    assert second.name in str(report.problems)
