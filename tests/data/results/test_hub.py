"""Publishing without a network: a local folder stands for the repository."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from scoring_world import NAMES, calibrated, make_prompts, run, write_artifact, write_images

from negprompt_cli import Detector
from negprompt_cli.data.results.hub import find_artifact, model_card, push_to_hub, save_pretrained
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError


@pytest.fixture(scope="module")
def evaluation(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    artifact = write_artifact(make_prompts(clip), folder / "negative.safetensors")
    for seed, name in enumerate(NAMES):
        write_images(folder / "photos/val" / name.replace(" ", "_"), 4, seed=seed)
        write_images(folder / "photos/train" / name.replace(" ", "_"), 1, seed=seed + 9)
    write_images(folder / "other", 5, seed=30)
    asked = ["--data", folder / "photos", "--ood", folder / "other", "--prompts", artifact, "--device", "cpu"]
    done = run("evaluate", *asked, "--workers", 0, "--out", folder / "evaluation.json", "--scores", "negprompt")
    assert done.exit_code == 0, done.output
    return folder / "evaluation.json"


class LocalHub:
    """As much of `HfApi` as publishing needs, on a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.private = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


def test_what_is_published_comes_back(clip: Clip, evaluation: Path, tmp_path: Path):
    hub = LocalHub(tmp_path)
    prompts = calibrated(make_prompts(clip), 0.25)
    url = push_to_hub(prompts, "me/shapes", evaluation=evaluation, private=True, api=hub)
    assert url == "https://hub/me/shapes"
    assert hub.private is True
    assert {p.name for p in (tmp_path / "me/shapes").iterdir()} == {
        "prompts.safetensors",
        "README.md",
        "evaluation.json",
    }
    again = Detector.from_pretrained(tmp_path / "me/shapes", clip)
    assert again.threshold == 0.25
    assert again.prompts.negative is not None and prompts.negative is not None
    assert again.prompts.negative.equal(prompts.negative)
    assert again.class_names == list(NAMES)


def test_the_card_is_filled_from_artifact_and_evaluation(clip: Clip, evaluation: Path, tmp_path: Path):
    save_pretrained(calibrated(make_prompts(clip), 0.25), tmp_path, evaluation=evaluation, repo_id="me/shapes")
    card = ModelCard((tmp_path / "README.md").read_text())
    assert card.data.library_name == "negprompt"
    row = json.loads(evaluation.read_text())["rows"][0]
    figures = f"| {row['ood']} | negprompt | {100 * row['auroc']:.1f} | {100 * row['fpr95_id_positive']:.1f} |"
    for text in (
        figures,
        "ID positive",
        clip.identity.weights_sha256,
        "red circle, green square",
        "95 of 100",
        "me/shapes",
        "https://arxiv.org/abs/2404.03248",
    ):
        assert text in card.text
    assert "/tmp" not in card.text.replace(str(tmp_path), "")


def test_a_card_without_evaluation_or_threshold(clip: Clip):
    text = model_card(make_prompts(clip))
    assert "## Evaluation" not in text
    assert "no threshold yet" in text


def test_foreign_and_limited_evaluations_are_not_quoted(clip: Clip, evaluation: Path, tmp_path: Path):
    document = json.loads(evaluation.read_text())
    (tmp_path / "limited.json").write_text(json.dumps({**document, "limited": True}))
    with pytest.raises(UsageError, match="limited"):
        model_card(make_prompts(clip), tmp_path / "limited.json")
    with pytest.raises(UsageError, match="not an evaluation of these prompts"):
        model_card(make_prompts(clip, classes=("one", "two")), evaluation)


def test_a_hub_that_refuses_is_one_clear_error(clip: Clip, tmp_path: Path):
    class Refusing(LocalHub):
        def upload_folder(self, **_: Any) -> None:
            raise PermissionError("403 Forbidden")

    with pytest.raises(NegPromptError, match="403 Forbidden"):
        push_to_hub(make_prompts(clip), "me/shapes", api=Refusing(tmp_path))


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match=r"prompts\.safetensors"):
        find_artifact(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(NegPromptError, match="offline"):
        find_artifact("nobody/nothing")
