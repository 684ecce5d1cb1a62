"""The Python interface: its ten names, its doctests, the commands' results, and pytorch-ood's helpers around a detector."""

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scoring_world import NAMES, make_prompts, run, write_broken, write_photos
from torch import Tensor

import negprompt_cli as negprompt
from negprompt_cli import api
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError

FAST = {"positive.schedule.epochs": 3, "negative.schedule.epochs": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 14)


@pytest.fixture(scope="module")
def pixels(clip: Clip, photos: Path) -> Tensor:
    return torch.stack([clip.preprocess(open_rgb(p)) for p in sorted(photos.rglob("*.png"))])


def test_there_are_eleven_names_and_they_are_lazy():
    assert len(negprompt.__all__) == 11
    assert all(getattr(negprompt, name) is getattr(api, name) for name in negprompt.__all__)
    assert set(negprompt.__all__) <= set(dir(negprompt))
    with pytest.raises(AttributeError, match="no attribute 'detector'"):
        _ = negprompt.detector
    code = "import sys, negprompt_cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_doctests_run(tmp_path: Path, clip: Clip):
    result = doctest.testmod(api, extraglobs={"folder": tmp_path, "model": clip})
    assert result.attempted >= 15
    assert result.failed == 0


def test_fit_is_the_command(clip: Clip, photos: Path, tmp_path: Path):
    detector = negprompt.fit(photos, clip, settings={**FAST, "compute.workers": 0})
    settings = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
    run("fit", photos, "--model", clip.identity.name, "--device", "cpu", "--workers", 0, "--run", tmp_path, *settings)
    command = negprompt.load(tmp_path / "negative.safetensors", clip)
    assert detector.prompts.positive.equal(command.prompts.positive)
    assert detector.threshold == command.threshold
    assert detector.prompts.calibration == command.prompts.calibration


def test_save_and_load(clip: Clip, pixels: Tensor, tmp_path: Path):
    detector = negprompt.Detector(clip, make_prompts(clip))
    negprompt.save(detector, tmp_path / "d.safetensors")
    again = negprompt.load(tmp_path / "d.safetensors", device="cpu")
    assert again.class_names == list(NAMES)
    assert torch.allclose(again.predict(pixels), detector.predict(pixels), atol=1e-9)


def test_features_and_files_get_the_same_verdicts(clip: Clip, photos: Path, pixels: Tensor):
    detector = negprompt.Detector(clip, make_prompts(clip))
    verdicts = negprompt.score_features(detector, detector.encoder(pixels))
    rows = list(negprompt.score_images(detector, photos))
    by_path = {row.path: row for row in rows}
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        row = by_path[str(path)]
        assert row.prediction_name == NAMES[int(verdicts.predictions[i])]
        assert row.score == pytest.approx(verdicts.scores[i], rel=1e-6)
        assert row.is_ood is None


def test_calibrate_leaves_the_detector_alone(clip: Clip, photos: Path, pixels: Tensor):
    detector = negprompt.Detector(clip, make_prompts(clip))
    by_features = negprompt.calibrate(detector, detector.encoder(pixels), acceptance=0.8)
    by_files = negprompt.calibrate(detector, [photos / name.replace(" ", "_") for name in NAMES], acceptance=0.8)
    assert detector.threshold is None
    assert by_features.threshold == pytest.approx(by_files.threshold, rel=1e-6)
    made = by_features.prompts.calibration
    assert made is not None and (made.images, made.accepted) == (42, 34)
    scores = negprompt.score_features(by_features, detector.encoder(pixels)).scores
    assert int((scores >= by_features.threshold).sum()) == 34
    with pytest.raises(UsageError, match="at least 20 are needed"):
        negprompt.calibrate(detector, detector.encoder(pixels[:19]))


def test_a_broken_image_stops_calibration(clip: Clip, tmp_path: Path):
    write_broken(tmp_path / "broken")
    with pytest.raises(NegPromptError):
        negprompt.calibrate(negprompt.Detector(clip, list(NAMES)), tmp_path / "broken")


def test_transfer(clip: Clip):
    detector = negprompt.transfer(negprompt.Detector(clip, make_prompts(clip)), ["yellow star", "red circle"])
    assert detector.class_names == ["yellow star", "red circle"]
    assert detector.prompts.kind == "transferred"
    longer = negprompt.transfer(detector, ["blue star"], extend=True)
    assert longer.class_names == ["yellow star", "red circle", "blue star"]
    with pytest.raises(UsageError, match="only positive prompts"):
        negprompt.transfer(negprompt.zero_shot(clip, NAMES), ["yellow star"])


def test_the_sign_is_pytorch_oods(clip: Clip, pixels: Tensor):
    detector = negprompt.Detector(clip, make_prompts(clip), score="mcm")
    features = detector.encoder(pixels)
    assert (
        detector.predict_features(features).tolist() == (-negprompt.score_features(detector, features).scores).tolist()
    )
    assert detector(pixels).equal(detector.predict(pixels))


def test_fit_on_batches_and_metrics_of_pytorch_ood(clip: Clip, pixels: Tensor):
    ood = pytest.importorskip("pytorch_ood.metrics")
    from sklearn.metrics import roc_auc_score
    from torch.utils.data import DataLoader, TensorDataset

    labels = torch.arange(3).repeat_interleave(14)
    detector = negprompt.Detector(clip, list(NAMES), settings=FAST)
    unfitted = detector.predict(pixels)
    mixed = torch.where(torch.arange(42) % 7 == 0, -1, labels)
    assert detector.fit(DataLoader(TensorDataset(pixels, mixed), batch_size=10)) is detector
    assert detector.prompts.training[-1].images == 36
    assert not torch.allclose(detector.predict(pixels), unfitted)
    noise = torch.randn(20, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
    loader = DataLoader(
        TensorDataset(torch.cat([pixels, noise]), torch.cat([labels, torch.full((20,), -1)])), batch_size=16
    )
    metrics = ood.OODMetrics()
    for x, y in loader:
        metrics.update(detector(x), y)
    scores = np.concatenate([detector(pixels).numpy(), detector(noise).numpy()])
    assert metrics.compute()["AUROC"] == pytest.approx(roc_auc_score([0] * 42 + [1] * 20, scores), abs=1e-6)


def test_pytorch_oods_benchmarks_take_it_for_their_own(clip: Clip, pixels: Tensor):
    pytest.importorskip("pytorch_ood")
    from pytorch_ood.api import Detector, FeaturesDetector
    from pytorch_ood.benchmark.base import Benchmark

    detector = negprompt.Detector(clip, list(NAMES))
    assert isinstance(detector, Detector)
    assert isinstance(detector, FeaturesDetector)
    assert Benchmark._normalize_detectors(detector) == ([detector], False)
    assert Benchmark._supports_cached_features(detector)
    producer = Benchmark._get_features_producer(detector)
    assert detector.predict_features(producer(pixels)).equal(detector(pixels))


def test_nonsense_is_refused(clip: Clip):
    with pytest.raises(UsageError, match="list"):
        negprompt.zero_shot(clip, "red circle")
    with pytest.raises(UsageError, match="at least one"):
        negprompt.zero_shot(clip, [])
    with pytest.raises(UsageError, match=r"positive\.contxt"):
        negprompt.Detector(clip, NAMES, settings={"positive.contxt": 3})
    with pytest.raises(UsageError, match="no such file"):
        next(negprompt.score_images(negprompt.zero_shot(clip, NAMES), "nowhere.jpg"))
    with pytest.raises(UsageError, match="no ID images"):
        negprompt.zero_shot(clip, NAMES).fit([])
