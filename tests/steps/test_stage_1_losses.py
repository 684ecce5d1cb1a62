"""Presets of stage 1's loss, the whole way: what they train on and what the artifact says."""

import pytest
import torch
from evaluation_world import TRAIN, World, make_world, workbench

from negprompt_cli.config import load_config
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.engine.local_features import encode_local
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.learning import TrainingData, learn_positive
from negprompt_cli.steps.shared.training_data import find_training_images, positive_data
from negprompt_cli.steps.train_positive import run_train_positive


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tiny_clip)


@pytest.mark.parametrize("loss", ["fa", "locoop"])
def test_a_preset_trains_with_its_terms(world, tmp_path, loss):
    keys = {"data.spec": world.config.data.spec, "data.shots": 3, "compute.workers": 0, "compute.cache": False}
    config = load_config(flags={**keys, "positive.loss": loss, "positive.schedule.epochs": 3})
    out = tmp_path / "positive.safetensors"
    made = run_train_positive(workbench(config, world.clip), out, overwrite=False)
    assert out.is_file()
    summary = made.prompts.training[-1]
    assert summary.end_loss < summary.start_loss
    assert set(summary.terms) == {"loss", "cross-entropy", "anchor" if loss == "fa" else "patches"}
    assert made.prompts.config.positive.loss == loss


def test_patches_are_those_of_the_training_images(world):
    settings = world.config.positive.model_copy(update={"patches": 0.25})
    bench = workbench(world.config.model_copy(update={"positive": settings}), world.clip)
    data = positive_data(bench)
    paths = list(find_training_images(bench).paths)
    assert len(data.features) == 3 * min(TRAIN, 3) == len(paths)
    for patches, path in zip(data.features.patches, paths, strict=True):
        _, local = encode_local(world.clip, world.clip.preprocess(open_rgb(path))[None])
        torch.testing.assert_close(patches, local[0].half(), atol=1e-3, rtol=1e-2)
    assert torch.equal(data.features[torch.tensor([4])].patches, data.features.patches[4:5])


def test_features_without_images_have_no_patches(world):
    config = load_config(flags={"positive.loss": "locoop"})
    data = positive_data(workbench(world.config, world.clip))
    bare = TrainingData.of(data.features.images, data.features.labels, data.classes, world.clip.device)
    with pytest.raises(UsageError, match=r"positive\.patches"):
        learn_positive(workbench(config, world.clip), bare)
