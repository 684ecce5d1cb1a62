"""Steps that see some of the classes: which images and classes, and each step against a slow loop over all prompts."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_world import room_for
from random_world import seeded, unit
from resume_world import make_world
from scoring_world import run
from torch import Tensor

from negprompt_cli.config import ScheduleConfig, SgdConfig
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.training import (
    Features,
    Job,
    Sgd,
    class_batches,
    negative_objective,
    positive_objective,
    rate,
    train,
)
from negprompt_cli.steps.shared.schedules import epochs_of

NAMES = ("tench", "great white shark", "hen", "ostrich", "Cardigan Welsh Corgi", "goldfinch", "tree frog")
SCALE, BETA, GAMMA, ANCHOR = 10.0, 0.3, 0.5, 2.0


@pytest.fixture(scope="module")
def encoder(tiny_clip: Clip) -> PromptEncoder:
    return tiny_clip.prompt_encoder(NAMES, context=4, budget=2**30)


@pytest.fixture(scope="module")
def context(tiny_clip: Clip) -> Tensor:
    return tiny_clip.word_context("a photo of a")[None]


@pytest.fixture(scope="module")
def data() -> Features:
    # Classes have from one to seven images.
    labels = torch.repeat_interleave(torch.arange(7), torch.arange(1, 8))
    return Features(unit(len(labels), 16, seed=3), labels)


def positive_job(encoder: PromptEncoder, context: Tensor, data: Features, **options: Any) -> Job:
    return Job(start=context, encoder=encoder, data=data, objective=positive_objective(scale=SCALE), **options)


@settings(max_examples=150)
@given(
    counts=st.lists(st.integers(0, 9), min_size=2, max_size=12),
    per_step=st.integers(1, 11),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_every_image_comes_once_with_its_class(counts: list[int], per_step: int, batch_size: int, seed: int) -> None:
    classes, labels = len(counts), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    per_step = min(per_step, classes - 1)
    options = {"per_step": per_step, "batch_size": batch_size}
    batches = class_batches(labels, classes, **options, generator=seeded(seed))
    assert sorted(i for images, _ in batches for i in images.tolist()) == list(range(len(labels)))
    for images, chosen in batches:
        assert 1 <= len(images) <= batch_size
        assert len(chosen) == per_step
        assert all(a < b for a, b in pairwise(chosen.tolist()))
        assert set(labels[images].tolist()) <= set(chosen.tolist())
    # No more steps than the dealt groups call for: batches are full but for one per group.
    assert sum(len(images) < batch_size for images, _ in batches) <= math.ceil(classes / per_step)
    again = class_batches(labels, classes, **options, generator=seeded(seed))
    assert all(a.equal(c) and b.equal(d) for (a, b), (c, d) in zip(batches, again, strict=True))


def test_other_classes_are_drawn_evenly() -> None:
    """Four classes in groups of two, three per step: the third is either of the other two half the time."""
    seen = torch.zeros(4, 4)
    for seed in range(400):
        for images, chosen in class_batches(torch.arange(4), 4, per_step=3, batch_size=1, generator=seeded(seed)):
            seen[int(images), chosen] += 1
    assert (seen.diagonal() == 400).all()
    others = seen[~torch.eye(4, dtype=torch.bool)]
    # Each other class is in 2/3 of an image's steps; four standard deviations of a binomial count.
    assert (others - 400 * 2 / 3).abs().max() < 4 * math.sqrt(400 * 2 / 9)


def slow_negative_loss(f: Tensor, positives: Tensor, negatives: Tensor, chosen: list[int]) -> Tensor:
    """NIS + beta NPD + gamma NND of the preset `separation`, summed one by one over some of all K classes."""
    count = negatives.shape[0]
    nis = [torch.nn.functional.softplus(SCALE * x @ negatives[j, i]) for x in f for i in chosen for j in range(count)]
    npd = [negatives[j, i] @ positives[i] for i in chosen for j in range(count)]
    nnd = [negatives[j, i] @ negatives[k, i] for i in chosen for j in range(count) for k in range(count) if j != k]
    return sum(nis) / len(nis) + BETA * sum(npd) / len(npd) + GAMMA * sum(nnd) / len(nnd)


def slow_positive_loss(f: Tensor, labels: Tensor, prompts: Tensor, anchors: Tensor, chosen: list[int]) -> Tensor:
    """Cross-entropy among some of all K classes and the anchors' distance, summed one by one."""
    entropy = [
        torch.stack([SCALE * x @ prompts[i] for i in chosen]).logsumexp(0) - SCALE * x @ prompts[y]
        for x, y in zip(f, labels.tolist(), strict=True)
    ]
    distance = [((prompts[i] - anchors[i]) ** 2).sum() for i in chosen]
    return sum(entropy) / len(entropy) + ANCHOR * sum(distance) / len(distance)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "class-specific"])
