"""Time all metrics, and a bootstrap resample, compared with scikit-learn's `roc_auc_score` alone."""

import argparse

import numpy as np
import torch
from harness import Row, seconds, take_turns, text_of
from sklearn.metrics import roc_auc_score

from negprompt_cli.engine.metrics.bootstrap import bootstrap_ci
from negprompt_cli.engine.metrics.detection import evaluate_scores

TARGET = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric-samples", type=int, default=100_000, help="scores of each of ID and OOD")
    parser.add_argument("--metric-resamples", type=int, default=20)
    parser.add_argument("--metric-repeats", type=int, default=21)


def measure(args: argparse.Namespace) -> list[Row]:
    cpu, count = torch.device("cpu"), args.metric_samples
    generator = np.random.default_rng(0)
    id_scores, ood_scores = generator.normal(1, 1, count), generator.normal(0, 1, count)
    id_correct = generator.random(count) < 0.7
    scores = np.concatenate([id_scores, ood_scores])
    is_id = np.repeat([1, 0], count)
    turns = take_turns(
        lambda: evaluate_scores(id_scores, ood_scores, id_correct),
        lambda: roc_auc_score(is_id, scores),
        repeats=args.metric_repeats,
        device=cpu,
    )
    resamples = args.metric_resamples
    bootstrap = seconds(
        lambda: bootstrap_ci([(id_scores, ood_scores, None)], generator=np.random.default_rng(0), n=resamples), cpu
    )
    ratio = 1 / turns.speedup
    return [
        Row(
            f"all metrics, {count} + {count} scores, against roc_auc_score",
            text_of(turns.ours),
            text_of(turns.reference),
            f"{ratio:.2f}",
            f"<= {TARGET:g}",
            ratio <= TARGET,
        ),
        Row("- one bootstrap resample", text_of(bootstrap / resamples), "-", "", "-", None),
    ]
