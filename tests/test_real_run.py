"""One run on real images with a real CLIP, held against open_clip and scikit-learn used directly."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from negprompt_cli.cli import app

LIMIT = 120


@pytest.mark.slow
def test_learned_negatives_on_real_images(lite_clip_folder: Path, real_images: Path, tmp_path: Path):
    data, ood = f"{real_images / 'tiny-imagenet'}#0-9", real_images / "textures"
    common = ["--model", f"local-dir:{lite_clip_folder}", "--device", "cpu", "--data", data, "--run", str(tmp_path)]
    for step in ("train-positive", "train-negative"):
        result = CliRunner().invoke(app, [step, *common])
        assert result.exit_code == 0, result.output
    scores = "negprompt,mcm,mcm-zero-shot"
    saved = ["--ood", str(ood), "--limit", str(LIMIT), "--scores", scores, "--json"]
    result = CliRunner().invoke(app, ["evaluate", *common, *saved])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    rows = {r["score"]: r for r in document["rows"] if r["ood"] == "textures"}

    # The negatives must earn their place, and may not touch classification.
    assert rows["negprompt"]["auroc"] > rows["mcm"]["auroc"]
    positive = CliRunner().invoke(
        app,
        ["evaluate", *common, "--prompts", str(tmp_path / "positive.safetensors"), "--ood", str(ood), "--limit", str(LIMIT),
         "--scores", "mcm", "--json", "--out", str(tmp_path / "p.json")],
    )  # fmt: skip
    assert json.loads(positive.stdout)["id"]["accuracy"] == document["id"]["accuracy"]

    # Zero-shot MCM, straight from open_clip on the very files that were evaluated.
    from negprompt_cli.data.sets.imagesets import load_image_set

    sets = [
        load_image_set(data, role="eval", data_root=Path("data"), limit=LIMIT),
        load_image_set(str(ood), role="ood", data_root=Path("data"), limit=LIMIT),
    ]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{lite_clip_folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{lite_clip_folder}")
    with torch.no_grad():
        text = model.encode_text(tokenizer([f"a photo of a {c.name}." for c in sets[0].classes]), normalize=True)
        mcm = []
        for images in sets:
            pixels = torch.stack([preprocess(Image.open(p)) for p in images.paths])
            cosines = model.encode_image(pixels, normalize=True).double() @ text.double().T
            mcm.append(cosines.softmax(dim=1).amax(dim=1).numpy())
    truth = np.concatenate([np.ones(len(mcm[0])), np.zeros(len(mcm[1]))])
    expected = roc_auc_score(truth, np.concatenate(mcm))
    assert rows["mcm-zero-shot"]["auroc"] == pytest.approx(expected, abs=1e-4)
