"""Time stage-2 training on real cached features until it reaches the final loss of a small-batch training.

The data are the first 100 classes of tiny-imagenet with 16 shots, encoded with lite-clip. The small-batch training uses the
official code's settings (batch 64, learning rate 0.1, no momentum, cosine) for the paper's 10 epochs; the other side uses
the package's default schedule. Both losses are computed over all training images.
"""

import argparse
import statistics
import time

import torch
from harness import SHARED, Row, Skip, text_of

from negprompt_cli.config import NegativeConfig, load_config
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.training import (
    EpochReport,
    FullBatch,
    Job,
    Method,
    Sgd,
    Trained,
    negative_objective,
    train,
)
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.schedules import method_of
from negprompt_cli.steps.shared.training_data import positive_data
from negprompt_cli.steps.shared.workbench import Workbench

TARGET = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loss-spec", default="tiny-imagenet#0-99", help="images below the shared image folder")
    parser.add_argument(
        "--loss-small", default="64,0.1,0,10", help="batch,lr,momentum,epochs of the small-batch training"
    )
    parser.add_argument("--loss-repeats", type=int, default=1)


def measure(args: argparse.Namespace) -> list[Row]:
    assets = SHARED / "assets"
    if not assets.is_dir():
        raise Skip(f"needs the real assets: {assets} does not exist")
    config = load_config(
        flags={
            "model.name": f"local-dir:{assets / 'models' / 'lite-clip'}",
            "model.pretrained": None,
            "data.spec": str(assets / "images" / args.loss_spec),
            "compute.device": args.device,
        }
    )
    bench = Workbench(config, Silent())
    data = positive_data(bench)
    clip, settings = bench.clip, NegativeConfig()
    context = clip.word_context(config.positive.context.words)[None]
    encoder = clip.prompt_encoder([c.name for c in data.classes], context=context.shape[1], budget=bench.budget)
    loss = NegativeLoss(**settings.loss.model_dump())
    with torch.no_grad():
        positives = encoder(context)[0]

    objective = negative_objective(loss, positives=positives, scale=clip.logit_scale)

    def learn(method: Method, epochs: int) -> tuple[float, Trained, list[tuple[float, EpochReport]]]:
        generator = torch.Generator().manual_seed(0)
        job = Job(
            start=negative_contexts(context, settings.count, noise=settings.noise, generator=generator),
            encoder=encoder,
            data=data.features,
            objective=objective,
            method=method,
            epochs=epochs,
            judges=positives,
        )
        reports: list[tuple[float, EpochReport]] = []
        began = time.perf_counter()
        trained = train(job, on_epoch=lambda report: reports.append((time.perf_counter() - began, report)))
        return time.perf_counter() - began, trained, reports

    batch, lr, momentum, epochs = args.loss_small.split(",")
    small, default = Sgd(float(lr), int(batch), float(momentum)), method_of(settings.schedule)
    learn(default, 1)
    pairs, goal, reached = [], 0.0, 0.0
    for _ in range(args.loss_repeats):
        small_time, trained, _ = learn(small, int(epochs))
        large_time, best, reports = learn(default, settings.schedule.epochs)
        goal, reached = trained.end_loss, best.end_loss
        # A report of the default method has the loss over all images after its step.
        exact = isinstance(default, FullBatch)
        passed = [when for when, report in reports if exact and report.terms["loss"] <= goal]
        pairs.append((small_time, passed[0] if passed else large_time))
    small_time, large_time = (statistics.median(side) for side in zip(*pairs, strict=True))
    speedup = statistics.median(a / b for a, b in pairs)
    met = reached <= goal and speedup >= TARGET
    return [
        Row(
            f"stage-2 training, {len(data.classes)} classes, to the small-batch training's loss ({goal:.4f})",
            f"{text_of(large_time)} (ends at {reached:.4f})",
            text_of(small_time),
            f"{speedup:.1f}x",
            f">= {TARGET:g}x",
            met,
        )
    ]
