"""Other people's checkpoints: laid out as they write them, refused where they could run code, and the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_world import NAMES, make_prompts, run, write_artifact, write_images

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.import_ import read_ordered_classes
from negprompt_cli.steps.shared.coop import coop_checkpoint, read_checkpoint


class Harmful:
    """Anything that is not a tensor: unpickling it would call a function."""

    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


@pytest.fixture
def width(clip: Clip) -> int:
    return clip.plan.width


def imported(clip: Clip, checkpoint: Path, classes: Path) -> Any:
    out = checkpoint.with_name("imported.safetensors")
    asked = ["--classes", classes, "--model", clip.identity.name, "--device", "cpu", "--out", out]
    return run("import", checkpoint, *asked), out


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02


def test_coop_and_locoop(clip: Clip, classes: Path, width: int, tmp_path: Path):
    context = draw(16, width).half()
    state = {"ctx": context, "token_prefix": draw(3, 1, width), "token_suffix": draw(3, 60, width)}
    file = tmp_path / "model.pth.tar-50"
    torch.save({"state_dict": state, "epoch": 50, "optimizer": {"lr": 0.1}, "val_result": None}, file)
    result, out = imported(clip, file, classes)
    assert result.exit_code == 0, result.output
    made = load_prompts(out)
    assert made.kind == "positive"
    assert made.positive.equal(context.float()[None])
    assert made.names == list(NAMES)
    assert made.parents[0].kind == "coop"
    (image,) = write_images(tmp_path / "photos", 1)
    scored = run("score", image, "--prompts", out, "--device", "cpu", "--format", "jsonl")
    feature = clip.encode_images(clip.preprocess(__import__("PIL.Image").Image.open(image).convert("RGB"))[None])
    with torch.no_grad():
        positives = clip.prompt_encoder(NAMES, context=16, budget=2**28)(context.float()[None])[0]
    assert json.loads(scored.stdout)["score"] == pytest.approx(float((positives @ feature[0]).max()), abs=1e-5)


def test_one_context_per_class(clip: Clip, classes: Path, width: int, tmp_path: Path):
    torch.save({"state_dict": {"ctx": draw(3, 4, width)}}, tmp_path / "csc.pth")
    result, out = imported(clip, tmp_path / "csc.pth", classes)
    assert result.exit_code == 0, result.output
    assert load_prompts(out).positive.equal(draw(3, 4, width)[None])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_official_state_dict(clip: Clip, classes: Path, width: int, tmp_path: Path, prefix: str):
    negative = draw(2, 4, width)
    state = {
        f"{prefix}prompt_learner.ctx_positive": draw(1, 4, width),
        f"{prefix}prompt_learner.ctx_negative": negative,
        f"{prefix}image_encoder.weight": draw(5, 5),
    }
    torch.save(state, tmp_path / "md.pth")
    result, out = imported(clip, tmp_path / "md.pth", classes)
    assert result.exit_code == 0, result.output
    assert "full stop" in result.stderr
    made = load_prompts(out)
    assert made.kind == "negative"
    assert made.negative is not None and made.negative.equal(negative)
    assert run("transfer", "--prompts", out, "--classes", classes, "--out", tmp_path / "t.safetensors").exit_code == 0


def test_official_contexts_per_class_and_empty_negatives(width: int, tmp_path: Path):
    # Class-specific contexts come as (K, p, M, D); stage 1 saves negatives without elements.
    torch.save({"ctx_positive": draw(3, 1, 4, width), "ctx_negative": draw(3, 2, 4, width)}, tmp_path / "csc.pth")
    found = read_checkpoint(tmp_path / "csc.pth")
    assert found.positive.shape == (1, 3, 4, width)
    assert found.negative is not None and found.negative.shape == (2, 3, 4, width)
    assert found.negative[1, 2].equal(draw(3, 2, 4, width)[2, 1])
    torch.save({"ctx_positive": draw(1, 4, width), "ctx_negative": torch.empty(0)}, tmp_path / "one.pth")
    assert read_checkpoint(tmp_path / "one.pth").negative is None


@pytest.mark.parametrize("negatives", [0, 2])
def test_coop_and_back(clip: Clip, classes: Path, tmp_path: Path, negatives: int):
    prompts = make_prompts(clip, negatives=negatives)
    artifact = write_artifact(prompts, tmp_path / "mine.safetensors")
    done = run("export", "--prompts", artifact, "--format", "coop")
    assert done.exit_code == 0, done.output
    file = Path(done.stdout.strip())
    assert ("negatives" in done.stderr) == bool(negatives)
    # As CoOp's own loader opens it.
    state = torch.load(file, weights_only=True)["state_dict"]
    assert state["ctx"].shape == (4, clip.plan.width)
    _, out = imported(clip, file, classes)
    assert load_prompts(out).positive.equal(prompts.positive)
    assert coop_checkpoint(load_prompts(out))["state_dict"]["ctx"].equal(state["ctx"])


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    torch.save({"state_dict": {"ctx": draw(4, 8)}, "val_result": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(UsageError, match="could run code"):
        read_checkpoint(tmp_path / "bad.pth")
    assert "never" not in capfd.readouterr().out


def test_what_does_not_fit_is_refused(clip: Clip, classes: Path, width: int, tmp_path: Path):
    cases: list[tuple[Any, str]] = [
        ({"state_dict": {"ctx": draw(4, width + 1)}}, "--model"),
        ({"state_dict": {"ctx": draw(5, 4, width)}}, "for 5 classes, but 3"),
        ({"state_dict": {"ctx": draw(width)}}, "shape"),
        ({"state_dict": {"ctx": draw(4, width) / 0}}, "finite"),
        ({"state_dict": {"weight": draw(4, width)}}, "neither CoOp's ctx"),
        ({"ctx_positive": draw(2, 4, width)}, "2 positive contexts"),
        ([1, 2], "not a state dict"),
        ({"state_dict": {"ctx": draw(76, width)}}, "tokens"),
    ]
    for number, (content, says) in enumerate(cases):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file)
        result, out = imported(clip, file, classes)
        assert result.exit_code == 2, says
        assert says in result.stderr
        assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.pth"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(UsageError, match="No checkpoint"):
        read_checkpoint(tmp_path)


def test_names_may_repeat_and_wnids_are_keys(tmp_path: Path):
    (tmp_path / "names.txt").write_text("n01440764 tench\nmissile\n# no class\nmissile\n")
    labels = read_ordered_classes(tmp_path / "names.txt")
    assert [(c.key, c.name, c.wnid) for c in labels] == [
        ("n01440764", "tench", "n01440764"),
        ("missile", "missile", None),
        ("missile (2)", "missile", None),
    ]
