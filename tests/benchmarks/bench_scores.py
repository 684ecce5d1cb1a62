"""Time scores, compared with the bare blocked matrix product of the same size.

Three things are measured: the default scores together, all scores of one pass over prompts and words together, and each of
these alone. The product includes the prompts and words that the scores use; the images are random features.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from harness import Row, take_turns, text_of
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.engine.scores import find_score, score_names
from negprompt_cli.engine.scores.compute import ACCELERATOR_BLOCK_BYTES, CPU_BLOCK_BYTES, compute_scores
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.engine.scores.score_inputs import ScoreInputs

TARGET = 1.5
WORDS = ("words", "words_by_images", "words_filtered", "csp_words")
GROUPS = ("positives", "negatives", "zero_shot", *WORDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--score-images", type=int, default=100_000)
    parser.add_argument("--word-images", type=int, default=5_000, help="images where words are compared with too")
    parser.add_argument("--score-classes", type=int, default=1000)
    parser.add_argument("--score-negatives", type=int, default=2, help="negative prompts per class")
    parser.add_argument("--score-words", type=int, default=10_000)
    parser.add_argument("--score-dimension", type=int, default=512)
    parser.add_argument("--score-block-mib", type=float, default=None, help="of both sides; default the package's")
    parser.add_argument("--score-repeats", type=int, default=5)


def measure(args: argparse.Namespace) -> list[Row]:
    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, args.score_dimension, generator=generator), dim=-1).to(device)

    features, classes = unit(args.score_images), args.score_classes
    positives, negatives = unit(classes), unit(classes, args.score_negatives)
    labels = torch.arange(1000, device=device) % classes
    statistics = IdStatistics.measure(features[:1000], labels, positives, negatives, lambda *_: negatives, seed=0)
    words: dict[str, Any] = {name: unit(args.score_words) for name in WORDS}
    bank = ScoreInputs(
        positives,
        negatives,
        unit(classes),
        logit_scale=100.0,
        id_statistics=statistics,
        **words,
        train_features=features[:1000],
        train_labels=labels,
    )
    default_bytes = CPU_BLOCK_BYTES if device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    block_bytes = default_bytes if args.score_block_mib is None else int(args.score_block_mib * 2**20)

    def against_product(what: str, names: tuple[str, ...], *, target: float | None) -> Row:
        needed = {need for name in names for need in find_score(name).requires} | {"positives"}
        images = features[: args.word_images] if needed & set(WORDS) else features
        absent: dict[str, Any] = dict.fromkeys(set(GROUPS) - needed)
        own = replace(bank, **absent)
        groups = [bank.rows(group).T for group in GROUPS if group in needed]
        columns = sum(group.shape[1] for group in groups)
        rows = max(1, block_bytes // (4 * columns))
        products = [torch.empty(rows, group.shape[1], device=device) for group in groups]

        def bare_product() -> None:
            for start in range(0, len(images), rows):
                part = images[start : start + rows]
                for group, product in zip(groups, products, strict=True):
                    torch.mm(part, group, out=product[: len(part)])

        def scores() -> None:
            compute_scores(images, own, names, temperature=1.0, block_bytes=block_bytes)

        turns = take_turns(scores, bare_product, repeats=args.score_repeats, device=device)
        ratio = 1 / turns.speedup
        return Row(
            f"{what}, {len(images)} features x {columns} texts, against the matrix product",
            text_of(turns.ours),
            text_of(turns.reference),
            f"{ratio:.2f}",
            "-" if target is None else f"<= {target:g}",
            None if target is None else ratio <= target,
        )

    # Scores of one pass need a product with prompts or words, and little more.
    one_pass = tuple(name for name in score_names() if {"zero_shot", *GROUPS} >= set(find_score(name).requires))
    made = [
        against_product("default scores", EvaluateConfig().scores, target=TARGET),
        against_product("all scores of one pass", one_pass, target=TARGET),
    ]
    return made + [against_product(name, (name,), target=None) for name in (*one_pass, "logit-gap-fit")]
