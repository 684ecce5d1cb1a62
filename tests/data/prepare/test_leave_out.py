"""Leave-classes-out problems: who plays which part, what may not change what, the pictures, and what is refused."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_trees import class_tree, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from negprompt_cli.cli.app import app
from negprompt_cli.cli.remedies import full_message
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.prepare import leave_out as module
from negprompt_cli.data.prepare.distortions import crop_corner, shrink, shuffle_patches
from negprompt_cli.data.prepare.leave_out import KINDS, LeftOut, divide, leave_out, parse_kinds
from negprompt_cli.data.prepare.textures import FAMILIES, draw_texture
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.imagepaths import ImagePaths
from negprompt_cli.data.sets.imagesets import ImageSet, load_image_set
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Silent

SIZE = (49, 41)
"""Of the training images: width and height, both of them no multiple of 4."""


def photos(root: Path, classes: int, each: int) -> Path:
    """Class folders of random images, no two alike."""
    generator = np.random.default_rng(len(str(root.name)))
    for c in range(classes):
        for i in range(each):
            path = root / f"class_{c}" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes with train/ and val/."""
    root = tmp_path_factory.mktemp("data") / "pets"
    photos(root / "train", 10, 8)
    photos(root / "val", 10, 3)
    return root


@pytest.fixture(scope="module")
def made(pets: Path) -> LeftOut:
    return make(pets, pets.parent / "made")


def training(spec: object) -> ImageSet:
    return load_image_set(str(spec), role="train", data_root=Path("nowhere"))


def make(spec: object, into: Path, **options: object) -> LeftOut:
    settings = {"share": 0.3, "held_out": 0.25, "seed": 0, "progress": Silent(), **options}
    return leave_out(training(spec), into, **settings)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, links followed."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def images_of(folder: Path) -> dict[int, Path]:
    """Image files of a folder at any depth, by number."""
    return {int(p.stem): p for p in folder.rglob("*.*") if p.suffix == ".png"}


