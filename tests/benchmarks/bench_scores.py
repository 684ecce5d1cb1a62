"""Time of all default scores against the bare blocked matrix product of the same size.

    python tests/benchmarks/bench_scores.py [--images 100000] [--classes 1000] [--negatives 2] [--dimension 512]

The product counts the positive, negative and zero-shot prompts. The two take turns, so that a slow spell of the machine
meets both; the ratio is the median of the ratios of the pairs. The target is a ratio of at most 1.5 on two cores.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.scores import DEFAULT_SCORES
from negprompt_cli.engine.scores.bank import PromptBank
from negprompt_cli.engine.scores.compute import ACCELERATOR_BLOCK_BYTES, CPU_BLOCK_BYTES, compute_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--negatives", type=int, default=2, help="negative prompts per class")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--scores", default=",".join(DEFAULT_SCORES), help="comma separated")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--block-mib", type=float, default=None, help="block size of both sides; default the package's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, args.dimension, generator=generator), dim=-1).to(device)

    features = unit(args.images)
    bank = PromptBank(unit(args.classes), unit(args.classes, args.negatives), unit(args.classes), logit_scale=100.0)
    default_bytes = CPU_BLOCK_BYTES if device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    block_bytes = default_bytes if args.block_mib is None else int(args.block_mib * 2**20)
    groups = [bank.rows(group).T for group in ("positives", "negatives", "zero_shot")]
    rows = max(1, block_bytes // (4 * sum(group.shape[1] for group in groups)))
    products = [torch.empty(rows, group.shape[1], device=device) for group in groups]

    def bare_product() -> None:
        for start in range(0, args.images, rows):
            part = features[start : start + rows]
            for group, product in zip(groups, products, strict=True):
                torch.mm(part, group, out=product[: len(part)])

    def all_scores() -> None:
        compute_scores(features, bank, args.scores.split(","), temperature=args.temperature, block_bytes=block_bytes)

    pairs = [(_seconds(bare_product, device), _seconds(all_scores, device)) for _ in range(args.repeats + 1)][1:]
    product, scores = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    prompts = sum(group.shape[1] for group in groups)
    print(f"{args.images} images x {prompts} prompts x {args.dimension}, {args.scores}, tau {args.temperature:g}")
    print(f"{args.device}, {args.threads} threads, {block_bytes / 2**20:g} MiB blocks of {rows} images")
    print("| matrix product | all scores | ratio |\n|---|---|---|")
    print(f"| {product:.3f} s | {scores:.3f} s | {ratio:.3f} |")


def _seconds(job: Callable[[], None], device: torch.device) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
