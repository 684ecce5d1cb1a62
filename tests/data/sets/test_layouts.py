"""A fake ImageNet in every layout people have, the hard protocols on it, and the layouts of the OOD sets."""

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_trees import SHARED, class_tree, ranges_by_hand, relatives, write

from negprompt_cli.cli.remedies import full_message
from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.data.sets.catalogue import protocols
from negprompt_cli.data.sets.classnames import imagenet_names, imagenet_wnids
from negprompt_cli.data.sets.imagesets import ImageSet, load_image_set, match_classes
from negprompt_cli.errors import UsageError

WNIDS = imagenet_wnids()
# Image i of the flat validation folder shows class (7 i) mod 1000, so that neither order gives the labels away.
SHOWN = [7 * i % 1000 for i in range(1000)]
FLAT = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(1000)]

FOLDERED = {
    "MCM": ("ImageNet/train", "ImageNet/val"),
    "LoCoOp and CoOp": ("imagenet/images/train", "imagenet/images/val"),
    "NegPrompt": ("ImageNet1k/ILSVRC/Data/CLS-LOC/train", "ImageNet1k/ILSVRC/Data/CLS-LOC/val"),
    "NegPrompt, big K": ("ImageNet1K/ILSVRC/Data/CLS-LOC/train", "ImageNet1K/ILSVRC/Data/CLS-LOC/val"),
    "OpenOOD": ("images_largescale/imagenet_1k/train", "images_largescale/imagenet_1k/val"),
    "torchvision": ("imagenet/train", "imagenet/val"),
    "torchvision in the root": ("train", "val"),
}


def make_train(folder: Path) -> None:
    for i in (0, 1, 999):
        write(folder / WNIDS[i] / f"{WNIDS[i]}_1.JPEG")


def make_foldered_val(folder: Path) -> None:
    for name, label in zip(FLAT, SHOWN, strict=True):
        write(folder / WNIDS[label] / name)


def make_flat_val(folder: Path) -> None:
    for name in FLAT:
        write(folder / name)


