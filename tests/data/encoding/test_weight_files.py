"""What is said of files of weights that cannot be loaded: what the file is, without the words of torch."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import build_tiny_clip
from scoring_world import make_prompts, run, write_artifact, write_images

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.models import load_clip, weights_decisions
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.errors import NegPromptError, UsageError


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered architecture that is quick to build."""
    model = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
    }
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "tiny", {**model, "text_cfg": {"width": 32, "heads": 2, "layers": 2}})
    return "tiny"


def load(name: str, weights: Path) -> Clip:
    return load_clip(ModelConfig(name=name, pretrained=str(weights)), choose_compute("cpu"))


def test_weights_beside_a_model_that_has_its_own_are_refused(clip: Clip, tmp_path: Path) -> None:
    torch.save(clip.model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"has its own weights, so the weights .*w\.pt would not be used"):
        load(clip.identity.name, tmp_path / "w.pt")


def test_weights_of_a_training_that_diverged_are_refused(tiny: str, tmp_path: Path) -> None:
    state = open_clip.create_model(tiny).state_dict()
    state["ln_final.bias"][3] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(NegPromptError, match=r"not finite, first in ln_final\.bias"):
        load(tiny, tmp_path / "w.pt")


def fault(name: str, weights: Path) -> str:
    with pytest.raises(NegPromptError) as caught:
        load(name, weights)
    text = str(caught.value)
    assert str(weights) in text
    assert "\x1b" not in text and "weights_only argument" not in text and "Internet" not in text
    return text


def test_a_file_of_tensors_is_loaded(tiny: str, tmp_path: Path):
    model = build_tiny_clip()
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "w.pt")
    assert torch.equal(load(tiny, tmp_path / "w.pt").model.text_projection, model.text_projection)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            lambda: {"args": argparse.Namespace(lr=1), "state_dict": build_tiny_clip().state_dict()},
            "save only its tensors",
        ),
        (build_tiny_clip, "an object of open_clip.model.CLIP, not a state dict"),
        (lambda: {"state_dict": {"ctx": torch.ones(2, 4)}}, "Import it as prompts"),
        (lambda: build_tiny_clip(embed=24).state_dict(), "tensors have other sizes"),
        (lambda: {"visual.proj": torch.ones(2)}, "some are missing"),
        (lambda: {"text_model.embeddings.weight": torch.ones(2)}, "transformers"),
    ],
)
def test_what_the_file_is_is_said(tiny: str, tmp_path: Path, content: Any, says: str):
    torch.save(content(), tmp_path / "w.pt")
    assert says in fault(tiny, tmp_path / "w.pt")


def test_the_command_that_is_given_saves_the_tensors_alone(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = build_tiny_clip()
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": model.state_dict()}, tmp_path / "w.pt")
    command = fault(tiny, tmp_path / "w.pt").splitlines()[-1].strip()
    code = command.removeprefix('python -c "').removesuffix('"')
    monkeypatch.chdir(tmp_path)
    exec(code)
    assert torch.equal(load(tiny, tmp_path / "weights.pt").model.text_projection, model.text_projection)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"<!DOCTYPE html>", "web page"), (b"version https://git-lfs", "git lfs pull")],
)
def test_files_that_are_no_weights(tiny: str, tmp_path: Path, content: bytes, says: str):
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert says in fault(tiny, tmp_path / name)


def test_folders_and_missing_files(tiny: str, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "epoch_3.pt").touch()
    assert "epoch_3.pt" in fault(tiny, tmp_path / "plain")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "open_clip_config.json").write_text("{}")
    with pytest.raises(UsageError, match="complete model") as caught:
        load(tiny, tmp_path / "own")
    assert caught.value.facts["model"] == f"local-dir:{tmp_path / 'own'}"
    assert "no file of weights" in fault(tiny, tmp_path / "nowhere.pt")


def test_a_local_folder_with_weights_that_do_not_fit(clip: Clip, tmp_path: Path):
    folder = tmp_path / "model"
    source = Path(clip.identity.name.removeprefix("local-dir:"))
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes((source / "open_clip_config.json").read_bytes())
    (folder / "open_clip_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(NegPromptError, match="git lfs pull"):
        load_clip(ModelConfig(name=f"local-dir:{folder}", pretrained=None), choose_compute("cpu"))


def test_of_several_files_of_weights_the_one_with_a_usual_name_is_used_and_said(clip: Clip, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(clip.identity.name.removeprefix("local-dir:"), folder)
    model = ModelConfig(name=f"local-dir:{folder}", pretrained=None)
    assert weights_decisions(model) == ()
    (weights,) = folder.glob("*.safetensors")
    for other in ("aaa.safetensors", "epoch_3.pt"):
        shutil.copy(weights, folder / other)
    (told,) = weights_decisions(model)
    assert told.facts == {"folder": str(folder), "used": weights.name, "not_used": ["aaa.safetensors", "epoch_3.pt"]}
    weights.rename(folder / "bbb.safetensors")
    with pytest.raises(UsageError, match=r"do not show which .*: aaa\.safetensors, bbb\.safetensors, epoch_3\.pt"):
        load_clip(model, choose_compute("cpu"))
    (folder / "aaa.safetensors").unlink()
    (folder / "epoch_3.pt").unlink()
    assert load_clip(model, choose_compute("cpu")).identity.weights_sha256 == clip.identity.weights_sha256


def test_a_relative_model_seen_from_elsewhere(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    identity = replace(clip.identity, name="local-dir:some/model")
    prompts = make_prompts(clip)
    config = prompts.config.model_copy(update={"model": ModelConfig(name="local-dir:some/model", pretrained=None)})
    artifact = write_artifact(replace(prompts, model=identity, config=config), tmp_path / "negative.safetensors")
    (image,) = write_images(tmp_path / "images", 1)
    monkeypatch.chdir(tmp_path)
    for command in (("score", image, "--prompts", artifact), ("inspect", artifact)):
        result = run(*command)
        assert result.exit_code == 2
        assert f"The artifact's model is local-dir:some/model, but there is no folder {tmp_path}" in result.stderr
        assert "--model local-dir:FOLDER" in result.stderr
        assert run(*command, "--model", clip.identity.name, "--device", "cpu").exit_code == 0
