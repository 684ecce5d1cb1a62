"""Time of all metrics, and of a bootstrap, against scikit-learn's `roc_auc_score` alone.

    python tests/benchmarks/bench_metrics.py [--samples 100000] [--resamples 20]

The two take turns; the ratio is the median of the ratios of the pairs. The target is a ratio of at most 4.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from negprompt_cli.engine.bootstrap import bootstrap_ci
from negprompt_cli.engine.metrics import evaluate_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="scores of each of ID and OOD")
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()

    generator = np.random.default_rng(0)
    id_scores, ood_scores = generator.normal(1, 1, args.samples), generator.normal(0, 1, args.samples)
    id_correct = generator.random(args.samples) < 0.7
    scores = np.concatenate([id_scores, ood_scores])
    is_id = np.repeat([1, 0], args.samples)

    pairs = [
        (
            _seconds(lambda: roc_auc_score(is_id, scores)),
            _seconds(lambda: evaluate_scores(id_scores, ood_scores, id_correct)),
        )
        for _ in range(args.repeats + 1)
    ][1:]
    reference, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    bootstrap = _seconds(
        lambda: bootstrap_ci(id_scores, ood_scores, generator=np.random.default_rng(0), n=args.resamples)
    )
    print(f"{args.samples} ID and {args.samples} OOD scores")
    print("| roc_auc_score | all metrics | ratio | one bootstrap resample (AUROC, FPR95) |\n|---|---|---|---|")
    print(
        f"| {1e3 * reference:.1f} ms | {1e3 * ours:.1f} ms | {ratio:.2f} | {1e3 * bootstrap / args.resamples:.1f} ms |"
    )


def _seconds(job: Callable[[], object]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
