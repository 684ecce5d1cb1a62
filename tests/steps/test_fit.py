"""From a folder of images to a detector: the same as the steps one by one."""

import json
from pathlib import Path

import pytest
import torch
from pages import Page, data_of
from PIL import Image, ImageDraw
from scoring_world import make_prompts, run, write_images, write_photos

from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.learning import TrainingData, learn_negative, learn_positive
from negprompt_cli.steps.shared.workbench import Workbench

FAST = ["--set", "positive.schedule.epochs=3", "--set", "negative.schedule.epochs=3"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 14)


def test_fit_is_the_steps_and_ends_with_the_next_command(clip: Clip, photos: Path, tmp_path: Path):
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, *FAST]
    done = run("fit", photos, *common, "--run", tmp_path / "fit")
    assert done.exit_code == 0, done.output
    made = load_prompts(tmp_path / "fit/negative.safetensors")
    assert made.calibration is not None
    assert made.calibration.images == 21
    command = f"negprompt score --prompts {tmp_path / 'fit/negative.safetensors'}"
    assert command in done.stderr
    run("train-positive", "--data", photos, *common, "--run", tmp_path / "steps")
    run("train-negative", "--data", photos, *common, "--run", tmp_path / "steps")
    steps = load_prompts(tmp_path / "steps/negative.safetensors")
    assert steps.positive.equal(made.positive)
    assert steps.negative is not None and made.negative is not None
    assert steps.negative.equal(made.negative)
    assert run(*command.split()[1:], photos, "--device", "cpu", "--limit", 1).exit_code == 0
    assert run("fit", photos, *common, "--run", tmp_path / "fit").exit_code == 2


def test_too_few_images_for_a_threshold_still_make_a_detector(clip: Clip, photos: Path, tmp_path: Path):
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, *FAST, "--limit", 12]
    done = run("fit", photos, *common, "--run", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["calibration"] is None
    assert document["limited"] is True
    assert "at least 20 are needed" in done.stderr
    (told,) = [d for d in document["decisions"] if d["kind"] == "self-check"]
    assert "There is no self-check of the score: 3 classes" in told["message"]
    assert document["training"]["self_check"] is None


def test_a_fit_of_some_classes_is_calibrated_on_these(clip: Clip, photos: Path, tmp_path: Path):
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, *FAST, "--acceptance", 0.8, "--json"]
    document = json.loads(run("fit", photos, *common, "--run", tmp_path, "--set", "data.train_classes=0-1").stdout)
    assert document["classes"] == ["blue triangle", "green square"]
    assert document["calibration"]["images"] == document["held_out"]["images"] == 14