@pytest.mark.parametrize("stage", ["positive", "negative"])
def test_training_is_a_loop_that_encodes_all_and_uses_some(
    stage: str, own: bool, encoder: PromptEncoder, context: Tensor, data: Features
) -> None:
    method = Sgd(lr=0.3, batch_size=4, momentum=0.7, warmup=0.2, classes_per_step=3)
    base = context[:, None].expand(-1, len(NAMES), -1, -1).clone() if own else context
    with torch.no_grad():
        positives = encoder(base)[0]
    anchors = unit(len(NAMES), 16, seed=9)
    start = base if stage == "positive" else negative_contexts(base, 2, noise=0.1, generator=seeded(1))
    objective = (
        positive_objective(scale=SCALE, anchors=anchors, anchor_weight=ANCHOR / SCALE)
        if stage == "positive"
        else negative_objective(NegativeLoss("separation", beta=BETA, gamma=GAMMA), positives=positives, scale=SCALE)
    )
    trained = train(
        Job(
            start=start,
            encoder=encoder,
            data=data,
            objective=objective,
            method=method,
            epochs=2,
            judges=None if stage == "positive" else positives,
            seed=4,
        )
    )
    c, velocity, generator = start.clone(), torch.zeros_like(start), seeded(4)
    means, rights = [], []
    for epoch in range(2):
        batches = class_batches(data.labels, len(NAMES), per_step=3, batch_size=4, generator=generator)
        total, right = 0.0, 0
        for number, (images, chosen) in enumerate(batches):
            variable = c.clone().requires_grad_()
            prompts, batch = encoder(variable), data[images]
            if stage == "positive":
                value = slow_positive_loss(batch.images, batch.labels, prompts[0], anchors, chosen.tolist())
            else:
                value = slow_negative_loss(batch.images, positives, prompts, chosen.tolist())
            (gradient,) = torch.autograd.grad(value, variable)
            velocity = 0.7 * velocity + gradient
            step, steps = epoch * len(batches) + number, 2 * len(batches)
            c = c - rate(step, lr=0.3, warmup=0.2, steps=steps) * velocity
            total += value.item() * len(images)
        with torch.no_grad():
            now = encoder(c)[0] if stage == "positive" else positives
        right = sum(int((x @ now.T).argmax()) == y for x, y in zip(data.images, data.labels.tolist(), strict=True))
        means.append(total / len(data))
        rights.append(right / len(data))
    assert (c - start).abs().max() > 1e-2
    torch.testing.assert_close(trained.contexts, c, rtol=1e-4, atol=1e-5)
    assert [r.terms["loss"] for r in trained.history] == pytest.approx(means, rel=1e-4)
    assert [r.accuracy for r in trained.history] == pytest.approx(rights)


@pytest.mark.parametrize("per_step", [7, 12])
def test_as_many_as_there_are_is_the_ordinary_training(
    per_step: int, encoder: PromptEncoder, context: Tensor, data: Features
) -> None:
    def learn(classes_per_step: int) -> tuple[Tensor, object]:
        method = Sgd(0.1, 8, classes_per_step=classes_per_step)
        made = train(positive_job(encoder, context, data, method=method, epochs=3))
        return made.contexts, made.history

    (ordinary, history), (same, again), (other, _) = learn(0), learn(per_step), learn(6)
    assert same.equal(ordinary)
    assert again == history
    assert not other.equal(ordinary)


def test_held_out_images_are_judged_on_all_classes(encoder: PromptEncoder, context: Tensor, data: Features) -> None:
    held = Features(unit(9, 16, seed=8), torch.arange(9) % 7)
    method = Sgd(2.0, 8, momentum=0.9, classes_per_step=2)
    made = train(positive_job(encoder, context, data, method=method, epochs=4, keep="best", held_out=held))
    with torch.no_grad():
        logits = SCALE * held.images @ encoder(made.contexts)[0].T
    expected = float(torch.nn.functional.cross_entropy(logits, held.labels))
    assert made.history[made.epoch - 1].held_out == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(min(r.held_out or math.inf for r in made.history), rel=1e-5)


def test_memory_found_short_in_a_step_is_remembered_by_the_next(
    tiny_clip: Clip, context: Tensor, data: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(1, monkeypatch)

    def notices(epochs: int) -> int:
        said: list[str] = []
        encoder = tiny_clip.prompt_encoder(NAMES, context=4, budget=2**24, notice=said.append)
        # Stage 2 never encodes all classes, which would tell the encoder as well.
        positives = unit(len(NAMES), 16, seed=9)
        loss = NegativeLoss("separation", beta=BETA, gamma=GAMMA)
        train(
            Job(
                start=context,
                encoder=encoder,
                data=data,
                objective=negative_objective(loss, positives=positives, scale=SCALE),
                method=Sgd(0.1, 8, momentum=0.9, classes_per_step=3),
                epochs=epochs,
                judges=positives,
            )
        )
        return len(said)

    assert 0 < notices(5) == notices(1)


def test_steps_of_groups_count_as_steps() -> None:
    sgd = SgdConfig(lr=0.1, min_steps=60, batch_size=4096)
    config = ScheduleConfig(epochs=2, classes_per_step=100, sgd=sgd)
    assert epochs_of(config, images=16_000, classes=1000) == 6
    assert epochs_of(config.model_copy(update={"classes_per_step": 0}), images=16_000, classes=1000) == 15
    assert epochs_of(config.model_copy(update={"sgd": None}), images=16_000, classes=1000) == 2


def test_the_option_reaches_both_stages(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = make_world(tmp_path_factory.mktemp("world"))
    for step, stage in (("train-positive", "positive"), ("train-negative", "negative")):
        result = run(*world.command(step, world.folder / "run", "--epochs", 2, "--classes-per-step", 3))
        assert result.exit_code == 0, result.output
        made = load_prompts(world.folder / "run" / f"{stage}.safetensors")
        assert getattr(made.config, stage).schedule.classes_per_step == 3