# --- who plays which part


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@given(
    st.lists(st.integers(2, 9), min_size=3, max_size=12),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_every_image_plays_one_part(sizes: list[int], share: float, held_out: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    keys = [f"c{i:02d}" for i in range(len(sizes))]
    paths = ImagePaths(Path("x"), [f"{keys[c]}/{i}.jpg" for i, c in enumerate(labels.tolist())])
    classes = tuple(ClassLabel(key, key, None) for key in keys)
    images = ImageSet("x", "x", paths, labels, classes, Path("x"), "", ())
    out = round(share * len(sizes))
    if out < 1 or len(sizes) - out < 2:
        with pytest.raises(UsageError, match="at least two must be kept"):
            divide(images, share=share, held_out=held_out, seed=seed)
        return
    division = divide(images, share=share, held_out=held_out, seed=seed)
    parts = [division.train, division.held_out, division.unseen]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert len(division.left_out) == out
    assert sorted(division.kept + division.left_out) == list(range(len(sizes)))
    assert set(labels[division.unseen].tolist()) == set(division.left_out)
    for c, size in enumerate(sizes):
        train, held = (int(np.sum(labels[part] == c)) for part in parts[:2])
        if c in division.kept:
            assert train >= 1
            assert held == min(max(1, round(held_out * size)), size - 1)


def test_classes_and_images_are_drawn_uniformly(pets: Path) -> None:
    images = training(pets)
    out: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for seed in range(400):
        division = divide(images, share=0.3, held_out=0.25, seed=seed)
        out.update(division.left_out)
        held.update(i % 8 for i in division.held_out.tolist())
    # Binomial(400, 0.3): mean 120, standard deviation 9.2; of the held-out 400 * 7 * 2 fall on eight places.
    assert all(75 < out[c] < 165 for c in range(10))
    assert all(600 < held[i] < 800 for i in range(8))


# --- what is on disk


def test_the_folders_hold_what_the_division_says_and_are_read_by_load_image_set(pets: Path, made: LeftOut) -> None:
    images = training(pets)
    division = divide(images, share=0.3, held_out=0.25, seed=0)
    sources = [path.resolve() for path in images.paths]
    for role, part in (("train", division.train), ("eval", division.held_out)):
        back = load_image_set(made.id_spec, role=role, data_root=Path("nowhere"))  # type: ignore[arg-type]
        assert not back.halved
        assert [path.resolve() for path in back.paths] == [sources[i] for i in part.tolist()]
        assert [back.classes[c].key for c in back.labels] == [images.classes[c].key for c in images.labels[part]]
    near, down, shuffle, corner, drawn = (load_image_set(s, role="ood", data_root=Path("x")) for s in made.ood_specs)
    assert not any(found.classes for found in (near, down, shuffle, corner, drawn))
    assert [path.resolve() for path in near.paths] == [sources[i] for i in division.unseen.tolist()]
    assert (len(down), len(corner), len(drawn)) == (len(division.unseen), len(division.unseen), 150)
    assert set(images_of(made.folder / "shuffle")) == {*division.unseen.tolist(), *division.held_out.tolist()}
    assert made.document["images"] == {
        "train": 42, "val": 14, "near": 24, "down": 24, "shuffle": 38, "corner": 24, "drawn": 150
    }  # fmt: skip


def test_evaluation_images_are_not_used(pets: Path, made: LeftOut, tmp_path: Path) -> None:
    links = [p.resolve() for p in made.folder.rglob("*") if p.is_symlink()]
    assert len(links) == 80
    assert {p.parents[1] for p in links} == {(pets / "train").resolve()}
    without = tmp_path / "pets"
    shutil.copytree(pets / "train", without / "train")
    for c in range(10):
        write(without / "val" / f"class_{c}" / "000.png", b"no image")
    again = make(without, tmp_path / "made")
    ours, theirs = content(made.folder), content(again.folder)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["leave-out.json"]


def test_without_splits_only_the_training_half_is_used(tmp_path: Path) -> None:
    photos(tmp_path / "pets", 4, 6)
    made = make(tmp_path / "pets", tmp_path / "made", kinds=("near",))
    mine = {p.resolve() for p in made.folder.rglob("*") if p.is_symlink()}
    other = load_image_set(str(tmp_path / "pets"), role="eval", data_root=tmp_path)
    assert len(mine) == len(other.paths) == 12
    assert not mine & {path.resolve() for path in other.paths}


def test_the_seed_decides_everything_and_kinds_do_not_influence_each_other(
    pets: Path, made: LeftOut, tmp_path: Path
) -> None:
    again = make(pets, tmp_path / "again")
    assert content(again.folder) == content(made.folder)
    other = make(pets, tmp_path / "other", seed=1)
    assert other.document["classes"] != made.document["classes"]
    assert content(other.folder / "drawn") != content(made.folder / "drawn")
    for kind in KINDS:
        alone = make(pets, tmp_path / kind, kinds=(kind,))
        assert alone.ood_specs == [str(tmp_path / kind / kind)]
        assert sorted(p.name for p in alone.folder.iterdir()) == sorted(["id", kind, "leave-out.json"])
        assert content(alone.folder / kind) == content(made.folder / kind)
        assert content(alone.folder / "id") == content(made.folder / "id")


def test_class_names_go_along(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set" / "train", dict.fromkeys(("n01440764", "n01443537", "my cat", "x"), 2))
    class_tree(tmp_path / "set" / "val", {"x": 1})
    write(tmp_path / "set" / "classnames.txt", b"my cat\ta tabby\nx\tthe letter\n")
    made = make(root.parent, tmp_path / "made", kinds=("near",))
    before = {c.key: c for c in training(root.parent).classes}
    after = load_image_set(made.id_spec, role="eval", data_root=tmp_path).classes
    assert len(after) == 3
    assert all(c == before[c.key] for c in after)


def test_copies_are_files_of_their_own(pets: Path, made: LeftOut, tmp_path: Path) -> None:
    copied = make(pets, tmp_path / "copied", copy=True)
    assert not any(p.is_symlink() for p in copied.folder.rglob("*"))
    assert content(copied.folder) == content(made.folder)


def test_what_has_no_image_suffix_becomes_png(tmp_path: Path) -> None:
    photos(tmp_path / "pets", 3, 2)
    for path in list((tmp_path / "pets").rglob("*.png")):
        path.rename(path.with_suffix(".picture"))
    lines = [f"pets/class_{c}/00{i}.picture {c}" for c in range(3) for i in (0, 1)]
    listed = write(tmp_path / "few-train.txt", "\n".join(lines).encode())
    made = make(listed, tmp_path / "made")
    assert made.document["images"]["train"] == len(load_image_set(made.id_spec, role="train", data_root=tmp_path)) == 2
    for number, path in images_of(made.folder / "near").items():
        source = Image.open(training(listed).paths[number])
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(source))


# --- the pictures


def test_sizes_of_the_distorted_images(pets: Path, made: LeftOut) -> None:
    for path in images_of(made.folder / "down").values():
        assert size_of(path) == (round(49 * 32 / 41), 32)
    for number, path in images_of(made.folder / "corner").items():
        crop, whole = np.asarray(Image.open(path)), np.asarray(Image.open(training(pets).paths[number]))
        assert crop.shape == (round(0.45 * 41), round(0.45 * 49), 3)
        h, w = crop.shape[:2]
        corners = [whole[:h, :w], whole[:h, -w:], whole[-h:, :w], whole[-h:, -w:]]
        assert sum(np.array_equal(crop, corner) for corner in corners) == 1
    for path in images_of(made.folder / "shuffle").values():
        assert size_of(path) == (48, 40)


def test_all_four_corners_are_cropped() -> None:
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("RGB")
    generator = np.random.default_rng(0)
    firsts = Counter(crop_corner(image, share=0.5, generator=generator).getpixel((0, 0))[0] for _ in range(400))
    assert set(firsts) == {0, 2, 8, 10}
    assert all(60 < count < 140 for count in firsts.values())
    assert crop_corner(image, share=0.01, generator=generator).size == (1, 1)


def test_shrinking_never_enlarges() -> None:
    assert shrink(Image.new("RGB", (320, 64)), side=32).size == (160, 32)
    assert shrink(Image.new("RGB", (64, 321)), side=32).size == (32, round(321 / 2))
    assert shrink(Image.new("RGB", (20, 64)), side=32).size == (20, 64)


def patches_by_hand(pixels: np.ndarray, n: int) -> Counter[bytes]:
    height, width = pixels.shape[0] // n, pixels.shape[1] // n
    found: Counter[bytes] = Counter()
    for row in range(n):
        for column in range(n):
            top, left = row * height, column * width
            found[pixels[top : top + height, left : left + width].tobytes()] += 1
    return found


@given(st.integers(4, 23), st.integers(4, 23), st.integers(1, 4), st.integers(0, 99))
def test_shuffling_keeps_the_patches(width: int, height: int, n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    shuffled = np.asarray(shuffle_patches(Image.fromarray(pixels), patches=n, generator=generator))
    assert shuffled.shape == (height // n * n, width // n * n, 3)
    assert patches_by_hand(shuffled, n) == patches_by_hand(pixels, n)
    if n == 4:  # the same order with probability 1 / 16!
        assert not np.array_equal(shuffled, pixels[: shuffled.shape[0], : shuffled.shape[1]])


def test_too_small_to_shuffle_names_the_image(tmp_path: Path) -> None:
    photos(tmp_path / "pets", 3, 4)
    for path in (tmp_path / "pets").rglob("*.png"):
        Image.new("RGB", (9, 3)).save(path)
    with pytest.raises(UsageError, match=r"\.png: 9 x 3 pixels are too few") as raised:
        make(tmp_path / "pets", tmp_path / "made")
    assert full_message(raised.value).endswith("remove shuffle from --kinds.")
    assert [p.name for p in tmp_path.iterdir()] == ["pets"]
    assert make(tmp_path / "pets", tmp_path / "made", kinds=("near", "down", "corner", "drawn")).folder.is_dir()


def test_textures_differ_and_are_of_two_colours_and_between() -> None:
    generator = np.random.default_rng(0)
    drawn = [np.asarray(draw_texture(i, side=32, generator=generator)) for i in range(4 * len(FAMILIES))]
    assert {image.shape for image in drawn} == {(32, 32, 3)}
    assert len({image.tobytes() for image in drawn}) == len(drawn)
    for image in drawn:
        flat = image.reshape(-1, 3).astype(float)
        assert flat.std() > 0
        # All colours lie on one line but for rounding.
        assert np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False)[1] < 0.5 * np.sqrt(len(flat))


def spectrum_peak(grey: np.ndarray) -> float:
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    steps = np.fft.fftfreq(len(grey))
    return float(np.hypot(steps[:, None], steps).ravel()[power.argmax()])


def test_stripes_and_band_noise_have_the_wavelengths_they_say() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        band, stripes = FAMILIES[1](96, generator), FAMILIES[2](96, generator)
        assert 0.0 < spectrum_peak(band) < 0.38
        assert 0.1 / (2 * np.pi) - 0.01 < spectrum_peak(stripes) < 1.0 / (2 * np.pi) + 0.01


# --- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"share": 0.0}, "share of left-out classes must be between 0 and 1"),
        ({"share": float("nan")}, "share of left-out classes must be between 0 and 1"),
        ({"held_out": 1.0}, "share of held-out images must be between 0 and 1"),
        ({"share": 0.04}, "means 0 left out and 10 kept"),
        ({"share": 0.9}, "means 9 left out and 1 kept"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_impossible_divisions_are_refused(pets: Path, tmp_path: Path, options: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(pets, tmp_path / "made", **options)
    assert not list(tmp_path.iterdir())


def test_a_class_of_one_image_is_named(tmp_path: Path) -> None:
    class_tree(tmp_path / "pets" / "train", {"cat": 1, "dog": 1, "fox": 1})
    class_tree(tmp_path / "pets" / "val", {"cat": 1, "dog": 1, "fox": 1})
    with pytest.raises(UsageError, match=r"2 classes have a single image.*(cat|dog).*Add images"):
        make(tmp_path / "pets", tmp_path / "made")


def test_a_broken_image_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    photos(tmp_path / "pets", 3, 4)
    for path in (tmp_path / "pets").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BrokenImage, match=r"Cannot read the image .*pets/class_"):
        make(tmp_path / "pets", tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["pets"]


def test_what_is_there_is_replaced_only_when_asked_and_only_a_problem(pets: Path, tmp_path: Path) -> None:
    into = tmp_path / "made"
    into.mkdir()
    first = make(pets, into, kinds=("near",))
    before = content(into)
    with pytest.raises(UsageError, match="exists"):
        make(pets, into, seed=1)
    assert content(into) == before
    second = make(pets, into, kinds=("drawn",), seed=1, overwrite=True)
    assert second.document["classes"] != first.document["classes"]
    assert sorted(p.name for p in into.iterdir()) == ["drawn", "id", "leave-out.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    precious = write(tmp_path / "photos" / "a.jpg")
    for place in (precious.parent, precious):
        with pytest.raises(UsageError, match="is not a leave-classes-out problem"):
            make(pets, place, overwrite=True)
    assert precious.read_bytes() == b"x"


def test_a_failure_keeps_the_earlier_problem(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = tmp_path / "made"
    make(pets, into, kinds=("near",))
    before = content(into)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "draw_texture", full)
    with pytest.raises(NegPromptError, match=r"Cannot write .*made: No space left.*unchanged"):
        make(pets, into, overwrite=True)
    assert content(into) == before
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_class_names_that_no_two_folders_can_have_are_refused(tmp_path: Path) -> None:
    photos(tmp_path / "pets", 3, 2)
    lines = [f"pets/class_{(c + i) % 3}/00{i}.png {c}" for c in range(3) for i in (0, 1)]
    write(tmp_path / "few-train.classnames.txt", b"a/b\tone\na_b\ttwo\na\\b\tthree\n")
    listed = write(tmp_path / "few-train.txt", "\n".join(lines).encode())
    with pytest.raises(UsageError, match="Only 1 of the 2 kept classes"):
        make(listed, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_kinds_by_name() -> None:
    assert parse_kinds(" drawn,near,,near") == ("near", "drawn")
    with pytest.raises(UsageError, match=r"'crner'.*Did you mean 'corner'"):
        parse_kinds("near,crner")
    with pytest.raises(UsageError, match="Known kinds"):
        parse_kinds(",")


# --- the command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "leave-out", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_the_command(pets: Path, made: LeftOut, tmp_path: Path) -> None:
    done = run("pets#0-5", "--data-root", pets.parent, "--into", tmp_path / "a", "--kinds", "near,drawn", "--seed", 3)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.endswith(f"\nWrote {tmp_path / 'a'}\n")
    assert "4 classes are kept and 2 are left out. Images: train 24, val 8, near 16, drawn 150." in done.stderr
    assert f'a: {{"id": "{tmp_path / "a" / "id"}", "ood": [' in done.stderr
    whole = run(pets, "--into", tmp_path / "b", "--json")
    document = json.loads(whole.stdout)
    assert (document.pop("path"), document.pop("decisions")) == (str(tmp_path / "b"), [])
    assert document == json.loads((tmp_path / "b" / "leave-out.json").read_text()) == made.document
    quiet = run(pets, "--into", tmp_path / "c", "-q", "--kinds", "near")
    assert (quiet.stdout, quiet.stderr) == (f"{tmp_path / 'c'}\n", "")
    for wrong, says in (
        ((pets, "--into", tmp_path / "a"), "--overwrite"),
        ((pets, "--into", tmp_path / "d", "--kinds", "neer"), "near"),
        (("petz", "--into", tmp_path / "d"), "petz"),
        ((pets / "train" / "class_0", "--into", tmp_path / "d"), "flat folder"),
    ):
        refused = run(*wrong)
        assert refused.exit_code == 2
        assert says in refused.stderr
        assert refused.stdout == ""
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("side", "said"), [(31, True), (32, True), (33, False)])
def test_small_images_are_said_to_stay_as_they_are(side: int, said: bool, tmp_path: Path) -> None:
    photos(tmp_path / "pets", 3, 4)
    for path in (tmp_path / "pets").rglob("*.png"):
        Image.new("RGB", (side, 60)).save(path)
    done = run(tmp_path / "pets", "--into", tmp_path / "made", "--kinds", "down")
    assert ("2 images have a side of 32 pixels or less" in done.stderr) is said
    assert {min(size_of(path)) for path in images_of(tmp_path / "made" / "down").values()} == {min(side, 32)}