def test_held_out_accuracy_is_that_of_evaluation_and_weak_classes_are_named(clip: Clip, tmp_path: Path):
    # Two classes drawn as they are called, and one whose images are those of another.
    photos = tmp_path / "photos"
    for name, colour in (("red_circle", "red"), ("green_square", "green"), ("blue_triangle", "green")):
        for i in range(14):
            image = Image.new("RGB", (40, 40), "white")
            draw = ImageDraw.Draw(image)
            box = (4 + i % 5, 6, 30 + i % 7, 34)
            (draw.ellipse if colour == "red" else draw.rectangle)(box, fill=colour)
            (photos / name).mkdir(parents=True, exist_ok=True)
            image.save(photos / name / f"{i:02d}.png")
    common = ["--device", "cpu", "--workers", 0, "--run", tmp_path / "run"]
    done = run("fit", photos, "--model", clip.identity.name, *FAST, *common, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    held = document["held_out"]
    measured = json.loads(
        run("evaluate", "--data", photos, "--ood", photos, "--scores", "max-logit", *common, "--json").stdout
    )
    assert held["images"] == measured["id"]["images"] == 21
    assert held["accuracy"] == pytest.approx(measured["id"]["accuracy"], abs=1e-9)
    assert sum(c["correct"] for c in held["classes"].values()) == round(21 * held["accuracy"])
    assert all(c["images"] == 7 for c in held["classes"].values())
    # Green rectangles cannot be both; whichever loses is weak, and taken for the other.
    (weak,) = [d["facts"]["classes"] for d in document["decisions"] if d["kind"] == "weak-classes"]
    # The page says the same of the classes, and shows held-out and training images with their own class.
    text = Path(document["report"]).read_text()
    words = " ".join(Page(text).text)
    rows, classes = data_of(text)["rows"], data_of(text)["classes"]
    assert f"{100 * held['accuracy']:.1f}\N{NO-BREAK SPACE}% of 21 held-out images" in words
    for own in held["classes"].values():
        assert f"{100 * own['correct'] / 7:.1f}" in words
    taken = sum(own["images"] - own["correct"] for own in held["classes"].values())
    assert len(rows) == 21
    assert taken == sum(Path(row[0]).parent.name != classes[row[1]][0] for row in rows)
    assert "Images that look mislabelled" in words
    assert "Training images with the lowest scores" in words
    assert set(weak) <= {"green_square", "blue_triangle"}
    loser = "blue_triangle" if "blue_triangle" in weak else "green_square"
    assert weak[loser]["taken_for"] in {"green_square", "blue_triangle"} - {loser}
    again = run("fit", photos, "--model", clip.identity.name, *FAST, *common, "--overwrite")
    assert "held-out images" in again.stderr and "in training" in again.stderr
    assert "recognised in less than half" in again.stderr


def test_one_image_per_class_leaves_nothing_for_a_threshold(clip: Clip, tmp_path: Path):
    photos = write_photos(tmp_path / "one", 1)
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, *FAST, "--run", tmp_path / "run"]
    refused = run("fit", photos, *common)
    assert refused.exit_code == 2
    assert "one image per class" in refused.stderr and "No images are left to choose a threshold on" in refused.stderr
    assert "negprompt train-positive" in refused.stderr
    assert not (tmp_path / "run").exists()
    assert run("train-positive", "--data", photos, *common).exit_code == 0


def test_two_fits_into_one_run_at_once(clip: Clip, photos: Path, tmp_path: Path):
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, *FAST, "--run", tmp_path]
    for name, command in (("positive", "fit"), ("positive", "train-positive"), ("negative", "train-negative")):
        zero_shot = ["--positive", "zero-shot"] if command == "train-negative" else []
        for more in ([], ["--overwrite"], ["--resume"]):
            with claimed(tmp_path / f"{name}.safetensors"):
                refused = run(command, "--data", photos, *common, *zero_shot, *more)
            assert refused.exit_code == 2
            assert "is writing" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_features_in_memory_give_the_same_contexts(clip: Clip, photos: Path, tmp_path: Path):
    common = [
        "--model",
        clip.identity.name,
        "--device",
        "cpu",
        "--workers",
        0,
        "--image-batch",
        64,
        *FAST,
        "--shots",
        0,
    ]
    run("fit", photos, *common, "--run", tmp_path)
    made = load_prompts(tmp_path / "negative.safetensors")
    images = load_image_set(str(photos), role="train", data_root=photos)
    features = torch.cat([clip.encode_images(clip.preprocess(open_rgb(p))[None]) for p in images.paths]).clone()
    data = TrainingData.of(features, torch.from_numpy(images.labels), made.classes, clip.device)
    bench = Workbench(made.config, Silent(), clip=clip)
    again = learn_negative(bench, data, learn_positive(bench, data).prompts).prompts
    assert torch.allclose(again.positive, made.positive, atol=1e-4)
    assert again.negative is not None and made.negative is not None
    assert torch.allclose(again.negative, made.negative, atol=1e-3)


def test_labels_must_fit_the_names(clip: Clip):
    features = torch.nn.functional.normalize(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    classes = make_prompts(clip).classes
    with pytest.raises(UsageError, match="Labels"):
        TrainingData.of(features, torch.tensor([0, 1, 2, 3]), classes, clip.device)
    with pytest.raises(UsageError, match=r"\(N,\)"):
        TrainingData.of(features, torch.tensor([0, 1]), classes, clip.device)


def test_a_folder_without_classes_is_refused(clip: Clip, tmp_path: Path):
    write_images(tmp_path / "flat", 3)
    result = run("fit", tmp_path / "flat", "--model", clip.identity.name, "--device", "cpu", "--run", tmp_path / "r")
    assert result.exit_code == 2
    assert "class" in result.stderr
    assert not (tmp_path / "r").exists()
    twice = run("fit", tmp_path / "flat", "--data", tmp_path / "flat")
    assert twice.exit_code == 2