@pytest.fixture(scope="module")
def foldered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One foldered ImageNet, to be linked to from each layout."""
    root = tmp_path_factory.mktemp("foldered")
    make_train(root / "train")
    make_foldered_val(root / "val")
    return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flat")
    make_train(root / "train")
    make_flat_val(root / "val")
    return root


def place(tree: Path, data_root: Path, train: str, val: str) -> None:
    for part, at in (("train", train), ("val", val)):
        (data_root / at).parent.mkdir(parents=True, exist_ok=True)
        (data_root / at).symlink_to(tree / part, target_is_directory=True)


def wrong_labels(images: object) -> list[str]:
    """Names of validation images whose class is not the one they show."""
    truth = dict(zip(FLAT, SHOWN, strict=True))
    return [
        path.name
        for path, label in zip(images.paths, images.labels.tolist(), strict=True)  # type: ignore[attr-defined]
        if images.classes[label].key != WNIDS[truth[path.name]]  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("layout", FOLDERED)
def test_foldered_imagenet(layout: str, foldered: Path, tmp_path: Path) -> None:
    place(foldered, tmp_path, *FOLDERED[layout])
    images = load_image_set("imagenet", role="eval", data_root=tmp_path)
    assert len(images) == 1000
    assert [c.key for c in images.classes] == list(WNIDS)
    assert [c.name for c in images.classes] == list(imagenet_names())
    assert not wrong_labels(images)
    assert images.layout.startswith(f"{layout.split(',')[0].split(' in ')[0]} layout: ")
    train = load_image_set("imagenet#0,1,999", role="train", data_root=tmp_path)
    assert [path.parent.name for path in train.paths] == [WNIDS[0], WNIDS[1], WNIDS[999]]
    with pytest.raises(UsageError, match="997 of 1000 classes of imagenet have no training images"):
        load_image_set("imagenet", role="train", data_root=tmp_path)


def kaggle(root: Path) -> None:
    rows = [f"{name[:-5]},{WNIDS[label]} 1 2 3 4 {WNIDS[0]} 5 6 7 8" for name, label in zip(FLAT, SHOWN, strict=True)]
    write(root / "ImageNet1k" / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows[::-1]]).encode())


def devkit(folder: Path) -> None:
    """The kit numbers the classes its own way, and lists inner nodes of the tree besides the 1000 leaves."""
    from scipy.io import savemat

    ids = {label: (label * 3 + 11) % 1000 + 1 for label in range(1000)}
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", object), ("num_children", "f8")]
    synsets = np.array([(ids[i], WNIDS[i], 0) for i in range(1000)] + [(1001, "n00001740", 5)], dtype=kinds)
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "\n".join(str(ids[label]) for label in SHOWN)
    write(folder / "ILSVRC2012_validation_ground_truth.txt", truth.encode())


def devkit_t12(root: Path) -> None:
    devkit(root / "ImageNet1k" / "ILSVRC2012_devkit_t12" / "data")


def devkit_in_the_tree(root: Path) -> None:
    devkit(root / "ImageNet1k" / "ILSVRC" / "devkit" / "data")


def imglists(root: Path) -> None:
    lines = [f"imagenet_1k/val/{name} {label}" for name, label in zip(FLAT, SHOWN, strict=True)]
    folder = root / "benchmark_imglist" / "imagenet"
    write(folder / "val_imagenet.txt", "\n".join(lines[:100]).encode())
    write(folder / "test_imagenet.txt", "\n".join(lines[100:]).encode())


@pytest.mark.parametrize("truth", [kaggle, devkit_t12, devkit_in_the_tree, imglists])
def test_flat_val_with_labels_from(truth: Callable[[Path], None], flat: Path, tmp_path: Path) -> None:
    truth(tmp_path)
    place(flat, tmp_path, *FOLDERED["NegPrompt"])
    images = load_image_set("imagenet", role="eval", data_root=tmp_path)
    assert len(images) == 1000
    assert not wrong_labels(images)
    some = load_image_set("imagenet#657,744", role="eval", data_root=tmp_path)
    assert sorted(path.name for path in some.paths) == sorted(FLAT[SHOWN.index(label)] for label in (657, 744))
    assert [c.name for c in some.classes] == ["missile", "missile"]


def test_flat_val_without_labels_says_what_was_looked_for(flat: Path, tmp_path: Path) -> None:
    place(flat, tmp_path, *FOLDERED["MCM"])
    for spec, role in (("imagenet", "eval"), ("p1-ood", "ood"), ("p1", "eval")):
        with pytest.raises(UsageError, match=r"LOC_val_solution\.csv") as raised:
            load_image_set(spec, role=role, data_root=tmp_path)  # type: ignore[arg-type]
        assert "ILSVRC2012_validation_ground_truth.txt" in str(raised.value)


def test_images_without_a_label_are_left_out_and_said(flat: Path, tmp_path: Path) -> None:
    imglists(tmp_path)
    (tmp_path / "benchmark_imglist" / "imagenet" / "val_imagenet.txt").unlink()
    place(flat, tmp_path, *FOLDERED["OpenOOD"])
    images = load_image_set("imagenet", role="eval", data_root=tmp_path)
    assert len(images) == 900
    assert any("100 images" in note and "no label" in note for note in map(str, images.decisions))


def test_a_devkit_without_meta_is_refused(flat: Path, tmp_path: Path) -> None:
    devkit_t12(tmp_path)
    (tmp_path / "ImageNet1k" / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").unlink()
    place(flat, tmp_path, *FOLDERED["NegPrompt"])
    with pytest.raises(UsageError, match=r"meta\.mat"):
        load_image_set("imagenet", role="eval", data_root=tmp_path)


COUNTS = {"p1": (116, 166), "p2": (30, 55), "p3": (151, 164), "p4": (100, 900)}


@pytest.mark.parametrize("layout", ["foldered", "flat"])
@pytest.mark.parametrize("protocol", COUNTS)
def test_protocols_choose_the_right_files(
    protocol: str, layout: str, foldered: Path, flat: Path, tmp_path: Path
) -> None:
    place(foldered if layout == "foldered" else flat, tmp_path, *FOLDERED["NegPrompt"])
    kaggle(tmp_path)
    known = load_image_set(protocol, role="eval", data_root=tmp_path)
    unknown = load_image_set(f"{protocol}-ood", role="ood", data_root=tmp_path)
    assert (len(known.classes), len(unknown.classes)) == COUNTS[protocol]
    facts = protocols()[protocol]
    for images, ranges in ((known, facts.id), (unknown, facts.ood)):
        wanted = ranges_by_hand(ranges or "")
        assert {path.name for path in images.paths} == {FLAT[SHOWN.index(label)] for label in wanted}
        assert not wrong_labels(images)
    assert not {c.key for c in known.classes} & {c.key for c in unknown.classes}


@pytest.mark.parametrize(("subset", "count"), [("imagenet10", 10), ("imagenet20", 20), ("imagenet100", 100)])
def test_subsets_are_cut_out_or_stand_alone(subset: str, count: int, foldered: Path, tmp_path: Path) -> None:
    place(foldered, tmp_path, *FOLDERED["MCM"])
    cut = load_image_set(subset, role="eval", data_root=tmp_path)
    assert len(cut) == len(cut.classes) == count
    alone = tmp_path / "alone"
    name = subset.replace("imagenet", "ImageNet")
    for label in cut.classes:
        shutil.copytree(foldered / "val" / label.key, alone / name / "val" / label.key)
    own = load_image_set(subset, role="eval", data_root=alone)
    assert [c.key for c in own.classes] == [c.key for c in cut.classes]
    assert [p.name for p in own.paths] == [p.name for p in cut.paths]
    first = load_image_set(f"{subset}#0-1", role="eval", data_root=tmp_path)
    assert [c.key for c in first.classes] == [c.key for c in cut.classes[:2]]


def test_the_protocols_are_those_of_the_facts() -> None:
    path = SHARED / "facts" / "protocols.yaml"
    if not path.is_file():
        pytest.skip(f"the facts are not at {path}")
    facts = yaml.safe_load(path.read_text())
    assert facts.keys() == protocols().keys()
    for name, parts in facts.items():
        for part, ranges in parts.items():
            assert ranges_by_hand(ranges) == ranges_by_hand(protocols()[name].part(part)), (name, part)


def test_parts_of_a_protocol_do_not_meet() -> None:
    for name, protocol in protocols().items():
        parts = [ranges_by_hand(ranges) for ranges in (protocol.id, protocol.ood, protocol.ignored) if ranges]
        assert sum(map(len, parts)) == len(set().union(*parts)), name


OOD_PLACES = {
    "inaturalist": ["ImageNet_OOD_dataset/iNaturalist", "iNaturalist", "iNaturalist/images"],
    "sun": ["ImageNet_OOD_dataset/SUN", "SUN", "SUN/images", "ImageNet_OOD_dataset/SUN/images"],
    "places": ["ImageNet_OOD_dataset/Places", "Places", "Places/images"],
    "dtd": ["ImageNet_OOD_dataset/dtd/images/banded", "Texture/images/banded", "dtd/images/banded"],
    "ninco": ["NINCO/NINCO_OOD_classes/cup", "images_largescale/ninco/cup"],
    "ssb-hard": ["images_largescale/ssb_hard/n00007846"],
    "openimage-o": ["OpenImage-O", "images_largescale/openimage_o"],
    "imagenet-o": ["imagenet-o/n01440764"],
}
OOD_PLACES["dtd"] += ["dtd/dtd/images/banded", "images_classic/texture/banded"]


@pytest.mark.parametrize(("name", "place"), [(name, at) for name, places in OOD_PLACES.items() for at in places])
def test_ood_sets_in_every_place(name: str, place: str, tmp_path: Path) -> None:
    write(tmp_path / place / "b.jpg")
    write(tmp_path / place / "a.jpg")
    write(tmp_path / place / "notes.txt")
    images = load_image_set(name, role="ood", data_root=tmp_path)
    assert [path.relative_to(tmp_path / place).name for path in images.paths] == ["a.jpg", "b.jpg"]
    assert " layout: " in images.layout


def test_openood_lists_choose_among_the_images(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "images_classic" / "texture" / "banded" / f"{name}.jpg")
    lines = "texture/banded/c.jpg -1\ntexture/banded/a.jpg -1\n"
    write(tmp_path / "benchmark_imglist" / "imagenet" / "test_textures.txt", lines.encode())
    listed = load_image_set("textures", role="ood", data_root=tmp_path)
    assert [path.name for path in listed.paths] == ["a.jpg", "c.jpg"]
    assert len(load_image_set("dtd", role="ood", data_root=tmp_path)) == 3


def test_labels_of_openood_lists_are_places_in_the_class_list(tmp_path: Path) -> None:
    names = ["imagenet_v2/5/a.jpeg", "imagenet_v2/744/b.jpeg", "imagenet_1k/val/ILSVRC2012_val_00000007.JPEG"]
    for name in names:
        write(tmp_path / "images_largescale" / name)
    folder = tmp_path / "benchmark_imglist" / "imagenet"
    write(folder / "test_imagenet_v2.txt", f"{names[0]} 5\n{names[1]} 744\n".encode())
    write(folder / "test_imagenet.txt", f"{names[2]} 657\n".encode())
    wnids = imagenet_wnids()
    shifted = load_image_set("imagenet-v2", role="eval", data_root=tmp_path)
    assert [c.key for c in shifted.classes] == [wnids[5], wnids[744]]
    whole = load_image_set("imagenet-openood", role="eval", data_root=tmp_path)
    assert [c.key for c in whole.classes] == [wnids[657]] and not whole.halved


def test_a_set_in_the_archive_of_another_is_fetched_with_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        load_image_set("clean", role="ood", data_root=tmp_path)
    assert "negprompt data download ninco" in full_message(raised.value)
    write(tmp_path / "NINCO" / "NINCO_popular_datasets_subsamples" / "places" / "a.jpg")
    assert len(load_image_set("clean", role="ood", data_root=tmp_path)) == 1


def test_a_missing_set_lists_every_place_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        load_image_set("inaturalist", role="ood", data_root=tmp_path)
    message = full_message(raised.value)
    for place in ("ImageNet_OOD_dataset/iNaturalist", "iNaturalist", "images_largescale/inaturalist"):
        assert str(tmp_path / place) in message
    assert "negprompt data download inaturalist" in message
    with pytest.raises(UsageError, match="login") as raised:
        load_image_set("p2", role="eval", data_root=tmp_path)
    assert all(str(tmp_path / val) in str(raised.value) for _, val in FOLDERED.values())


def test_an_empty_folder_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "SUN").mkdir()
    with pytest.raises(UsageError, match="Tried"):
        load_image_set("sun", role="ood", data_root=tmp_path)


def test_train_and_val_of_something_else_are_not_imagenet(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 1})
    class_tree(tmp_path / "val", {"cat": 1})
    with pytest.raises(UsageError, match="login"):
        load_image_set("imagenet", role="eval", data_root=tmp_path)


def test_coop_classnames_win(foldered: Path, tmp_path: Path) -> None:
    place(foldered, tmp_path, *FOLDERED["LoCoOp and CoOp"])
    write(tmp_path / "imagenet" / "classnames.txt", "\n".join(f"{w} name {i}" for i, w in enumerate(WNIDS)).encode())
    images = load_image_set("imagenet#5", role="eval", data_root=tmp_path)
    assert images.classes[0].name == "name 5"
    assert any("classnames.txt" in note for note in map(str, images.decisions))


def test_tiny_imagenet_as_distributed(tmp_path: Path) -> None:
    for wnid in WNIDS[:2]:
        write(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG")
        write(tmp_path / "train" / wnid / f"{wnid}_boxes.txt")
    lines = f"val_0.JPEG\t{WNIDS[1]}\t0\t0\t1\t1\nval_1.JPEG\t{WNIDS[0]}\t0\t0\t1\t1\n"
    write(tmp_path / "val" / "val_annotations.txt", lines.encode())
    for i in range(2):
        write(tmp_path / "val" / "images" / f"val_{i}.JPEG")
    images = load_image_set(str(tmp_path), role="eval", data_root=tmp_path)
    assert relatives(images.paths, tmp_path) == ["val/images/val_1.JPEG", "val/images/val_0.JPEG"]
    assert [c.key for c in images.classes] == list(WNIDS[:2])
    train = load_image_set(str(tmp_path), role="train", data_root=tmp_path)
    assert [path.name for path in train.paths] == [f"{wnid}_0.JPEG" for wnid in WNIDS[:2]]


# --- folders as people have them


def load(folder: Path, role: str) -> ImageSet:
    return load_image_set(str(folder), role=role, data_root=Path("nowhere"))  # type: ignore[arg-type]


@pytest.mark.parametrize("evaluation", ["val", "valid", "Validation", "dev", "test", "Testing", "test_set", "valset"])
@pytest.mark.parametrize("training", ["train", "Training", "train_images"])
def test_splits_in_the_spellings_in_use(training: str, evaluation: str, tmp_path: Path) -> None:
    class_tree(tmp_path / training, {"cat": 2, "dog": 2})
    class_tree(tmp_path / evaluation, {"cat": 1, "dog": 3})
    for folder in (tmp_path, tmp_path / training):
        train = load(folder, "train")
        assert (len(train), train.halved) == (4, False)
    val = load(tmp_path, "eval")
    assert [c.key for c in val.classes] == ["cat", "dog"]
    assert np.bincount(val.labels).tolist() == [1, 3]


def test_a_folder_beside_the_splits_is_told_of(tmp_path: Path) -> None:
    for part in ("train", "val", "test", "unlabelled"):
        class_tree(tmp_path / part, {"cat": 1, "dog": 1})
    (decision,) = load(tmp_path, "eval").decisions
    assert decision.facts["folders"] == ["test", "unlabelled"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("café", unicodedata.normalize("NFD", "café")),
        (unicodedata.normalize("NFD", "café"), "café"),
        ("golden_retriever", "Golden Retriever"),
        ("t-shirt", "T_Shirt"),
    ],
)
def test_a_class_is_one_in_both_splits_however_it_is_spelled(train: str, val: str, tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {train: 2, "dog": 2})
    class_tree(tmp_path / "val", {val: 3, "dog": 1})
    first, second = load(tmp_path, "train"), load(tmp_path, "eval")
    assert [c.key for c in first.classes] == [c.key for c in second.classes] == sorted([train, "dog"])
    assert len(second) == 4
    assert all(path.is_file() for path in second.paths)
    assert any(val in d.facts.get("spellings", {}) for d in second.decisions)
    # The same set, evaluated by its folder alone.
    assert len(match_classes(load(tmp_path / "val", "eval"), first.classes)) == 4


def test_folders_of_one_split_that_differ_in_case_are_two_classes(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"Crane": 1, "crane": 1})
    class_tree(tmp_path / "val", {"Crane": 1, "crane": 2})
    assert np.bincount(load(tmp_path, "eval").labels).tolist() == [1, 2]


@pytest.mark.parametrize("name", ["data", "images1", "Dataset", "train2"])
def test_a_lone_class_with_the_name_of_a_container_is_told_of(name: str, tmp_path: Path) -> None:
    class_tree(tmp_path, {name: 4})
    warned = [d for d in load(tmp_path, "train").decisions if d.warning]
    assert [d.facts["classes"] for d in warned] == ([[name]] if name in ("data", "Dataset") else [])
    class_tree(tmp_path, {"cat": 4})
    assert not any(d.warning for d in load(tmp_path, "train").decisions)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (("animals/cat/1.jpg", "animals/dog/2.jpg", "things/car/3.jpg", "things/bus/4.jpg"), "give {}/animals"),
        (("data/cat/1.jpg", "data/cat/2.jpg", "data/dog/3.jpg"), "give {}/data"),
        (
            ("pets-main/pets/cat/1.jpg", "pets-main/pets/cat/2.jpg", "pets-main/pets/dog/3.jpg"),
            "give {}/pets-main/pets",
        ),
        (("cat/train/1.jpg", "cat/val/2.jpg", "dog/train/3.jpg", "dog/val/4.jpg"), "its own splits"),
        (("cat/one/1.jpg", "cat/2.jpg", "dog/one/3.jpg", "dog/two/4.jpg"), ""),
        (("cat/images/1.jpg", "dog/images/3.jpg"), ""),
    ],
)
def test_folders_of_folders_are_told_of(images: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for image in images:
        write(tmp_path / image)
        write(tmp_path / image.replace(".jpg", "0.jpg"))
    told = [str(d) for d in load(tmp_path, "train").decisions if d.warning]
    assert len(told) == bool(said)
    assert all(said.format(tmp_path) in text for text in told)
    assert not any(d.warning for d in load(tmp_path, "ood").decisions)


def test_a_link_back_to_a_class_folder_ends(tmp_path: Path) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set" / "cat")
    with pytest.raises(UsageError):
        load(tmp_path / "set", "train")


def test_links_that_lead_round_in_a_circle_spoil_nothing_else(tmp_path: Path) -> None:
    class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    for name in ("loop.png", "loop", "loop.md"):
        (tmp_path / "set" / "cat" / name).symlink_to(tmp_path / "set" / "cat" / name)
    images = load(tmp_path / "set", "ood")
    assert len(images) == 5
    assert images.left_out.by_reason() == {"dead-link": {"": 2}}
    with pytest.raises(BrokenImage, match=r"loop\.png: Too many levels of symbolic links\. Replace"):
        open_rgb(tmp_path / "set" / "cat" / "loop.png")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "labels.csv", "labels.json", "labels.txt"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_flat_folder_with_a_list_of_its_classes(name: str, beside: bool, tmp_path: Path) -> None:
    pictures = tmp_path / "set" / "pictures"
    labels = {"1.jpg": "cat", "2.jpg": "big dog", "3.png": "cat"}
    for image in (*labels, "4.jpg"):
        write(pictures / image)
    text = {
        "metadata.csv": "file_name,label\n" + "".join(f"{k},{v}\n" for k, v in labels.items()),
        "metadata.jsonl": "".join(json.dumps({"file_name": k, "label": v}) + "\n" for k, v in labels.items()),
        "labels.csv": "id,breed\n" + "".join(f"{k[0]},{v}\n" for k, v in labels.items()),
        "labels.json": json.dumps({f"pictures/{k}" if beside else k: v for k, v in labels.items()}),
        "labels.txt": "".join(f"{k}\t{v}\n" for k, v in labels.items()),
    }[name]
    write((pictures.parent if beside else pictures) / name, text.encode())
    images = load(pictures, "ood")
    found = {p.name: images.classes[label].name for p, label in zip(images.paths, images.labels.tolist(), strict=True)}
    assert found == labels
    assert any("4.jpg" in str(d) for d in images.decisions)


def test_a_file_beside_ood_images_that_is_no_list_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg")
    write(tmp_path / "labels.json", b'{"cat": 0}')
    assert len(load(tmp_path, "ood")) == 1
    with pytest.raises(UsageError, match=r"labels\.json"):
        load(tmp_path, "eval")


def test_numbered_folders_are_named_without_the_numbers(tmp_path: Path) -> None:
    class_tree(tmp_path / "birds", {"001.Black_footed_Albatross": 2, "002.Laysan_Albatross": 2})
    images = load(tmp_path / "birds", "train")
    assert [c.name for c in images.classes] == ["Black footed Albatross", "Laysan Albatross"]
    assert any("numbers" in d.facts for d in images.decisions)
    for kept in ({"1_euro": 2, "2_euro": 2}, {"5_euro": 2, "7_dollar": 2}, {"101": 2, "102": 2}):
        folder = tmp_path / "_".join(kept)
        class_tree(folder, kept)
        assert [c.name for c in load(folder, "train").classes] == [key.replace("_", " ") for key in kept]
