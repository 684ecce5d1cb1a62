"""Images inside tar files, Parquet files and datasets: the same images, classes and rows as from folders."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from packed_world import picture, write_parquet, write_shards, write_tar
from PIL import Image

from negprompt_cli.data.encoding.feature_cache import image_keys
from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.imagesets import ImageSet, files_digest, load_image_set
from negprompt_cli.data.sets.packed import expanded, is_item
from negprompt_cli.data.sets.pathlist import check_paths, list_paths
from negprompt_cli.errors import UsageError


def listed(*arguments: object, left_out: LeftOut | None = None) -> list[str]:
    given = [str(argument) for argument in arguments]
    check_paths(given)
    return [str(path) for path in list_paths(given, [], LeftOut() if left_out is None else left_out)]


def loaded(spec: object, role: str = "eval", **more: object) -> ImageSet:
    return load_image_set(str(spec), role=role, data_root=Path(), **more)  # type: ignore[arg-type]


def same_pictures(paths: list[str], numbers: list[int]) -> bool:
    expected = [Image.open(io.BytesIO(picture(number))).tobytes() for number in numbers]
    return [open_rgb(Path(path)).tobytes() for path in paths] == expected


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_of_tar_files_are_images_of_their_names(mode: str, tmp_path: Path) -> None:
    shard = tmp_path / ("a.tar" if mode == "w" else "a.tar.gz")
    members = [
        ("./cat/1.png", picture(1)),
        ("dog/2.PNG", picture(2)),
        ("dog/._2.png", b"x"),
        ("dog/notes.txt", b"notes"),
        ("dog/clip.mp4", b"x"),
        ("../out.png", picture(9)),
        ("/abs/3.png", picture(3)),
    ]
    write_tar(shard, members, mode=mode)
    left_out = LeftOut()
    paths = listed(shard, left_out=left_out)
    assert paths == [f"{shard}/{name}" for name in ("cat/1.png", "dog/2.PNG", "abs/3.png")]
    assert same_pictures(paths, [1, 2, 3])
    assert same_pictures(paths[::-1], [3, 2, 1])
    assert left_out.by_reason() == {"beside": {".txt": 1}, "container": {".mp4": 1}, "system": {"._*": 1}}
    # A folder and a list name them as well, and so does another process, which knows their paths only.
    listing = tmp_path / "some.txt"
    listing.write_text(f"{paths[1]}\n{shard.name}/cat/1.png\n")
    assert listed(listing) == [paths[1], paths[0]]
    assert all(is_item(Path(path)) for path in paths)


def test_patterns_in_braces(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "s", [2, 3, 1])
    pattern = f"{tmp_path}/s/{{000..002}}.tar"
    assert expanded(pattern) == expanded(f"{tmp_path}/s/{{000,001,002}}.tar") == shards
    assert expanded(f"{tmp_path}/s/*.tar") == shards
    assert listed(pattern) == listed(*shards) == listed(tmp_path / "s")
    assert len(listed(pattern)) == 6
    with pytest.raises(UsageError, match=r"4 files, but 1 do not exist, the first is .*003\.tar"):
        listed(f"{tmp_path}/s/{{000..003}}.tar")
    with pytest.raises(UsageError, match="not a range"):
        listed(f"{tmp_path}/s/{{9..1}}.tar")


def test_shards_have_the_classes_of_their_samples(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", [5, 7])
    train, held = loaded(tmp_path / "s", "train"), loaded(tmp_path / "s", "eval")
    assert [c.name for c in train.classes] == ["class 0", "class 1"]
    assert len(train) == len(held) == 6
    assert {*train.paths}.isdisjoint(held.paths)
    for images in (train, held):
        for path, label in zip(images.paths, images.labels.tolist(), strict=True):
            assert int(path.stem) % 2 == label
    # Names of files tell parts, where there is more than one.
    write_shards(tmp_path / "t", [4], name="set-train-{:03d}.tar")
    write_shards(tmp_path / "t", [2], name="set-val-{:03d}.tar")
    assert (len(loaded(tmp_path / "t", "train")), len(loaded(tmp_path / "t", "eval"))) == (4, 2)
    assert len(loaded(f"{tmp_path}/t/set-train-*.tar", "train")) == 2
    # A number without a name needs names.
    write_tar(tmp_path / "n.tar", [("1.png", picture(1)), ("1.cls", b"1"), ("2.png", picture(2)), ("2.cls", b"0")] * 1)
    with pytest.raises(UsageError, match="does not name its classes"):
        loaded(tmp_path / "n.tar", "train")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    named = loaded(tmp_path / "n.tar", "ood", class_names=tmp_path / "names.txt")
    assert [named.classes[label].name for label in named.labels] == ["cat", "dog"]


def test_folders_in_a_tar_file_are_classes_and_parts(tmp_path: Path) -> None:
    members = [
        (f"set/{part}/{name}/{n}.png", picture(n))
        for part in ("train", "val")
        for name in ("cat", "dog")
        for n in range(3)
    ]
    write_tar(tmp_path / "set.tar", members)
    for role in ("train", "eval"):
        images = loaded(tmp_path / "set.tar", role)
        assert [c.name for c in images.classes] == ["cat", "dog"]
        assert len(images) == 6
        assert all(path.parts[-3] == {"train": "train", "eval": "val"}[role] for path in images.paths)


def test_masks_in_samples_are_no_images(tmp_path: Path) -> None:
    members = [("1.jpg", picture(1, "JPEG")), ("1.seg.png", picture(2)), ("1.cls", b"0"), ("a.b.png", picture(3))]
    left_out = LeftOut()
    paths = listed(write_tar(tmp_path / "a.tar", members), left_out=left_out)
    assert [Path(path).name for path in paths] == ["1.jpg", "a.b.png"]
    assert left_out.by_reason()["twin"] == {".png": 1}


def test_what_is_broken_in_a_tar_file_is_told(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("1.png", b""), ("2.png", b"<html>"), ("3.png", picture(3))])
    paths = listed(shard)
    for path, says in zip(paths, ("the file is empty", "a web page"), strict=False):
        with pytest.raises(BrokenImage, match=says):
            open_rgb(Path(path))
    with pytest.raises(BrokenImage, match="no such member"):
        open_rgb(shard / "4.png")
    whole = shard.read_bytes()
    # Cut within a member, within a header and between members, where tarfile sees an end.
    for wrong in (b"", b"no tar file at all" * 100, whole[:1600], whole[:700], whole[:512]):
        (tmp_path / "wrong.tar").write_bytes(wrong)
        with pytest.raises(UsageError, match=r"wrong\.tar"):
            listed(tmp_path / "wrong.tar")
    write_tar(tmp_path / "none.tar", [("a.txt", b"x"), ("b.heic", b"x")])
    with pytest.raises(UsageError, match=r"No images in .*HEIC"):
        listed(tmp_path / "none.tar")


def test_keys_and_digests_follow_the_file_that_holds_the_images(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("1.png", picture(1)), ("2.png", picture(2))])
    paths = [Path(path) for path in listed(shard)]
    first, digest = image_keys(paths), files_digest(paths, tmp_path)
    assert len(set(first)) == 2
    write_tar(shard, [("1.png", picture(1)), ("2.png", picture(2)), *((f"{n}.png", picture(n)) for n in range(3, 30))])
    assert not set(image_keys(paths)) & set(first)
    assert files_digest(paths, tmp_path) != digest
    assert same_pictures([str(path) for path in paths], [1, 2])


def test_rows_of_parquet_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    names = ["red circle", "blue ring"]
    train = write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", list(range(8)), names=names)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [8, 9], names=names)
    paths = listed(train)
    assert paths == [f"{train}/{row:06d}" for row in range(8)]
    assert same_pictures(paths, list(range(8)))
    assert same_pictures(paths[::-3], [7, 4, 1])
    images = loaded(tmp_path / "data", "train")
    assert [images.classes[label].name for label in images.labels] == ["red circle"] * 4 + ["blue ring"] * 4
    assert [int(path.name) % 2 for path in images.paths] == images.labels.tolist()
    assert len(loaded(tmp_path / "data", "eval")) == 2
    with pytest.raises(BrokenImage, match="only 8 rows"):
        open_rgb(train / "000008")


def test_other_parquet_files(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    (tmp_path / "2.png").write_bytes(picture(2))
    rows = [{"bytes": picture(1), "path": None}, {"bytes": None, "path": "2.png"}, {"bytes": None, "path": None}]
    parquet.write_table(pyarrow.table({"img": rows, "category": ["a", "b", "a"]}), tmp_path / "a.parquet")
    paths = listed(tmp_path / "a.parquet")
    assert same_pictures(paths[:2], [1, 2])
    with pytest.raises(BrokenImage, match="no image"):
        open_rgb(Path(paths[2]))
    assert [c.name for c in loaded(tmp_path / "a.parquet", "ood").classes] == ["a", "b"]
    parquet.write_table(pyarrow.table({"jpeg": [picture(5)]}), tmp_path / "b.parquet")
    assert same_pictures(listed(tmp_path / "b.parquet"), [5])
    parquet.write_table(pyarrow.table({"score": [0.5], "path": ["a.png"]}), tmp_path / "c.parquet")
    with pytest.raises(UsageError, match="no column of images: its columns are score double, path string"):
        listed(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        listed(tmp_path / "d.parquet")


def test_datasets_of_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})

    def made(numbers: range) -> object:
        columns = {
            "image": [Image.open(io.BytesIO(picture(n))) for n in numbers],
            "label": [n % 2 for n in numbers],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict(train=made(range(6)), test=made(range(6, 9))).save_to_disk(tmp_path / "saved")
    text = f"hf:{tmp_path}/saved"
    paths = listed(f"{text}:test")
    assert paths == [f"{text}/test/{row:06d}" for row in range(3)]
    assert same_pictures(paths, [6, 7, 8])
    assert len(listed(tmp_path / "saved")) == len(listed(text)) == 9
    assert len(set(image_keys([Path(path) for path in paths]))) == 3
    for spec in (text, tmp_path / "saved"):
        train = loaded(spec, "train")
        assert [c.name for c in train.classes] == ["cat", "dog"]
        assert [int(path.name) % 2 for path in train.paths] == train.labels.tolist()
        assert (len(train), len(loaded(spec, "eval"))) == (6, 3)
    assert len(loaded(f"{text}:train", "train")) == 4
    with pytest.raises(UsageError, match="no split 'val'"):
        listed(f"{text}:val")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(tmp_path / "saved")
    with pytest.raises(UsageError, match="cannot be loaded"):
        listed(f"hf:{tmp_path}/nowhere")


def test_columns_of_datasets_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    datasets.disable_progress_bars()
    names = datasets.ClassLabel(names=["cat", "dog"])
    pictures, labels = [picture(n) for n in range(4)], [0, 1, 0, 1]

    def saved(name: str, **columns: tuple[list[object], object]) -> str:
        features = datasets.Features({column: kind for column, (_, kind) in columns.items()})
        made = datasets.Dataset.from_dict(
            {column: values for column, (values, _) in columns.items()}, features=features
        )
        made.save_to_disk(tmp_path / name)
        return f"hf:{tmp_path}/{name}"

    of_files = [{"bytes": one, "path": None} for one in pictures]
    masks = [{"bytes": one, "path": None} for one in pictures[::-1]]
    many = saved(
        "many", mask=(masks, datasets.Image()), img=(of_files, datasets.Image()), a=(labels, names), b=([0] * 4, names)
    )
    images = loaded(many, "train")
    assert same_pictures([str(path) for path in images.paths], [0, 1])
    told = [one.facts["not_read"] for one in images.decisions if "not_read" in one.facts]
    assert told == [["mask"], ["b"]]
    assert [one.facts["not_read"] for one in check_paths([many])] == [["mask"]]
    plain = saved("plain", image=(pictures, datasets.Value("binary")), label=(labels, datasets.Value("uint8")))
    assert same_pictures(listed(plain), [0, 1, 2, 3])
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert [c.name for c in loaded(plain, "train", class_names=tmp_path / "names.txt").classes] == ["cat", "dog"]
    with pytest.raises(UsageError, match=r"no column of type Image. The columns of train are label \(ClassLabel\)"):
        listed(saved("none", label=(labels, names)))
    unlabelled = saved("unlabelled", image=(of_files, datasets.Image()), label=([-1] * 4, names))
    assert not loaded(unlabelled, "ood").classes
    with pytest.raises(UsageError, match=r"None of the 4 evaluation images of .* has a class"):
        loaded(unlabelled, "eval")


def test_parquet_files_in_the_only_folder_and_their_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    # As a clone of a dataset of the hub is laid out.
    file = tmp_path / "clone/data/a.parquet"
    file.parent.mkdir(parents=True)
    (tmp_path / "clone/README.md").touch()
    table = {"mask": [picture(9)] * 2, "img": [picture(0), picture(1)], "label": ["cat", "dog"], "category": ["x", "y"]}
    parquet.write_table(pyarrow.table(table), file)
    assert listed(tmp_path / "clone") == [f"{file}/000000", f"{file}/000001"]
    assert [one.facts["not_read"] for one in check_paths([str(tmp_path / "clone")])] == [["mask"]]
    images = loaded(tmp_path / "clone", "ood")
    assert [c.name for c in images.classes] == ["cat", "dog"] and same_pictures([str(p) for p in images.paths], [0, 1])
    assert [one.facts["not_read"] for one in images.decisions if "not_read" in one.facts] == [["mask"], ["category"]]
    (tmp_path / "clone/more").mkdir()
    with pytest.raises(UsageError, match="No images"):
        listed(tmp_path / "clone")
    with pytest.raises(UsageError, match="No images"):
        loaded(tmp_path / "clone", "eval")


def test_shards_as_other_programs_write_them(tmp_path: Path) -> None:
    # img2dataset: facts about the images beside the shards, and samples whose download failed.
    texts = [(f"{n}.{suffix}", b"{}") for n in range(3) for suffix in ("txt", "json")]
    write_tar(
        tmp_path / "i" / "00000.tar", sorted([*texts, ("0.jpg", picture(0, "JPEG")), ("2.jpg", picture(2, "JPEG"))])
    )
    (tmp_path / "i" / "00000.parquet").write_bytes(b"PAR1")
    assert [Path(path).name for path in listed(tmp_path / "i")] == ["0.jpg", "2.jpg"]
    # Files of a sample that do not follow each other would lose their classes.
    apart = [("cat/1.png", picture(1)), ("cat/2.png", picture(2)), ("cat/1.cls", b"0"), ("cat/2.cls", b"1")]
    with pytest.raises(UsageError, match="sorted by name"):
        loaded(write_tar(tmp_path / "apart.tar", apart), "train")
    # ImageNet: a tar file per class, in a tar file.
    for n, wnid in enumerate(("n01440764", "n01443537")):
        write_tar(tmp_path / "w" / f"{wnid}.tar", [(f"{wnid}_{i}.JPEG", picture(9 * n + i, "JPEG")) for i in range(4)])
    images = loaded(f"{tmp_path}/w/n*.tar", "train")
    assert [c.name for c in images.classes] == ["tench", "goldfish"] and len(images) == 4
    inner = (tmp_path / "w" / "n01440764.tar").read_bytes()
    with pytest.raises(UsageError, match="1 tar files and no images"):
        listed(write_tar(tmp_path / "train.tar", [("n01440764.tar", inner)]))


def test_links_in_tar_files_are_the_images_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind, target in (
            ("a/1.png", tarfile.REGTYPE, ""),
            ("b/hard.png", tarfile.LNKTYPE, "a/1.png"),
            ("b/soft.png", tarfile.SYMTYPE, "../a/1.png"),
            ("b/out.png", tarfile.SYMTYPE, "../../1.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            content = b"" if target else picture(4)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    paths = listed(tmp_path / "a.tar")
    assert same_pictures(paths[:3], [4, 4, 4])
    with pytest.raises(BrokenImage, match="no such member"):
        open_rgb(Path(paths[3]))


def test_a_name_that_several_members_have_means_none_of_them(tmp_path: Path) -> None:
    # As shards come about whose writer drops the folders of the images.
    members = [("1.png", picture(1)), ("1.cls", b"cat"), ("2.png", picture(2)), ("2.cls", b"cat")]
    write_tar(tmp_path / "a.tar", [*members, ("./1.png", picture(3)), ("1.cls", b"dog")])
    paths = listed(tmp_path / "a.tar")
    assert [path.rpartition("/")[2] for path in paths] == ["1.png", "2.png", "1.png"]
    assert same_pictures(paths[1:2], [2])
    with pytest.raises(BrokenImage, match="2 members of this name"):
        open_rgb(Path(paths[0]))


def test_labels_in_json_are_read_by_their_names(tmp_path: Path) -> None:
    fields = [{"label": "cat", "size": 3}, {"target": 1, "classname": "dog"}, {"caption": "a"}]
    members = [
        member
        for n, record in enumerate(fields)
        for member in ((f"{n}.png", picture(n)), (f"{n}.json", json.dumps(record).encode()))
    ]
    shard = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UsageError, match=r"without a label is 'a\.tar/2\.png'"):
        loaded(shard, "train")
    write_tar(shard, [("1.png", picture(1)), ("1.json", b"{")])
    with pytest.raises(UsageError, match=r"1\.json is not valid JSON"):
        loaded(shard, "train")
