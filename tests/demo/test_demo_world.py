"""The demonstration's world and its small CLIP: repeatable, complete, and what the names say they are."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from negprompt_cli.demo import images as demo_images
from negprompt_cli.demo.captions import write_caption
from negprompt_cli.demo.drawing import Pose, View, draw, draw_class
from negprompt_cli.demo.images import STREAMS, write_world
from negprompt_cli.demo.model import (
    ARCHIVE,
    CONFIG,
    FACTS,
    MEMBERS,
    WEIGHTS,
    load_facts,
    packed_model_folder,
    unpack_model,
)
from negprompt_cli.demo.shapes import SHAPES
from negprompt_cli.demo.train_clip import CAPTIONS_PER_IMAGE, TRAINED_POSITIONS, draw_pairs, full_state, train
from negprompt_cli.demo.world import World, load_world
from negprompt_cli.errors import NegPromptError, UsageError

WORLD = load_world()
EVERY_NAME = [*WORLD.id, *WORLD.near, *WORLD.novel]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_model(tmp_path_factory.mktemp("demo") / "small-clip")


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def plain_view(*, x: float = 0.5, angle: float = 0.0) -> View:
    return View(
        poses=(Pose(x=x, y=0.5, radius=0.4, angle=angle),),
        background="smooth",
        background_rgb=(0.0, 0.0, 0.0),
        light=1.0,
        blurs=0,
        noise=0.0,
        clutter=0,
    )


def test_every_word_can_be_drawn_and_every_shape_is_a_word() -> None:
    assert set(WORLD.shapes) == set(SHAPES)
    for thing in WORLD.all_things():
        assert WORLD.thing(thing.name) == thing
    for background in WORLD.backgrounds:
        view = replace(plain_view(), background=background, background_rgb=(0.5, 0.5, 0.5), poses=())
        flat = draw(WORLD, [], replace(view, background="smooth"), generator=np.random.default_rng(0))
        image = draw(WORLD, [], view, generator=np.random.default_rng(0))
        assert image.shape == (48, 48, 3)
        assert (image != flat).any() == (background != "smooth")


@pytest.mark.parametrize("name", EVERY_NAME)
def test_drawing_is_decided_by_the_seed_and_no_two_images_are_alike(name: str) -> None:
    first, second, other = (np.random.default_rng(seed) for seed in (3, 3, 4))
    drawn = [draw_class(WORLD, name, generator=first) for _ in range(8)]
    again = [draw_class(WORLD, name, generator=second) for _ in range(8)]
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in drawn)
    assert [image.tobytes() for image in drawn] == [image.tobytes() for image in again]
    assert len({image.tobytes() for image in [*drawn, draw_class(WORLD, name, generator=other)]}) == 9


def test_the_middle_of_a_plain_disc_has_the_colour_its_name_says() -> None:
    for colour, rgb in WORLD.colours.items():
        image = draw(WORLD, [WORLD.thing(f"{colour} circle")], plain_view(), generator=np.random.default_rng(0))
        middle = image[20:28, 20:28].reshape(-1, 3).mean(0)
        # A colour's jitter has a standard deviation of 0.05.
        assert np.abs(middle - np.array(rgb)).max() < 4 * 0.05 * 255
        nearest = min(WORLD.colours, key=lambda other: np.abs(middle - np.array(WORLD.colours[other])).sum())
        assert nearest == colour


@pytest.mark.parametrize("name", ["red circle", "red square", "red ring"])
def test_a_shape_covers_the_area_of_its_formula(name: str) -> None:
    image = draw(WORLD, [WORLD.thing(name)], plain_view(angle=0.3), generator=np.random.default_rng(0))
    # In units of the radius: disc of 0.88; square of side 1.52; ring between 0.46 and 0.90.
    area = {"red circle": np.pi * 0.88**2, "red square": 1.52**2, "red ring": np.pi * (0.9**2 - 0.46**2)}[name]
    covered = (image[..., 0] > image[..., 0].max() / 2).sum()
    assert covered == pytest.approx(area * (0.4 * 48) ** 2, rel=0.05)


def test_names_that_are_not_of_this_world_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'circle'"):
        WORLD.thing("red circel")
    for name in ("", "circle", "very striped red circle", "circle red"):
        with pytest.raises(UsageError):
            WORLD.thing(name)
    facts = WORLD.model_dump()
    with pytest.raises(ValidationError, match="more than once"):
        World.model_validate(facts | {"near": [*WORLD.near, WORLD.id[0]]})
    with pytest.raises(ValidationError, match="no 'cube'"):
        World.model_validate(facts | {"novel": ["red cube"]})


def test_captions_speak_of_what_is_in_the_picture() -> None:
    generator = np.random.default_rng(0)
    thing = WORLD.thing("striped blue star")
    others = {*WORLD.colours, *WORLD.shapes, *WORLD.textures} - {"striped", "blue", "star", "white"}
    captions = {write_caption([thing], plain_view(), generator=generator) for _ in range(300)}
    assert "a photo of a striped blue star." in captions and "striped blue star" in captions
    for caption in captions:
        words = set(caption.replace(".", "").split())
        assert words & {"blue", "striped", "star"} and not words & others
    assert any("black background" in caption for caption in captions)


def test_write_world_is_complete_and_repeatable(tmp_path: Path) -> None:
    first = write_world(tmp_path / "one", seed=5)
    second = write_world(tmp_path / "two", seed=5)
    assert digests(first.folder) == digests(second.folder)
    counts = WORLD.images
    for folder, names, each in (
        (first.shapes / "train", WORLD.id, counts.train),
        (first.shapes / "val", WORLD.id, counts.val),
        (first.near, WORLD.near, counts.near),
        (first.novel, WORLD.novel, counts.novel),
    ):
        assert {path.name for path in folder.iterdir()} == {name.replace(" ", "_") for name in names}
        assert all(len(list(path.glob("*.png"))) == each for path in folder.iterdir())
    assert len(list(first.far_digits.glob("*.png"))) == counts.far_digits
    assert len(list(first.far_photos.glob("*.png"))) == counts.far_photos
    assert first.novel_names.read_text().splitlines() == list(WORLD.novel)
    found = digests(first.folder)
    # Overlapping sets would make an evaluation meaningless.
    assert len(set(found.values())) == len(found)
    with Image.open(first.far_digits / "0000.png") as image:
        assert (image.mode, image.size) == ("RGB", (48, 48))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one", "two"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_images, "photo_crops", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", seed=0)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_world(tmp_path, seed=0)
    with pytest.raises(UsageError, match="not the demonstration model"):
        unpack_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert len(set(STREAMS)) == len(STREAMS)


def test_the_packed_model_is_an_open_clip_folder(model_folder: Path) -> None:
    assert {path.name for path in model_folder.iterdir()} == set(MEMBERS)
    assert (packed_model_folder() / ARCHIVE).stat().st_size < 1.4e6
    assert json.loads((model_folder / "training.json").read_text()) == load_facts().training.model_dump()
    assert unpack_model(model_folder) == model_folder
    weights = load_file(model_folder / WEIGHTS)
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float16"}
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_folder}")
    captions = [f"a photo of a {thing.name}." for thing in WORLD.all_things()]
    used = set(tokenizer(captions).unique().tolist()) - {0}
    nonzero = set(torch.nonzero(weights["token_embedding.weight"].abs().sum(1)).flatten().tolist())
    assert weights["token_embedding.weight"].shape[0] == 49408
    assert used <= nonzero and len(nonzero) < 200
    unknown = tokenizer(["zebra"])[0, 1]
    assert not weights["token_embedding.weight"][unknown].any()
    assert not weights["positional_embedding"][TRAINED_POSITIONS:].any()


@pytest.mark.parametrize(("names", "bound"), [(WORLD.id, 0.85), (WORLD.near, 0.7), (WORLD.novel, 0.7)])
def test_the_packed_model_knows_its_world(model_folder: Path, names: tuple[str, ...], bound: float) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_folder}")
    generator = np.random.default_rng(11)
    labels = torch.arange(len(names)).repeat_interleave(15)
    drawn = [draw_class(WORLD, names[label], generator=generator) for label in labels]
    model.eval()
    with torch.inference_mode():
        text = model.encode_text(tokenizer([f"a photo of a {name}." for name in names]), normalize=True)
        batch = torch.stack([preprocess(Image.fromarray(image)) for image in drawn])
        accuracy = ((model.encode_image(batch, normalize=True) @ text.T).argmax(1) == labels).float().mean()
    assert accuracy > bound


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = Path(shutil.copytree(packed_model_folder(), tmp_path / "packed"))
    raw = bytearray((packed / ARCHIVE).read_bytes())
    raw[len(raw) // 2] ^= 1
    (packed / ARCHIVE).write_bytes(raw)
    with pytest.raises(NegPromptError, match=r"sha256 .* Reinstall"):
        unpack_model(tmp_path / "out", packed=packed)
    assert not (tmp_path / "out").exists()
    (packed / ARCHIVE).unlink()
    with pytest.raises(NegPromptError, match="cannot be read"):
        unpack_model(tmp_path / "out", packed=packed)
    (packed / FACTS).write_text("archive_sha256: nonsense")
    with pytest.raises(NegPromptError, match="damaged"):
        unpack_model(tmp_path / "out", packed=packed)


def test_an_archive_with_other_members_is_refused(tmp_path: Path) -> None:
    packed = Path(shutil.copytree(packed_model_folder(), tmp_path / "packed"))
    with zipfile.ZipFile(packed / ARCHIVE, "a") as archive:
        archive.writestr("../escape.txt", "out")
    digest = hashlib.sha256((packed / ARCHIVE).read_bytes()).hexdigest()
    facts = load_facts(packed).model_copy(update={"archive_sha256": digest})
    (packed / FACTS).write_text(facts.model_dump_json())
    with pytest.raises(NegPromptError, match="escape"):
        unpack_model(tmp_path / "out", packed=packed)
    assert not (tmp_path / "escape.txt").exists()


def test_the_full_vocabulary_gives_the_features_of_the_trained_one(model_folder: Path) -> None:
    torch.manual_seed(0)
    pairs = draw_pairs(WORLD, count=32, generator=np.random.default_rng(0))
    assert pairs.tokens.shape == (32, CAPTIONS_PER_IMAGE, 77)
    vocabulary = torch.from_numpy(np.unique(pairs.tokens.numpy()))
    trained, loss = train(pairs, vocabulary, steps=2, batch=8, rate=1e-4, generator=torch.Generator().manual_seed(0))
    assert 0 < loss < 5
    config = json.loads((model_folder / CONFIG).read_text())["model_cfg"]
    full = open_clip.CLIP(**config)
    full.load_state_dict(full_state(trained, vocabulary))
    captions = pairs.tokens[:, 0]
    with torch.inference_mode():
        short = trained.encode_text(torch.searchsorted(vocabulary, captions[:, :TRAINED_POSITIONS].contiguous()))
        torch.testing.assert_close(full.eval().encode_text(captions), short, atol=5e-3, rtol=5e-3)
