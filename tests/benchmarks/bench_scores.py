"""Time of all default scores against the bare blocked matrix product of the same size.

The product counts the positive, negative and zero-shot prompts; the images are a second evaluation's cached features.
"""

import argparse

import torch
from harness import Row, take_turns, text_of
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.engine.scores.compute import ACCELERATOR_BLOCK_BYTES, CPU_BLOCK_BYTES, compute_scores
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.engine.scores.score_inputs import ScoreInputs

TARGET = 1.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--score-images", type=int, default=100_000)
    parser.add_argument("--score-classes", type=int, default=1000)
    parser.add_argument("--score-negatives", type=int, default=2, help="negative prompts per class")
    parser.add_argument("--score-dimension", type=int, default=512)
    parser.add_argument("--scores", default=",".join(EvaluateConfig().scores), help="comma separated")
    parser.add_argument("--score-block-mib", type=float, default=None, help="of both sides; default the package's")
    parser.add_argument("--score-repeats", type=int, default=5)


def measure(args: argparse.Namespace) -> list[Row]:
    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, args.score_dimension, generator=generator), dim=-1).to(device)

    images, classes = args.score_images, args.score_classes
    features = unit(images)
    positives, negatives = unit(classes), unit(classes, args.score_negatives)
    labels = torch.arange(1000, device=device) % classes
    statistics = IdStatistics.measure(features[:1000], labels, positives, negatives, lambda *_: negatives, seed=0)
    bank = ScoreInputs(positives, negatives, unit(classes), logit_scale=100.0, id_statistics=statistics)
    default_bytes = CPU_BLOCK_BYTES if device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    block_bytes = default_bytes if args.score_block_mib is None else int(args.score_block_mib * 2**20)
    groups = [bank.rows(group).T for group in ("positives", "negatives", "zero_shot")]
    rows = max(1, block_bytes // (4 * sum(group.shape[1] for group in groups)))
    products = [torch.empty(rows, group.shape[1], device=device) for group in groups]

    def bare_product() -> None:
        for start in range(0, images, rows):
            part = features[start : start + rows]
            for group, product in zip(groups, products, strict=True):
                torch.mm(part, group, out=product[: len(part)])

    def all_scores() -> None:
        compute_scores(features, bank, args.scores.split(","), temperature=1.0, block_bytes=block_bytes)

    turns = take_turns(all_scores, bare_product, repeats=args.score_repeats, device=device)
    ratio = 1 / turns.speedup
    prompts = sum(group.shape[1] for group in groups)
    return [
        Row(
            f"all scores, {images} features x {prompts} prompts, against the matrix product",
            text_of(turns.ours),
            text_of(turns.reference),
            f"{ratio:.2f}",
            f"<= {TARGET:g}",
            ratio <= TARGET,
        )
    ]
