"""Lists of images: every form gives the same images and classes, and what is not understood is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from data_trees import relatives, write

from negprompt_cli.data.sets.image_list import parse_image_list, read_image_list
from negprompt_cli.data.sets.imagesets import ImageSet, load_image_set
from negprompt_cli.errors import UsageError

IMAGES = {"pics/my cat.jpg": ("cat", 0), "pics/a, b.png": ("big dog", 1), "pics/c.JPEG": ("cat", 0)}
"""Path to class name and number: one folder for all, with spaces and commas in names."""


def lines(write_one: Callable[[str, str, int], str], header: str = "") -> str:
    return header + "".join(write_one(path, name, number) + "\n" for path, (name, number) in IMAGES.items())


def quoted(text: str) -> str:
    return f'"{text}"'


FORMS: dict[str, tuple[str, str]] = {
    "space, name": (".txt", lines(lambda p, n, i: f"{p} {n}")),
    "TAB, name": (".txt", lines(lambda p, n, i: f"{p}\t{n}")),
    "comma, name": (".txt", lines(lambda p, n, i: f"{p},{n}")),
    "semicolon, name": (".lst", lines(lambda p, n, i: f"{p}; {n}")),
    "imglist with names": ("", lines(lambda p, n, i: f"{p} {i} {n}")),
    "comma, number, name": (".csv", lines(lambda p, n, i: f"{p},{i},{n}")),
    "comma, name, number": (".csv", lines(lambda p, n, i: f"{quoted(p)},{quoted(n)},{i}")),
    "quoted paths": (".txt", lines(lambda p, n, i: f"{quoted(p)} {n}")),
    "csv with header": (".csv", lines(lambda p, n, i: f"{quoted(p)},{n}", "path,label\n")),
    "csv, class first": (".csv", lines(lambda p, n, i: f"{n},{quoted(p)}", "Category,File Name\n")),
    "csv of pandas": (".csv", lines(lambda p, n, i: f"7,{quoted(p)},{i}.0,{n}", ",image_path,class_id,class_name\n")),
    "csv of Kaggle": (".csv", lines(lambda p, n, i: f"{quoted(p)},{n}", "id,breed\n")),
    "csv, unknown label column": (".csv", lines(lambda p, n, i: f"{quoted(p)},{n}", "filename,animal\n")),
    "csv, label first without a header": (".csv", lines(lambda p, n, i: f"{n},{quoted(p)}")),
    "csv of Excel": (".csv", lines(lambda p, n, i: f"{p};{n}", "sep=;\nimage;class\n")),
    "csv, semicolons": (".csv", lines(lambda p, n, i: f"{p};{n}", "image;class\n")),
    "tsv": (".tsv", lines(lambda p, n, i: f"{p}\t{i}\t{n}", "file\tlabel\tname\n")),
    "jsonl": (".jsonl", lines(lambda p, n, i: json.dumps({"file_name": p, "label": n}))),
    "jsonl, more fields": (
        ".ndjson",
        lines(lambda p, n, i: json.dumps({"image": p, "class": n, "size": [3, 4], "x": None})),
    ),
    "jsonl without the suffix": (".txt", lines(lambda p, n, i: json.dumps({"path": p, "label": i, "class_name": n}))),
    "json records": (
        ".json",
        json.dumps([{"filepath": p, "ground_truth": {"label": n}} for p, (n, _) in IMAGES.items()]),
    ),
    "json samples": (".json", json.dumps({"samples": [{"image": p, "label": n} for p, (n, _) in IMAGES.items()]})),
    "json pairs": (".json", json.dumps([[p, i, n] for p, (n, i) in IMAGES.items()])),
    "json of OpenMMLab": (
        ".json",
        json.dumps(
            {
                "metainfo": {"classes": ["cat", "big dog"]},
                "data_list": [{"img_path": p, "gt_label": i} for p, (_, i) in IMAGES.items()],
            }
        ),
    ),
    "imglist of find": (".txt", lines(lambda p, n, i: f"./{p} {i} {n}")),
    "json path to label": (".json", json.dumps({p: n for p, (n, _) in IMAGES.items()})),
    "json class to paths": (
        ".json",
        json.dumps({c: [p for p, (n, _) in IMAGES.items() if n == c] for c in ("cat", "big dog")}),
    ),
    "CoOp": (".json", json.dumps({"train": [], "val": [], "test": [[p, i, n] for p, (n, i) in IMAGES.items()]})),
}


def tree(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name)
    return root


def load(file: Path, role: str = "eval", **options: object) -> ImageSet:
    return load_image_set(str(file), role=role, data_root=Path("nowhere"), **options)  # type: ignore[arg-type]


def classes_of(images: ImageSet) -> dict[str, str]:
    texts = relatives(images.paths, images.root)
    return {text: images.classes[label].name for text, label in zip(texts, images.labels.tolist(), strict=True)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("form", FORMS)
def test_one_list_in_every_form(form: str, ends: str, encoding: str, tmp_path: Path) -> None:
    tree(tmp_path, *IMAGES)
    suffix, text = FORMS[form]
    file = write(tmp_path / f"val{suffix}", text.replace("\n", ends).encode(encoding))
    images = load(file)
    assert classes_of(images) == {path: name for path, (name, _) in IMAGES.items()}
    (decision,) = (d for d in images.decisions if d.kind == "list-form")
    assert decision.facts["images"] == 3 and str(file) in decision.message
    assert "\n" not in decision.message


@pytest.mark.parametrize("form", ["paths", "imglist", "comma", "json", "NUL"])
def test_lists_without_class_names(form: str, tmp_path: Path) -> None:
    tree(tmp_path, *IMAGES)
    text = {
        "paths": lines(lambda p, n, i: p),
        "imglist": lines(lambda p, n, i: f"{p} {i}"),
        "comma": lines(lambda p, n, i: f"{p},{i}"),
        "json": json.dumps(list(IMAGES)),
        "NUL": "".join(f"{p}\0" for p in IMAGES),
    }[form]
    listed = parse_image_list(text, "list.txt")
    assert [line.path for line in listed.lines] == list(IMAGES)
    expected = [i if form in ("imglist", "comma") else None for _, i in IMAGES.values()]
    assert [line.label for line in listed.lines] == expected
    assert len(load(write(tmp_path / "list.txt", text.encode()), "ood")) == 3


REFUSED = {
    "COCO": ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}', "COCO"),
    "a configuration": ('{"model": "vit", "epochs": 3}', "keys"),
    "objects without paths": ('[{"x": 1}, {"x": 2}]', "columns"),
    "several labels": ('[{"image": "a.jpg", "label": ["cat", "dog"]}]', "one label"),
    "broken JSON": ('[{"image": "a.jpg"', "JSON"),
    "rows of other lengths": ("path,label\na.jpg,0\nb.jpg,0,1\n", "header has 2 cells"),
    "a header alone": ("path,label\n", "no image"),
    "NUL characters alone": ("\0\0\n", "no image"),
    "HTML": ("<html>\n<body>\n", "not a list"),
    "addresses": ("https://example.org/a.jpg 0\n", "Download"),
    "an unknown part": ("path,label,split\na.jpg,0,train\nb.jpg,1,fold7\n", "fold7"),
    "a class out of range": ('{"classes": ["cat"], "labels": {"a": 3}}', "there are 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_list_is_refused_in_one_line(kind: str) -> None:
    text, said = REFUSED[kind]
    with pytest.raises(UsageError, match=said) as raised:
        parse_image_list(text, "the list")
    assert str(raised.value).startswith("the list")
    assert "\n" not in str(raised.value)


def test_a_column_of_folds_is_not_used_and_a_message_says_so() -> None:
    listed = parse_image_list("path,label,split\na.jpg,0,0\nb.jpg,1,4\n", "the list")
    assert [line.part for line in listed.lines] == [None, None]
    assert "'split' names neither train, val nor test and is not used" in listed.decisions[0].message
    parts = parse_image_list("path,label,split\na.jpg,0,train\nb.jpg,1,val\n", "the list")
    assert "not used" not in parts.decisions[0].message


def test_text_that_is_no_list_is_refused_in_one_line_that_names_the_forms(tmp_path: Path) -> None:
    file = write(tmp_path / "README.md", b"# Photos\n\nSome words about them,\nand more words.\n")
    with pytest.raises(UsageError, match="first image was not found") as raised:
        load(file)
    assert "\n" not in str(raised.value)
    assert "CSV with a header" in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_parts_of_coops_split_files(tmp_path: Path) -> None:
    tree(tmp_path / "images", *(f"{i}.jpg" for i in range(6)))
    entries = [[f"{i}.jpg", i % 2, ("big_cat", "dog")[i % 2]] for i in range(6)]
    split = {"train": entries[:2], "val": entries[2:4], "test": entries[4:]}
    file = write(tmp_path / "split_zhou_Pets.json", json.dumps(split).encode())
    train, test = load(file, "train"), load(file, "eval")
    assert relatives(train.paths, train.root) == ["0.jpg", "1.jpg"]
    assert relatives(test.paths, test.root) == ["4.jpg", "5.jpg"]
    assert [c.name for c in test.classes] == ["big cat", "dog"]
    assert test.root == tmp_path / "images"
    assert not train.halved and not test.halved
    (decision,) = (d for d in test.decisions if d.kind == "split")
    assert decision.facts == {
        "file": str(file),
        "parts": {"train": 2, "val": 2, "test": 2},
        "role": "eval",
        "part": "test",
    }
    only = write(tmp_path / "only.json", json.dumps({"train": entries}).encode())
    with pytest.raises(UsageError, match="no evaluation images"):
        load(only, "eval")


@pytest.mark.parametrize(
    ("words", "evaluation"), [(("train", "val", "test"), "c"), (("Training", "testing", "valid"), "d")]
)
def test_a_column_of_parts(words: tuple[str, str, str], evaluation: str, tmp_path: Path) -> None:
    tree(tmp_path, *(f"x/{n}{i}.jpg" for n in "abcdef" for i in (0, 1)))
    rows = [f"x/{n}{i}.jpg,{('cat', 'dog')[i]},{words[k // 2]}\n" for k, n in enumerate("abcdef") for i in (0, 1)]
    file = write(tmp_path / "all.csv", f"image,label,split\n{''.join(rows)}".encode())
    train, val = load(file, "train"), load(file)
    assert {Path(p).name[0] for p in relatives(train.paths, tmp_path)} == {"a", "b"}
    wanted = {"c", "d"} if evaluation == "c" else {"e", "f"}
    assert {Path(p).name[0] for p in relatives(val.paths, tmp_path)} == wanted
    assert not val.halved


@pytest.mark.parametrize("named", [True, False])
def test_fiftyones_folder(named: bool, tmp_path: Path) -> None:
    tree(tmp_path / "export" / "data", "1.jpg", "2.png", "sub/3.jpg", "4.jpg")
    labels: dict[str, object] = {"1": 1, "2": 0, "sub/3": 1, "4": None}
    classes = ["big cat", "dog"]
    if not named:
        labels = {k: None if v is None else classes[int(str(v))] for k, v in labels.items()}
    document = {"classes": classes if named else None, "labels": {k: v for k, v in labels.items() if v is not None}}
    write(tmp_path / "export" / "labels.json", json.dumps(document).encode())
    images = load(tmp_path / "export", "ood")
    assert classes_of(images) == {"1.jpg": "dog", "2.png": "big cat", "sub/3.jpg": "dog"}
    assert images.root == tmp_path / "export" / "data"


@pytest.mark.parametrize("prefix", ["", "C:\\photos\\", "/home/somebody/"])
def test_lists_from_other_computers(prefix: str, tmp_path: Path) -> None:
    tree(tmp_path, "set/cat/1.jpg", "set/dog/2.jpg")
    separator = "/" if prefix.startswith("/") else "\\"
    paths = [prefix + separator.join(parts) for parts in (("set", "cat", "1.jpg"), ("set", "dog", "2.jpg"))]
    file = write(tmp_path / "val.txt", "".join(f"{path} {i}\n" for i, path in enumerate(paths)).encode())
    images = load(file)
    assert classes_of(images) == {"set/cat/1.jpg": "cat", "set/dog/2.jpg": "dog"}
    told = [d for d in images.decisions if d.kind == "list-form"]
    assert len(told) == 2 and bool(prefix) == told[1].warning


def test_numbers_and_truth_values_are_no_names(tmp_path: Path) -> None:
    tree(tmp_path, "0.jpg", "1.jpg", "a/2.jpg", "b/3.jpg")
    # Oxford's pets: class, species and breed; without names of the classes.
    with pytest.raises(UsageError, match="does not name its classes"):
        load(write(tmp_path / "pets-val.txt", b"0 1 1 1\n1 2 1 2\n"))
    for column, values, says in (
        ("is_ood", ("true", "false"), "has false and true, which are not class names"),
        ("label", ("Yes", "No"), "has no and yes"),
        ("label", ("1e0", "2e0"), "not whole"),
    ):
        text = f"path,{column}\n0.jpg,{values[0]}\n1.jpg,{values[1]}\n"
        with pytest.raises(UsageError, match=says):
            load(write(tmp_path / "t-val.csv", text.encode()))
    # MXNet: number of the image, label, path.
    mxnet = load(write(tmp_path / "m-val.lst", b"0\t1.000000\ta/2.jpg\n7\t0.000000\tb/3.jpg\n"))
    assert classes_of(mxnet) == {"a/2.jpg": "a", "b/3.jpg": "b"}
    # Places: paths from the folder of the set, with a slash in front.
    places = load(write(tmp_path / "p-val.txt", b"/a/2.jpg 1\n/b/3.jpg 0\n"))
    assert classes_of(places) == {"a/2.jpg": "a", "b/3.jpg": "b"}


def test_addresses_of_files_are_paths(tmp_path: Path) -> None:
    tree(tmp_path, "my cats/1.jpg")
    address = f"file://{tmp_path}/my%20cats/1.jpg\n"
    assert [*load(write(tmp_path / "l.txt", address.encode()), "ood").paths] == [tmp_path / "my cats" / "1.jpg"]


def test_paths_without_a_suffix_take_that_of_the_only_image(tmp_path: Path) -> None:
    tree(tmp_path, "imgs/a1.jpg", "imgs/b2.png", "imgs/c3.jpg", "imgs/c3.png")
    file = write(tmp_path / "val.csv", b"id,breed\na1,pug\nb2,beagle\n")
    assert classes_of(load(file)) == {"a1.jpg": "pug", "b2.png": "beagle"}
    with pytest.raises(UsageError, match="not found"):
        load(write(tmp_path / "both-val.csv", b"id,breed\nc3,pug\n"))


def test_labels_by_name_and_folders(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    one_each = load(write(tmp_path / "one-val.txt", b"a/1.jpg cat\na/2.jpg cat\nb/3.jpg dog\n"))
    assert [(c.key, c.name) for c in one_each.classes] == [("a", "cat"), ("b", "dog")]
    across = load(write(tmp_path / "across-val.txt", b"a/1.jpg cat\na/2.jpg Dog\nb/3.jpg dog\n"))
    assert [(c.key, c.name) for c in across.classes] == [("Dog", "Dog"), ("cat", "cat")]
    assert across.labels.tolist() == [0, 0, 1]
    told = " ".join(map(str, across.decisions))
    assert "spellings" in told and "not from the folders" in told
    wnids = load(write(tmp_path / "wnids-val.txt", b"a/1.jpg n01440764\na/2.jpg n01443537\n"))
    assert [c.name for c in wnids.classes] == ["tench", "goldfish"]


def test_an_image_has_one_class_and_counts_once(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UsageError, match=r"several classes; 'a/1\.jpg' is in cat, dog"):
        load(write(tmp_path / "two-val.csv", b"path,label\na/1.jpg,cat\na/1.jpg,dog\nb/2.jpg,dog\n"))
    again = load(write(tmp_path / "again-val.csv", b"path,label\na/1.jpg,cat\n./a//1.jpg,cat\nb/2.jpg,dog\n"))
    assert len(again) == 2
    assert "1 lines" in " ".join(map(str, again.decisions))
    several = b"path,labels\na/1.jpg,cat|dog\nb/2.jpg,dog\n"
    for separator in (b"|", b";"):
        with pytest.raises(UsageError, match="several labels"):
            load(write(tmp_path / "several-val.csv", several.replace(b"|", separator)))
    with pytest.raises(UsageError, match="two names"):
        load(write(tmp_path / "names-val.txt", b"a/1.jpg 0 cat\nb/2.jpg 0 dog\n"))


@pytest.mark.parametrize(
    "text",
    [
        "image,cat,dog\na/1.jpg,1,0\nb/2.jpg,0,1\n",
        "path,width,height\na/1.jpg,3,4\nb/2.jpg,3,4\n",
        "path,score\na/1.jpg,0.25\nb/2.jpg,0.75\n",
        "path,prediction,prediction_name,score\na/1.jpg,cat,cat,0.5\nb/2.jpg,dog,dog,0.5\n",
        '{"file_name": "a/1.jpg", "conversations": [{"x": 1}, {"y": 2}], "id": "p"}\n{"file_name": "b/2.jpg"}\n',
    ],
)
def test_columns_that_may_be_anything_are_no_classes(text: str, tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.jpg", "c.jpg")
    file = write(tmp_path / "val.csv", text.encode())
    images = load(file, "ood")
    assert len(images) == 2
    assert "unclear which of its columns" in " ".join(map(str, images.decisions))
    flat = write(tmp_path / "flat-val.csv", text.replace("a/1", "c").replace("b/2", "c").encode())
    with pytest.raises(UsageError, match="unclear which of its columns"):
        load(flat)


def test_a_table_may_leave_some_images_without_a_class(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/2.jpg")
    for label, empty in (("cat", ""), ("cat", "nan"), ("3.0", "NaN"), ("7", "<NA>")):
        file = write(tmp_path / "val.csv", f"path,label,notes\na/1.jpg,{label},x\na/2.jpg,{empty},y\n".encode())
        assert len(load(file, "ood")) == 2
        with pytest.raises(UsageError, match=r"without a label is 'a/2\.jpg'"):
            load(file)


def test_remarks_are_no_names(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.jpg")
    images = load(write(tmp_path / "val.txt", b"a/1.jpg 0 # sharp\nb/2.jpg 1\n"))
    assert [c.name for c in images.classes] == ["a", "b"]


def test_images_that_are_not_there_are_told_of(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.jpg")
    images = load(write(tmp_path / "val.txt", b"a/9.jpg 0\na/1.jpg 0\nb/2.jpg 1\n"))
    (warned,) = (d for d in images.decisions if d.warning)
    assert warned.facts["missing"] == ["a/9.jpg"]


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"PAR1", b"\x1f\x8b\x08", b"\x80\x04\x95", b"\xff\xd8\xff\xe0"])
def test_tables_in_other_formats_are_called_what_they_are(start: bytes, tmp_path: Path) -> None:
    file = write(tmp_path / "list.csv", start + bytes(range(1, 64)))
    with pytest.raises(UsageError, match="UTF-8") as raised:
        read_image_list(file)
    assert "\n" not in str(raised.value)


def test_images_without_a_label_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "x/1.jpg", "x/2.jpg")
    file = write(tmp_path / "val.txt", b"x/1.jpg 0\nx/2.jpg\n")
    with pytest.raises(UsageError, match=r"without a label is 'x/2\.jpg'"):
        load(file)
    warned = [d for d in read_image_list(file).decisions if d.warning]
    assert "1 of 2 images" in str(warned[0])


def test_what_systems_make_is_left_out_of_lists(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "cat/@eaDir/1.jpg", "cat/._1.jpg", "dog/2.jpg")
    file = write(tmp_path / "val.txt", b"cat/1.jpg\ncat/@eaDir/1.jpg\ncat/._1.jpg\ndog/2.jpg\n")
    images = load(file)
    assert classes_of(images) == {"cat/1.jpg": "cat", "dog/2.jpg": "dog"}
    assert sum(images.left_out.by_reason()["system"].values()) == 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_of_several_columns_of_classes_the_one_that_is_read_is_said(form: str, tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg", "2.jpg")
    rows = [{"path": "1.jpg", "species": "cat", "breed": "manx"}, {"path": "2.jpg", "species": "dog", "breed": "pug"}]
    table = "path,species,breed\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    text = table if form == "csv" else "".join(json.dumps(row) + "\n" for row in rows)
    read = read_image_list(write(tmp_path / f"a.{form}", text.encode()))
    assert [line.name for line in read.lines] == ["cat", "dog"]
    assert read.form.endswith(", classes from 'species'")


@pytest.mark.parametrize(("column", "train", "part"), [("is_valid", "False", "val"), ("is_train", "1", "val")])
def test_a_column_of_truth_values_tells_parts_apart(column: str, train: str, part: str, tmp_path: Path) -> None:
    other = {"False": "True", "1": "0"}[train]
    text = f"path,label,{column}\n1.jpg,cat,{train}\n2.jpg,cat,{other}\n"
    read = read_image_list(write(tmp_path / "a.csv", text.encode()))
    assert [line.part for line in read.lines] == ["train", part]
