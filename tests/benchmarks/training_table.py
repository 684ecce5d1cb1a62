"""Run both trainings with default settings on text towers of different depths, widths and logit scales, and print losses.

    python tests/benchmarks/training_table.py [--towers demo,wide,deep,lite,lite@20,lite@100,lite@300,vit-b-16:200]

    demo         the small CLIP of the demonstration (3 layers, width 64), its 10 ID classes
    wide, deep   text towers (2 layers, width 256; 12 layers, width 64), trained here in minutes against the demo's images
    lite@S       lite-clip of the shared assets (4 layers, width 256) at the logit scale S, 100 classes of tiny-imagenet
    vit-b-16:K   open_clip's ViT-B-16 (12 layers, width 512) with random weights, K ImageNet names; images are features of
                 OpenAI's ViT-B/32 from the shared assets, which do not belong to this tower

`held out` is the loss (in stage 1 only the cross-entropy) on ID images that are not used for training, before and after. OOD
images are never used.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
import torch
from harness import SHARED, imagenet_names, vit_b16
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from negprompt_cli.config import Config, ModelConfig, load_config
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.sets.classnames import class_label
from negprompt_cli.demo import train_clip as small
from negprompt_cli.demo.drawing import draw_class
from negprompt_cli.demo.model import unpack_model
from negprompt_cli.demo.world import load_world
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.training import (
    ALL,
    Features,
    Job,
    negative_objective,
    positive_objective,
    train,
)
from negprompt_cli.steps.shared.schedules import epochs_of, method_of

DEFAULT = "demo,wide,deep,lite,lite@20,lite@100,lite@300"
BUDGET = 3 * 2**30
OWN = {"wide": {"layers": 2, "width": 256, "heads": 8}, "deep": {"layers": 12, "width": 64, "heads": 4}}


@dataclass(frozen=True)
class Problem:
    """A model, K class names, and ID images for training and held out."""

    clip: Clip
    names: Sequence[str]
    train: Features
    held_out: Features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", default=DEFAULT, help="comma separated")
    parser.add_argument("--steps", type=int, default=250, help="steps that wide and deep are trained for")
    parser.add_argument("--set", action="append", default=[], help="key=value of the configuration")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(assignments=args.set)
    print(
        "| tower | stage | start | end | epochs | stopped by | a step up | held out | ID accuracy held out | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for tower in args.towers.split(","):
            measure(tower, make(tower, Path(folder), args.steps), config)


def measure(tower: str, problem: Problem, config: Config) -> None:
    """Train both stages and print a row for each."""
    clip = problem.clip
    start = clip.word_context(config.positive.context.words)[None]
    encoder = clip.prompt_encoder(problem.names, context=start.shape[1], budget=BUDGET)
    with torch.no_grad():
        anchors = encoder(start)[0]
    shape = {"images": len(problem.train), "classes": len(problem.names)}
    objective = positive_objective(scale=clip.logit_scale, anchors=anchors, anchor_weight=config.positive.anchor)
    schedule = config.positive.schedule
    job = Job(
        start=start,
        encoder=encoder,
        data=problem.train,
        objective=objective,
        method=method_of(schedule),
        epochs=epochs_of(schedule, **shape),
    )
    contexts = row(tower, "positive", problem, job)
    with torch.no_grad():
        positives = encoder(contexts)[0]
    schedule, settings = config.negative.schedule, config.negative
    loss = NegativeLoss(**settings.loss.model_dump())
    generator = torch.Generator().manual_seed(0)
    job = Job(
        start=negative_contexts(contexts, settings.count, noise=settings.noise, generator=generator),
        encoder=encoder,
        data=problem.train,
        objective=negative_objective(loss, positives=positives, scale=clip.logit_scale),
        method=method_of(schedule),
        epochs=epochs_of(schedule, **shape),
        judges=positives,
    )
    row(tower, "negative", problem, job)


def row(tower: str, stage: str, problem: Problem, job: Job) -> Tensor:
    """Train, print the results, and return the contexts."""
    began = time.perf_counter()
    trained = train(job)
    seconds = time.perf_counter() - began
    losses = [trained.start_loss, *(report.terms["loss"] for report in trained.history)]
    rises = sum(b > a for a, b in itertools.pairwise(losses))

    def held_out(contexts: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            prompts = job.encoder(contexts)
            judges = prompts[0] if job.judges is None else job.judges
            right = (problem.held_out.images @ judges.T).argmax(1) == problem.held_out.labels
            terms = job.objective(problem.held_out, prompts, ALL)
            return float(terms.get("cross-entropy", terms["loss"])), float(right.float().mean())

    (before, accuracy), (after, now) = held_out(job.start), held_out(trained.contexts)
    print(
        f"| {tower} | {stage} | {trained.start_loss:.4f} | {trained.end_loss:.4f} | {len(trained.history)} "
        f"| {trained.outcome} | {rises} | {before:.4f} to {after:.4f} | {accuracy:.1%} to {now:.1%} | {seconds:.0f} |",
        flush=True,
    )
    return trained.contexts


def make(tower: str, folder: Path, steps: int) -> Problem:
    """Build the problem of a tower."""
    kind, _, scale = tower.partition("@")
    kind, _, count = kind.partition(":")
    if kind == "lite":
        return lite(float(scale) if scale else None, int(count or 100))
    if kind == "vit-b-16":
        return random_vit(int(count or 200))
    clip = load_clip(
        ModelConfig(name=f"local-dir:{unpack_model(folder / 'small')}", pretrained=None), choose_compute("cpu")
    )
    world, generator = load_world(), np.random.default_rng(5)

    def images(each: int) -> Features:
        drawn = np.stack([draw_class(world, n, generator=generator) for n in world.id for _ in range(each)])
        return Features(clip.encode_images(small.normalise(drawn)), torch.arange(len(world.id)).repeat_interleave(each))

    train_images, held_out = images(16), images(40)
    if kind != "demo":
        clip = rewrapped(clip, own_tower(clip, steps=steps, **OWN[kind]))
    return Problem(clip, world.id, train_images, held_out)


def lite(scale: float | None, classes: int) -> Problem:
    """Build the problem of lite-clip with the first classes of tiny-imagenet, at another logit scale."""
    assets = SHARED / "assets"
    clip = load_clip(
        ModelConfig(name=f"local-dir:{assets / 'models' / 'lite-clip'}", pretrained=None), choose_compute("cpu")
    )
    if scale:
        clip.model.get_parameter("logit_scale").data.fill_(math.log(scale))
        clip = rewrapped(clip, clip.model)
    tensors = load_file(assets / "features" / "lite-clip.safetensors")
    keys = sorted(folder.name for folder in (assets / "images" / "tiny-imagenet" / "train").iterdir())
    names = [class_label(key).name for key in keys]

    def part(name: str) -> Features:
        labels = tensors[f"{name}.labels"]
        chosen = labels < classes
        return Features(normalize(tensors[f"{name}.images"].float(), dim=-1)[chosen], labels[chosen])

    return Problem(clip, names[:classes], part("train"), part("val"))


def random_vit(classes: int) -> Problem:
    """Build the problem of ViT-B-16 with random weights, and one image of OpenAI's ViT-B/32 per class."""
    model = vit_b16(torch.device("cpu"))
    model.get_parameter("logit_scale").data.fill_(math.log(100))
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    clip = Clip.wrap(
        model,
        preprocess=lambda image: image,
        preprocessing="none",
        tokenizer=tokenizer,
        identity=ModelIdentity("random", None, ""),
        compute=choose_compute("cpu"),
    )
    tensors = load_file(SHARED / "assets" / "features" / "clip-vit-b32.safetensors")
    images = normalize(tensors["imagenet.images"].float(), dim=-1)
    labels = torch.arange(classes)
    return Problem(
        clip, imagenet_names(classes), Features(images[4 * labels], labels), Features(images[4 * labels + 1], labels)
    )


