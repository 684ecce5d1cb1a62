"""Measure scores with few and with many classes: random draws of ImageNet's classes, real features of ViT-B/32.

    python tests/benchmarks/class_counts.py [--counts 2,5,10,20,50,100,300] [--draws 10] [--scores negprompt,mcm,max-logit]

Two images per class are used for training and two for testing, as in `geometry_check.py` of the shared assets, which has two
draws of 100 classes. The OOD sets are 500 images of other classes (if there are others), DTD and Flowers-102. This measures
the final score; nothing may be chosen by it.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from harness import SHARED
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.embeddings import fit_embeddings
from negprompt_cli.engine.metrics.detection import evaluate_scores
from negprompt_cli.engine.scores.compute import compute_scores


def measure(tensors: dict[str, Tensor], count: int, seed: int, scores: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return AUROC and FPR95 (ID positive) of each score in per cent, as mean over the OOD sets, for one draw of classes."""
    images, labels = normalize(tensors["imagenet.images"].float(), dim=1), tensors["imagenet.labels"]
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(1000, generator=draw)[:count].sort().values
    place = torch.full((1000,), -1).index_put_((chosen,), torch.arange(count))
    own, learns = place[labels] >= 0, torch.arange(len(images)) % 4 < 2
    others = images[~own & ~learns]
    sets = [others[torch.randperm(len(others), generator=draw)[:500]]] if len(others) else []
    sets += [normalize(tensors[f"{name}.images"].float(), dim=1) for name in ("dtd", "flowers")]
    text = normalize(tensors["imagenet.text"].float(), dim=1)[chosen]
    trained, classes = images[own & learns], place[labels[own & learns]]
    inputs = replace(fit_embeddings(text, trained, classes).inputs, train_features=trained, train_labels=classes)
    judged = compute_scores(images[own & ~learns], inputs, scores).scores
    ood = [compute_scores(each, inputs, scores).scores for each in sets]
    found = {}
    for score in scores:
        each = [evaluate_scores(judged[score], one[score]) for one in ood]
        found[score] = (
            100 * statistics.fmean(one.auroc for one in each),
            100 * statistics.fmean(one.fpr95_id_positive for one in each),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="2,5,10,20,50,100,300")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--scores", default="negprompt,mcm,max-logit")
    args = parser.parse_args()
    scores = args.scores.split(",")
    tensors = load_file(SHARED / "assets" / "features" / "clip-vit-b32.safetensors")
    print(f"| classes | {' | '.join(scores)} | draws with a lower FPR95 than mcm's |\n|{'---|' * (len(scores) + 2)}")
    for count in map(int, args.counts.split(",")):
        draws = [measure(tensors, count, seed, scores) for seed in range(args.draws)]
        cells = [
            " / ".join(f"{statistics.fmean(one[score][figure] for one in draws):.1f}" for figure in range(2))
            for score in scores
        ]
        better = sum(one["negprompt"][1] < one["mcm"][1] for one in draws)
        print(f"| {count} | {' | '.join(cells)} | {better} of {args.draws} |", flush=True)


if __name__ == "__main__":
    main()
