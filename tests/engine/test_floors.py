"""The floored score: against loops from its formula, its limits, and its way from training through the artifact."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_world import make_world, train
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata

from negprompt_cli.config import Config, load_config
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.class_list import given_names, novel_names
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.measure import measure
from negprompt_cli.steps.transfer import run_transfer

CLASSES, NEGATIVES, WIDTH = 5, 2, 12


def _bank(seed: int, exponent: float = 2.0, base: str = "energy") -> tuple[ScoreInputs, torch.Tensor]:
    """Random prompts around a shared direction, and features of which the mean is the bank's."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(CLASSES * (1 + NEGATIVES) + 40, WIDTH, generator=generator, dtype=torch.float64)
    drawn = F.normalize(drawn + torch.eye(WIDTH, dtype=torch.float64)[0], dim=-1)
    positives, negatives, features = drawn.split([CLASSES, CLASSES * NEGATIVES, 40])
    negatives = negatives.view(CLASSES, NEGATIVES, WIDTH)
    mean = features[:20].mean(0)
    return ScoreInputs(positives, negatives, None, 10.0, image_mean=mean, exponent=exponent, base=base), features


def _loop(f: torch.Tensor, bank: ScoreInputs, tau: float) -> float:
    """The floored score of one image, term by term."""
    positives, negatives = bank.positives.tolist(), bank.negatives.flatten(0, 1).tolist()

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    def mass(prompts, image):
        return sum(math.exp(dot(w, image) / tau) for w in prompts)

    image, mean = f.tolist(), bank.image_mean.tolist()
    share = [max(1, mass(group, image) / mass(group, mean)) / 2 for group in (positives, negatives)]
    base = max(dot(w, image) for w in positives)
    if bank.base == "energy":
        mean_term = sum(math.exp(bank.logit_scale * dot(w, image)) for w in positives) / len(positives)
        base = math.log(mean_term) / bank.logit_scale
    return math.exp((base - 1) / tau) / sum(share) ** bank.exponent


@pytest.mark.parametrize("tau", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("base", ["energy", "max-logit"])
def test_the_score_is_its_formula(tau: float, exponent: float, base: str):
    bank, features = _bank(0, exponent, base)
    found = compute_scores(features, bank, ["negprompt"], temperature=tau).scores["negprompt"]
    assert found == pytest.approx([_loop(f, bank, tau) for f in features], rel=1e-9)


def test_without_a_mean_image_the_score_is_the_papers():
    bank, features = _bank(1)
    found = compute_scores(features, replace(bank, image_mean=None), ["negprompt"]).scores["negprompt"]
    positives, negatives = features @ bank.positives.T, features @ bank.negatives.flatten(0, 1).T
    expected = positives.amax(1).exp() / (positives.exp().sum(1) + negatives.exp().sum(1))
    assert found == pytest.approx(expected.numpy(), rel=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), exponent=st.floats(0.1, 10), tau=st.floats(0.05, 5))
def test_it_is_between_0_and_1_and_never_above_max_logit(seed: int, exponent: float, tau: float):
    bank, features = _bank(seed, exponent)
    table = compute_scores(features, bank, ["negprompt", "max-logit"], temperature=tau)
    ceiling = np.exp((table.scores["max-logit"] - 1) / tau)
    assert (table.scores["negprompt"] > 0).all()
    assert (table.scores["negprompt"] <= ceiling * (1 + 1e-12)).all()


@pytest.mark.parametrize("base", ["energy", "max-logit"])
def test_where_no_mass_is_above_the_usual_it_is_its_base(base: str):
    bank, features = _bank(2, base=base)
    high = replace(bank, image_mean=torch.eye(WIDTH, dtype=torch.float64)[0])
    below = [features @ group.T.double().exp().log() for group in (bank.positives, bank.negatives.flatten(0, 1))]
    usual = [(group @ high.image_mean).exp().sum() for group in (bank.positives, bank.negatives.flatten(0, 1))]
    low = (below[0].exp().sum(1) <= usual[0]) & (below[1].exp().sum(1) <= usual[1])
    assert low.sum() >= 10
    table = compute_scores(features[low], high, ["negprompt", base])
    assert (rankdata(table.scores["negprompt"]) == rankdata(table.scores[base])).all()


def test_naming_the_classes_twice_changes_nothing():
    bank, features = _bank(3)
    twice = replace(bank, positives=bank.positives.repeat(2, 1), negatives=bank.negatives.repeat(2, 1, 1))
    one, two = (compute_scores(features, b, ["negprompt"]).scores["negprompt"] for b in (bank, twice))
    assert two == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("mean", [torch.zeros(3), torch.full((WIDTH,), float("nan")), torch.ones(WIDTH)])
def test_what_is_no_mean_of_features_is_refused(mean: torch.Tensor):
    bank, _ = _bank(4)
    with pytest.raises(ValueError, match="image_mean"):
        replace(bank, image_mean=mean.double())


def test_floors_belong_to_the_separation_loss_unless_said_otherwise():
    assert Config().negative.floors is not None
    for name in ("quoted", "official"):
        assert load_config(flags={"negative.loss.name": name}).negative.floors is None
        given = load_config(flags={"negative.loss.name": name, "negative.floors.exponent": 3.0})
        assert given.negative.floors is not None
        assert given.negative.floors.exponent == 3.0
    for preset in ("separation", "quoted", "official", "paper"):
        assert load_config(preset).negative.floors is None


def test_training_records_the_mean_image_and_evaluation_and_transfer_use_it(tmp_path: Path, tiny_clip):
    world = make_world(tmp_path, tiny_clip)
    prompts = load_prompts(world.prompts)
    bench = world.bench(scores=("negprompt", "max-logit"))
    training = bench.encode(bench.id_images("train"))
    assert prompts.image_mean is not None
    # Three of the four images of each class are shots: the mean is that of one such choice.
    dropped = 9 * prompts.image_mean - training.features.sum(0)
    choices = itertools.product(*(training.features[training.labels == c] for c in range(3)))
    assert min(float((dropped + sum(choice)).norm()) for choice in choices) < 1e-5
    measured = measure(bench, world.artifact)
    expected = [_loop(f.double(), measured.bank, 1.0) for f in measured.id_set.encoded.features]
    assert measured.id_set.table.scores["negprompt"] == pytest.approx(expected, rel=1e-5)
    moved = tmp_path / "moved.safetensors"
    names = novel_names(given_names(["owl", "bear"]))
    run_transfer(
        world.config, moved, artifact=world.artifact, names=names, extend=False, overwrite=False,
        progress=bench.progress, bench=bench,
    )  # fmt: skip
    kept = load_prompts(moved).image_mean
    assert kept is not None
    assert torch.equal(kept, prompts.image_mean)


def test_a_run_without_floors_records_no_mean_image(tmp_path: Path, tiny_clip):
    world = make_world(tmp_path, tiny_clip)
    plain = world.config.model_copy(update={"negative": world.config.negative.model_copy(update={"floors": None})})
    train(replace(world, config=plain), world.run)
    assert load_prompts(world.prompts).image_mean is None
    assert measure(world.bench(), world.artifact).bank.image_mean is None


def test_a_damaged_mean_image_is_refused(tmp_path: Path, tiny_clip):
    from safetensors import safe_open

    world = make_world(tmp_path, tiny_clip)
    with safe_open(world.prompts, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(world.prompts)
    tensors["image_mean"] = tensors["image_mean"] * float("nan")
    save_file(tensors, world.prompts, metadata)
    with pytest.raises(UsageError, match="image_mean"):
        load_prompts(world.prompts)