def rewrapped(clip: Clip, model: nn.Module) -> Clip:
    """Wrap another model with the tokenizer and preprocessing of `clip`."""
    return Clip.wrap(
        model,
        preprocess=clip.preprocess,
        preprocessing=clip.preprocessing,
        tokenizer=clip.tokenizer,
        identity=clip.identity,
        compute=clip.compute,
    )


def own_tower(clip: Clip, *, steps: int, layers: int, width: int, heads: int) -> nn.Module:
    """Train a text tower with CLIP's loss against the frozen image features of the demonstration's CLIP."""
    torch.manual_seed(layers)
    generator = torch.Generator().manual_seed(layers)
    pairs = small.draw_pairs(load_world(), count=4000, generator=np.random.default_rng([layers, 0]))
    images = torch.cat([clip.encode_images(small.normalise(pairs.images[i : i + 200])) for i in range(0, 4000, 200)])
    vocabulary = torch.from_numpy(np.unique(pairs.tokens.numpy()))
    positions = small.TRAINED_POSITIONS
    text = small.MODEL_CFG["text_cfg"] | {"layers": layers, "width": width, "heads": heads}
    few = text | {"vocab_size": len(vocabulary), "context_length": positions}
    model = open_clip.CLIP(**small.MODEL_CFG | {"text_cfg": few})
    tokens = torch.searchsorted(vocabulary, pairs.tokens[..., :positions].contiguous())
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual")]
    peak = 1e-3 if layers < 8 else 5e-4
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    contrastive = open_clip.ClipLoss()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = peak * min((step + 1) / 20, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = torch.randint(len(images), (128,), generator=generator)
        which = torch.randint(small.CAPTIONS_PER_IMAGE, (128,), generator=generator)
        loss = contrastive(
            images[chosen], model.encode_text(tokens[chosen, which], normalize=True), model.logit_scale.exp()
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    whole: torch.nn.Module = open_clip.CLIP(**small.MODEL_CFG | {"text_cfg": text})
    state = {name: value for name, value in model.state_dict().items() if name != "attn_mask"}
    for name, rows in (("token_embedding.weight", vocabulary), ("positional_embedding", torch.arange(positions))):
        full = torch.zeros_like(whole.state_dict()[name])
        full[rows] = state[name]
        state[name] = full
    whole.load_state_dict(state, strict=False)
    return whole.eval()


if __name__ == "__main__":
    main()
