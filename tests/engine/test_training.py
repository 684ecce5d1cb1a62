"""The training of contexts: what moves and what does not, each way to step against a loop by hand, and the guards."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip, wrap_tiny_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from random_world import seeded
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.losses import NegativeLoss, positive_loss
from negprompt_cli.engine.prompt_learners import training
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.training import (
    ADAM_STEP,
    Adam,
    EpochReport,
    Features,
    FullBatch,
    Job,
    Sgd,
    State,
    negative_objective,
    positive_objective,
    rate,
    split_held_out,
    train,
)
from negprompt_cli.errors import NegPromptError

NAMES = ("tench", "great white shark", "hen", "Cardigan Welsh Corgi")
SCALE = 10.0
LOSS = NegativeLoss("separation", beta=0.1, gamma=0.5)


def random_features(count: int = 22, seed: int = 3) -> Features:
    images = normalize(torch.randn(count, 16, generator=seeded(seed)), dim=-1)
    return Features(images, torch.arange(count) % len(NAMES))


@pytest.fixture(scope="module")
def encoder(tiny_clip: Clip) -> PromptEncoder:
    return tiny_clip.prompt_encoder(NAMES, context=4, budget=2**30)


@pytest.fixture(scope="module")
def context(tiny_clip: Clip) -> Tensor:
    return tiny_clip.word_context("a photo of a")[None]


def positive_job(context: Tensor, encoder: PromptEncoder, **options: Any) -> Job:
    defaults: dict[str, Any] = {"data": random_features(), "objective": positive_objective(scale=SCALE), "epochs": 5}
    return Job(start=context, encoder=encoder, **{**defaults, **options})


def negative_job(context: Tensor, encoder: PromptEncoder, **options: Any) -> Job:
    with torch.no_grad():
        positives = encoder(context)[0]
    defaults: dict[str, Any] = {
        "data": random_features(),
        "objective": negative_objective(LOSS, positives=positives, scale=SCALE),
        "epochs": 5,
        "judges": positives,
    }
    start = negative_contexts(context, 2, noise=0.1, generator=seeded(1))
    return Job(start=start, encoder=encoder, **{**defaults, **options})


JOBS = {"positive": positive_job, "negative": negative_job}
METHODS = {"full batch": FullBatch(), "sgd": Sgd(0.05, 8, momentum=0.9), "adam": Adam(3)}
stages = pytest.mark.parametrize("stage", JOBS)
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def loss_of(job: Job, contexts: Tensor) -> float:
    with torch.no_grad():
        return float(job.objective(job.data, job.encoder(contexts), slice(None))["loss"])


@methods
@stages
def test_only_contexts_learn(stage: str, method: Any, tiny_clip: Clip, encoder: PromptEncoder, context: Tensor) -> None:
    before = copy.deepcopy(tiny_clip.model.state_dict())
    start = context.clone()
    job = JOBS[stage](context, encoder, method=method)
    trained = train(job)
    for name, value in tiny_clip.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in tiny_clip.model.parameters())
    assert torch.equal(context, start)
    assert torch.equal(job.data.images, random_features().images)
    assert not trained.contexts.requires_grad
    assert (trained.contexts - job.start).abs().max() > 1e-3


@methods
@stages
def test_start_and_end_are_over_all_images_and_classes(
    stage: str, method: Any, encoder: PromptEncoder, context: Tensor
) -> None:
    job = JOBS[stage](context, encoder, method=method, epochs=30)
    trained = train(job)
    assert trained.start_loss == pytest.approx(loss_of(job, job.start), rel=1e-5)
    assert trained.end_loss == pytest.approx(loss_of(job, trained.contexts), rel=1e-5)
    assert trained.end_loss < trained.start_loss - 0.01


@methods
@stages
def test_a_training_repeats_itself_bit_for_bit(
    stage: str, method: Any, encoder: PromptEncoder, context: Tensor
) -> None:
    first, again = (train(JOBS[stage](context, encoder, method=method)) for _ in range(2))
    other = train(JOBS[stage](context, encoder, method=method, seed=7))
    assert torch.equal(first.contexts, again.contexts)
    assert first.history == again.history
    # Steps over all images have no order that a seed could change.
    assert torch.equal(first.contexts, other.contexts) == isinstance(method, FullBatch)


@methods
def test_the_global_generator_is_left_alone(method: Any, encoder: PromptEncoder, context: Tensor) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(negative_job(context, encoder, method=method))
    assert torch.equal(torch.rand(3), expected)


@methods
def test_class_specific_contexts_learn_apart(method: Any, encoder: PromptEncoder, context: Tensor) -> None:
    start = context[:, None].expand(-1, len(NAMES), -1, -1)
    trained = train(positive_job(start, encoder, method=method))
    assert trained.contexts.shape == (1, len(NAMES), 4, context.shape[-1])
    assert (trained.contexts[0, 0] - trained.contexts[0, 1]).abs().max() > 1e-4


# Steps over all images.


@stages
def test_no_step_ends_higher(stage: str, encoder: PromptEncoder, context: Tensor) -> None:
    job = JOBS[stage](context, encoder, method=FullBatch(0.0), epochs=40)
    trained = train(job)
    losses = [trained.start_loss, *(r.terms["loss"] for r in trained.history)]
    assert losses == sorted(losses, reverse=True)
    assert trained.end_loss == losses[-1]


def test_the_first_step_goes_straight_downhill(encoder: PromptEncoder, context: Tensor) -> None:
    """As far as the start is large, or that times a power of two."""
    job = negative_job(context, encoder, epochs=1)
    variable = job.start.clone().requires_grad_()
    loss = job.objective(job.data, encoder(variable), slice(None))["loss"]
    (gradient,) = torch.autograd.grad(loss, variable)
    step = train(job).contexts - job.start
    assert float(torch.cosine_similarity(step.flatten(), -gradient.flatten(), dim=0)) == pytest.approx(1, abs=1e-4)
    times = math.log2(float(step.norm() / job.start.norm()))
    assert times == pytest.approx(round(times), abs=1e-3)


@stages
def test_images_in_parts_make_the_same_step(
    stage: str, encoder: PromptEncoder, context: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JOBS[stage](context, encoder, epochs=2)
    whole = train(job)
    # Five images of 22 at a time.
    monkeypatch.setattr(training, "LOGITS_AT_ONCE", 5 * len(NAMES) * len(job.start))
    parts = train(job)
    torch.testing.assert_close(parts.contexts, whole.contexts, rtol=1e-3, atol=1e-4)
    assert parts.start_loss == pytest.approx(whole.start_loss, rel=1e-6)


@stages
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("tower", [{}, {"width": 64, "layers": 1}, {"width": 16, "layers": 4}], ids=str)
def test_the_tolerance_is_reached_on_any_tower(
    stage: str, scale: float, tower: dict[str, int], tokenizer: SimpleTokenizer
) -> None:
    clip = wrap_tiny_clip(build_tiny_clip(**tower), tokenizer)
    encoder = clip.prompt_encoder(NAMES, context=4, budget=2**30)
    start = clip.word_context("a photo of a")[None]
    with torch.no_grad():
        anchors = encoder(start)[0]
    objective = (
        positive_objective(scale=scale, anchors=anchors, anchor_weight=0.3)
        if stage == "positive"
        else negative_objective(LOSS, positives=anchors, scale=scale)
    )
    trained = train(JOBS[stage](start, encoder, objective=objective, epochs=100))
    assert trained.outcome in ("tolerance", "minimum")
    assert len(trained.history) < 100
    assert trained.end_loss < trained.start_loss
    assert math.isfinite(trained.end_loss)


def test_a_training_stops_where_its_loss_settles(encoder: PromptEncoder, context: Tensor) -> None:
    tight, loose = (train(negative_job(context, encoder, method=FullBatch(t), epochs=500)) for t in (1e-3, 0.1))
    assert (tight.outcome, loose.outcome) == ("tolerance", "tolerance")
    assert len(loose.history) < len(tight.history) < 500
    for trained, tolerance in ((tight, 1e-3), (loose, 0.1)):
        losses = [trained.start_loss, *(r.terms["loss"] for r in trained.history)]
        falls = [a - b for a, b in zip(losses, losses[10:], strict=False)]
        least = [tolerance * max(1.0, losses[0] - b) for b in losses[10:]]
        assert [f < m for f, m in zip(falls, least, strict=True)] == [False] * (len(falls) - 1) + [True]
    assert train(negative_job(context, encoder, epochs=4)).outcome == "epochs"


def test_a_minimum_ends_the_training(encoder: PromptEncoder, context: Tensor) -> None:
    """Contexts that the loss does not depend on."""

    def flat(batch: Features, prompts: Tensor, classes: object) -> dict[str, Tensor]:
        return {"loss": (0 * prompts).sum() + 3}

    job = positive_job(context, encoder, objective=flat)
    states: list[State] = []
    trained = train(job, on_state=states.append)
    assert (trained.outcome, trained.epoch, trained.end_loss) == ("minimum", 1, 3.0)
    assert torch.equal(trained.contexts, context)
    assert train(job, state=states[-1]).history == trained.history


# Rates.


@settings(max_examples=100)
@given(
    steps=st.integers(1, 500), warmup=st.floats(0, 0.9), lr=st.floats(1e-4, 10), where=st.floats(0, 1, exclude_max=True)
)
def test_rates_follow_warm_up_and_cosine(steps: int, warmup: float, lr: float, where: float) -> None:
    warm = round(warmup * steps)
    step = int(where * steps)
    if step < warm:
        expected = lr * (step + 1) / (warm + 1)
    else:
        expected = lr * math.cos(math.pi / 2 * (step - warm) / max(1, steps - warm)) ** 2
    found = rate(step, lr=lr, warmup=warmup, steps=steps)
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0 < found <= lr


def test_rates_rise_to_the_full_rate_and_fall_from_it() -> None:
    rates = [rate(step, lr=2.0, warmup=0.25, steps=16) for step in range(16)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[10] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.05


# Steps by hand.


def test_sgd_equals_a_loop_by_hand(encoder: PromptEncoder, context: Tensor) -> None:
    """Each step is v = m v + g, c = c - lr v, over shuffled batches, the last one smaller."""
    method = Sgd(lr=0.2, batch_size=8, momentum=0.7, warmup=0.2)
    job = negative_job(context, encoder, method=method, epochs=2, seed=4)
    trained = train(job)
    c, velocity, step, generator, means = job.start.clone(), torch.zeros_like(job.start), 0, seeded(4), []
    for _ in range(2):
        order, total = torch.randperm(22, generator=generator), 0.0
        for first in (0, 8, 16):
            chosen = order[first : first + 8]
            variable = c.clone().requires_grad_()
            negatives = encoder(variable).transpose(0, 1)
            loss = LOSS(job.data.images[chosen], job.data.labels[chosen], job.judges, negatives, SCALE)["loss"]
            (gradient,) = torch.autograd.grad(loss, variable)
            velocity = 0.7 * velocity + gradient
            c = c - rate(step, lr=0.2, warmup=0.2, steps=6) * velocity
            step += 1
            total += loss.item() * len(chosen)
        means.append(total / 22)
    torch.testing.assert_close(trained.contexts, c, rtol=1e-5, atol=1e-6)
    assert [r.terms["loss"] for r in trained.history] == pytest.approx(means, rel=1e-5)
    assert trained.history[-1].lr == rate(5, lr=0.2, warmup=0.2, steps=6)
    assert trained.outcome == "epochs"


def test_adam_equals_torch_in_units_of_the_start(encoder: PromptEncoder, context: Tensor) -> None:
    job = negative_job(context, encoder, method=Adam(3), epochs=3, seed=4)
    trained = train(job)
    c, generator, step = job.start.clone().requires_grad_(), seeded(4), 0
    unit = float(job.start.pow(2).mean().sqrt())
    optimiser = torch.optim.Adam([c], betas=training.ADAM_DECAYS, eps=0)
    for _ in range(3):
        batches = training.class_batches(job.data.labels, len(NAMES), per_step=3, batch_size=None, generator=generator)
        for chosen, classes in batches:
            optimiser.zero_grad()
            prompts, batch = encoder(c)[:, classes], job.data[chosen]
            batch = Features(batch.images, torch.searchsorted(classes, batch.labels))
            job.objective(batch, prompts, classes)["loss"].backward()
            steps = 3 * len(batches)
            optimiser.param_groups[0]["lr"] = rate(step, lr=ADAM_STEP * unit, warmup=0.05, steps=steps)
            optimiser.step()
            step += 1
    torch.testing.assert_close(trained.contexts, c.detach(), rtol=1e-3, atol=1e-4)


def test_a_batch_larger_than_the_data_is_the_whole_data(encoder: PromptEncoder, context: Tensor) -> None:
    exact, larger = (train(positive_job(context, encoder, method=Sgd(0.05, size))) for size in (22, 4096))
    assert torch.equal(exact.contexts, larger.contexts)


def test_reports(encoder: PromptEncoder, context: Tensor) -> None:
    seen: list[EpochReport] = []
    job = positive_job(context, encoder, method=Sgd(1e-9, 22), epochs=2)
    trained = train(job, on_epoch=seen.append)
    assert tuple(seen) == trained.history
    assert [(r.epoch, r.epochs, r.held_out) for r in seen] == [(1, 2, None), (2, 2, None)]
    with torch.no_grad():
        prompts = encoder(context)[0]
    # The rate is next to nothing, so every epoch reports what the start gives.
    expected = float(positive_loss(job.data.images, job.data.labels, prompts, SCALE))
    assert seen[-1].terms["loss"] == pytest.approx(expected, 1e-5)
    right = (job.data.images @ prompts.T).argmax(1) == job.data.labels
    assert seen[-1].accuracy == pytest.approx(float(right.float().mean()))


def test_full_batch_reports_the_contexts_after_the_step(encoder: PromptEncoder, context: Tensor) -> None:
    job = positive_job(context, encoder, epochs=3, held_out=random_features(9, seed=8))
    trained = train(job)
    with torch.no_grad():
        prompts = encoder(trained.contexts)[0]
    last = trained.history[-1]
    assert last.lr is None
    assert last.terms["loss"] == pytest.approx(loss_of(job, trained.contexts), rel=1e-5)
    assert last.accuracy == pytest.approx(
        float(((job.data.images @ prompts.T).argmax(1) == job.data.labels).float().mean())
    )
    held = random_features(9, seed=8)
    assert last.held_out == pytest.approx(float(positive_loss(held.images, held.labels, prompts, SCALE)), rel=1e-5)


# Losses that are no numbers.


@methods
@stages
def test_a_loss_that_is_no_number_stops_before_the_first_step(
    stage: str, method: Any, encoder: PromptEncoder, context: Tensor
) -> None:
    data = random_features()
    data.images[3, 2] = math.nan
    seen: list[State] = []
    with pytest.raises(NegPromptError, match=r"The loss is nan before the first step: image features"):
        train(JOBS[stage](context, encoder, method=method, data=data), on_state=seen.append)
    assert not seen


def test_a_rate_that_diverges_stops_with_the_rate(encoder: PromptEncoder, context: Tensor) -> None:
    # A checkpoint of the epoch before, whose loss was a number yet, is the last that is kept.
    seen: list[State] = []
    with pytest.raises(NegPromptError, match=r"diverged: after epoch 2 of 5 the loss is nan.*Lower the learning rate"):
        train(positive_job(context, encoder, method=Sgd(3e38, 22)), on_state=seen.append)
    assert [len(state.history) for state in seen] == [1]


def test_steps_into_the_void_are_shortened(encoder: PromptEncoder, context: Tensor) -> None:
    """A loss that is no number a little away from the start."""
    calls = []

    def edge(batch: Features, prompts: Tensor, classes: object) -> dict[str, Tensor]:
        value = positive_loss(batch.images, batch.labels, prompts[0], SCALE)
        calls.append(float(value.detach()))
        return {"loss": torch.where(value < calls[0] - 0.05, math.nan, value)}

    trained = train(positive_job(context, encoder, objective=edge, epochs=20))
    assert min(calls) < calls[0] - 0.05
    assert calls[0] - 0.05 <= trained.end_loss < calls[0]


# Which epoch is kept.


@pytest.mark.parametrize("method", [FullBatch(0.0), Sgd(3.0, 8)], ids=str)
def test_keep_best_is_the_epoch_with_the_lowest_held_out_objective(
    method: Any, encoder: PromptEncoder, context: Tensor
) -> None:
    # A rate this high makes the held-out objective go up and down.
    options: dict[str, Any] = {"method": method, "epochs": 8, "held_out": random_features(9, seed=8)}
    job = positive_job(context, encoder, keep="best", **options)
    best = train(job)
    values = [r.held_out for r in best.history]
    assert best.epoch == 1 + values.index(min(values))
    assert best.epoch < 8, "the last epoch is the best one, so this test shows nothing"
    with torch.no_grad():
        prompts = encoder(best.contexts)[0]
    held = options["held_out"]
    assert float(positive_loss(held.images, held.labels, prompts, SCALE)) == pytest.approx(min(values), rel=1e-5)
    assert best.end_loss == pytest.approx(loss_of(job, best.contexts), rel=1e-5)
    last = train(positive_job(context, encoder, **options))
    assert last.epoch == 8
    assert last.history == best.history


def test_keep_best_needs_held_out_images(encoder: PromptEncoder, context: Tensor) -> None:
    with pytest.raises(ValueError, match="held-out"):
        positive_job(context, encoder, keep="best")


@settings(max_examples=100)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_split_held_out(counts: list[int], share: float, seed: int) -> None:
    labels = torch.cat([torch.full((n,), 3 * i) for i, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=seeded(seed))]
    train, held = split_held_out(labels, share, generator=seeded(seed))
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(labels)))
    for i, n in enumerate(counts):
        kept, out = int((labels[train] == 3 * i).sum()), int((labels[held] == 3 * i).sum())
        assert kept >= 1
        assert out == min(n - 1, max(1, round(share * n)))
    again = split_held_out(labels, share, generator=seeded(seed))
    assert torch.equal(train, again[0])
    assert torch.equal(held, again[1])


# Stopping and going on.


def held_out_that_gets_worse(make: Callable[..., Job], epochs: int) -> Features:
    """A random image of which the last epoch is not the best.

    Sought, since random numbers and with them the best epoch are not the same on every processor. A single image, whose
    loss may go either way; that of many follows the prompts' distances among themselves, which training improves.
    """
    tried = (random_features(1, seed=seed) for seed in range(100, 200))
    return next(held for held in tried if train(make(held_out=held)).epoch < epochs)


@stages
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep": "best"},
        {"method": Sgd(0.1, 8, momentum=0.9)},
        {"method": Sgd(0.05, 8), "keep": "best"},
        {"method": Sgd(0.1, 5, momentum=0.9, classes_per_step=3)},
        {"method": Adam(3)},
    ],
    ids=["full batch", "best", "sgd", "sgd best", "sgd sampled", "adam"],
)
def test_a_training_goes_on_from_any_epoch_as_if_it_had_not_stopped(
    stage: str, options: dict[str, Any], encoder: PromptEncoder, context: Tensor
) -> None:
    states: list[State] = []
    make = partial(JOBS[stage], context, encoder, **options)
    if "keep" in options:
        make = partial(make, held_out=held_out_that_gets_worse(make, 5))
    else:
        make = partial(make, held_out=random_features(seed=100))
    whole = train(make(), on_state=states.append)
    copies = copy.deepcopy(states)
    assert [len(s.history) for s in states] == [1, 2, 3, 4, 5]
    for state, before in zip(states, copies, strict=True):
        seen: list[EpochReport] = []
        # The seed does not matter any more.
        again = train(make(seed=99), state=state, on_epoch=seen.append)
        assert torch.equal(again.contexts, whole.contexts)
        assert again.history == whole.history
        assert (again.epoch, again.start_loss, again.end_loss) == (whole.epoch, whole.start_loss, whole.end_loss)
        assert again.outcome == whole.outcome
        assert tuple(seen) == whole.history[len(state.history) :]
        for name in ("contexts", "best", "generator"):
            assert torch.equal(getattr(before, name), getattr(state, name)), name
        assert before.memory.keys() == state.memory.keys()
        assert all(torch.equal(before.memory[name], state.memory[name]) for name in before.memory)


def test_a_training_that_had_settled_has_settled_when_it_goes_on(encoder: PromptEncoder, context: Tensor) -> None:
    states: list[State] = []
    job = negative_job(context, encoder, epochs=100)
    whole = train(job, on_state=states.append)
    again = train(job, state=states[-1])
    assert again.outcome == whole.outcome == "tolerance"
    assert torch.equal(again.contexts, whole.contexts)
    assert again.history == whole.history


# Running out of memory.


@methods
def test_a_step_that_runs_out_of_memory_in_its_backward_is_taken_again(
    method: Any, tiny_clip: Clip, context: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    encoder = tiny_clip.prompt_encoder(NAMES, context=4, budget=2**24, notice=notices.append)
    expected = train(negative_job(context, encoder, method=method))
    assert not notices
    real, failed = torch.Tensor.backward, []

    def backward(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("simulated")
        real(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    trained = train(negative_job(context, encoder, method=method))
    assert len(notices) == 1
    torch.testing.assert_close(trained.contexts, expected.contexts, rtol=1e-4, atol=1e-6)
