"""Sets that torchvision reads, on tiny fakes in torchvision's own formats. Oracle: torchvision's dataset objects."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from data_trees import class_tree, jpeg, write

from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.data.prepare.sample_file import write_sample
from negprompt_cli.data.sets import torchsets
from negprompt_cli.data.sets.imagesets import ImageSet, files_digest, load_image_set
from negprompt_cli.errors import NegPromptError, UsageError

RNG = np.random.default_rng(0)


def fake_cifar10(root: Path, patch: pytest.MonkeyPatch) -> None:
    cifar = torchvision.datasets.CIFAR10
    folder = root / cifar.base_folder
    for number, (name, _) in enumerate([*cifar.train_list, *cifar.test_list]):
        entry = {
            "data": RNG.integers(0, 256, (4, 3072), dtype=np.uint8),
            "labels": [2 * number % 10, 2 * number % 10 + 1, 3, 3],
        }
        write(folder / name, pickle.dumps(entry))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    write(folder / "batches.meta", pickle.dumps({"label_names": names}))
    patch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


def fake_mnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    for prefix, count in (("train", 20), ("t10k", 10)):
        images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        folder = root / "MNIST" / "raw"
        write(folder / f"{prefix}-images-idx3-ubyte", struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes())
        write(folder / f"{prefix}-labels-idx1-ubyte", struct.pack(">II", 0x801, count) + labels.tobytes())


def fake_svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    for split in ("train", "test"):
        labels = np.array([[10], *([i] for i in range(1, 10)), [10]], dtype=np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": RNG.integers(0, 256, (32, 32, 3, 11), dtype=np.uint8), "y": labels})
    patch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5=None: Path(path).is_file())


def fake_food101(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "food-101"
    for split in ("train", "test"):
        listed = {name: [f"{name}/{split}{i}" for i in (2, 1)] for name in ("apple_pie", "waffles")}
        write(folder / "meta" / f"{split}.json", json.dumps(listed).encode())
        for i, image in enumerate(image for images in listed.values() for image in images):
            write(folder / "images" / f"{image}.jpg", jpeg(i))


def fake_pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = [("Abyssinian", 1), ("american_bulldog", 2), ("Abyssinian", 1)]
        text = ""
        for i, (name, label) in enumerate(lines):
            text += f"{name}_{split}{i} {label} 1 1\n"
            write(folder / "images" / f"{name}_{split}{i}.jpg", jpeg(i))
        write(folder / "annotations" / f"{split}.txt", text.encode())


def fake_flowers(root: Path, patch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    folder = root / "flowers-102"
    for i in range(1, 205):
        write(folder / "jpg" / f"image_{i:05d}.jpg", jpeg(i))
    savemat(folder / "imagelabels.mat", {"labels": np.arange(204) % 102 + 1})
    splits = {"trnid": np.arange(1, 103), "valid": np.arange(1, 2), "tstid": np.arange(103, 205)}
    savemat(folder / "setid.mat", splits)
    patch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, md5=None: Path(path).is_file())


FAKES = {
    "cifar10": (fake_cifar10, torchvision.datasets.CIFAR10, {"train": True}, {"train": False}),
    "mnist": (fake_mnist, torchvision.datasets.MNIST, {"train": True}, {"train": False}),
    "svhn": (fake_svhn, torchvision.datasets.SVHN, {"split": "train"}, {"split": "test"}),
    "food101": (fake_food101, torchvision.datasets.Food101, {"split": "train"}, {"split": "test"}),
    "oxford-pets": (fake_pets, torchvision.datasets.OxfordIIITPet, {"split": "trainval"}, {"split": "test"}),
    "flowers102": (fake_flowers, torchvision.datasets.Flowers102, {"split": "train"}, {"split": "test"}),
}


def seen(images: ImageSet) -> list[tuple[int, bytes]]:
    """Label and pixels of every image, sorted."""
    return sorted((int(n), open_rgb(p).tobytes()) for p, n in zip(images.paths, images.labels, strict=True))


def truth(dataset: Any) -> list[tuple[int, bytes]]:
    return sorted(
        (int(label), image.convert("RGB").tobytes()) for image, label in (dataset[i] for i in range(len(dataset)))
    )


@pytest.mark.parametrize("name", FAKES)
def test_images_and_labels_are_torchvisions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kind, train, test = FAKES[name]
    make(tmp_path, monkeypatch)
    for role, part in (("train", train), ("eval", test), ("ood", test)):
        if name == "flowers102" and not hasattr(kind, "classes"):
            continue  # torchvision before 0.22; see the test of that below
        images = load_image_set(name, role=role, data_root=tmp_path)  # type: ignore[arg-type]
        dataset = kind(root=str(tmp_path), download=False, **part)
        assert seen(images) == truth(dataset)
        classes = torchvision.datasets.MNIST.classes if name == "svhn" else dataset.classes
        assert [c.key for c in images.classes] == list(classes)
        assert len(files_digest(images.paths, images.root)) == 64


def test_an_older_flowers102_has_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_flowers(tmp_path, monkeypatch)
    monkeypatch.delattr("torchvision.datasets.Flowers102.classes", raising=False)
    with pytest.raises(UsageError, match="Update torchvision"):
        load_image_set("flowers102", role="train", data_root=tmp_path)
    images = load_image_set("flowers102", role="ood", data_root=tmp_path)
    assert (len(images), set(images.labels.tolist())) == (102, {-1})


def test_what_an_image_is_stored_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist(tmp_path, monkeypatch)
    images = load_image_set("mnist", role="eval", data_root=tmp_path)
    assert torchsets.stored_in(images.paths[0]) == tmp_path / "MNIST"
    assert torchsets.stored_in(tmp_path / "a.jpg") == tmp_path / "a.jpg"


def test_the_set_may_lie_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist(tmp_path / "mnist", monkeypatch)
    images = load_image_set("mnist#3", role="eval", data_root=tmp_path)
    assert [c.name for c in images.classes] == ["3 three"]
    assert len(images) == 1


def test_names_are_read_as_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_food101(tmp_path, monkeypatch)
    images = load_image_set("food101", role="train", data_root=tmp_path)
    assert [c.name for c in images.classes] == ["apple pie", "waffles"]
    assert [path.name for path in images.paths] == ["train1.jpg", "train2.jpg"] * 2


def test_a_missing_set_says_where_torchvision_would_put_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cifar-10-batches-py"):
        load_image_set("cifar10", role="eval", data_root=tmp_path)


def test_a_damaged_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "cifar-10-batches-py" / "test_batch", b"evil")
    with pytest.raises(UsageError, match="CIFAR10"):
        load_image_set("cifar10", role="eval", data_root=tmp_path)


def test_eurosat_is_a_folder_that_is_halved(tmp_path: Path) -> None:
    class_tree(tmp_path / "eurosat" / "2750", {"AnnualCrop": 4, "Forest": 4})
    images = load_image_set("eurosat", role="train", data_root=tmp_path)
    assert images.halved
    assert len(images) == 4


@pytest.mark.parametrize(
    "place", ["CIFAR10.torchvision/eval/000099", "CIFAR10.torchvision/val/0", "X.torchvision/eval/0"]
)
def test_paths_to_no_image_are_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar10(tmp_path, monkeypatch)
    with pytest.raises(NegPromptError, match="torchvision"):
        open_rgb(tmp_path / place)


def test_a_sample_of_them_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist(tmp_path, monkeypatch)
    images = load_image_set("mnist", role="train", data_root=tmp_path)
    write_sample(images, shots=1, seed=0, out=tmp_path / "lists" / "few-train.txt", data_root=tmp_path)
    back = load_image_set(str(tmp_path / "lists" / "few-train.txt"), role="train", data_root=tmp_path)
    assert np.bincount(back.labels).tolist() == [1] * 10
    assert back.classes == images.classes
