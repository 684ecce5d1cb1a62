"""Measure the peak memory that stage-2 steps add, for two numbers of classes, each in a separate process.

On a CPU it is the growth of the process's largest resident size (getrusage) from just before the first step to after the
last one; on a GPU it is the peak of allocated memory minus the memory allocated before. The budget is the largest that
`--memory auto` gives on a CPU.

    python tests/benchmarks/bench_memory.py CLASSES NEGATIVES DEVICE     prints the bytes added, for one number of classes
"""

import argparse
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

from harness import Row

if TYPE_CHECKING:  # at run time only the measuring process imports it
    import torch

TARGET = 3 * 2**30
BUDGET = 3 * 2**30
STEPS = 2
VECTORS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory-classes", type=int, nargs=2, default=(1000, 4000))
    parser.add_argument("--memory-negatives", type=int, default=2, help="negatives per class")


def measure(args: argparse.Namespace) -> list[Row]:
    few, many = args.memory_classes
    a, b = (_in_own_process(count, args.memory_negatives, args.device) for count in (few, many))
    return [
        Row(
            f"memory added by stage-2 steps, {few} classes x {args.memory_negatives}",
            f"{a / 2**30:.2f} GiB",
            "-",
            "",
            "<= 3 GiB",
            a <= TARGET,
        ),
        Row(
            f"- with {many} classes", f"{b / 2**30:.2f} GiB", f"{few} classes", f"{b / a:.2f}", "<= 1.10", b / a <= 1.1
        ),
    ]


def _in_own_process(classes: int, negatives: int, device: str) -> int:
    command = [sys.executable, __file__, str(classes), str(negatives), device]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def added_by_training(classes: int, negatives: int, device_name: str) -> int:
    """Return the bytes that training steps need in addition to the model and its tokens."""
    import open_clip
    import torch
    from harness import imagenet_names, vit_b16
    from torch.nn.functional import normalize

    from negprompt_cli.engine.losses import NegativeLoss
    from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
    from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
    from negprompt_cli.engine.prompt_learners.towers import plan_text_path
    from negprompt_cli.engine.prompt_learners.training import Features, Job, Sgd, negative_objective, train

    device = torch.device(device_name)
    model = vit_b16(device)
    plan = plan_text_path(model)
    tokens = tokenize_prompts(imagenet_names(classes), open_clip.get_tokenizer("ViT-B-16"), plan, context=VECTORS)
    encoder = PromptEncoder(model, plan, tokens, device=device, budget=BUDGET)
    generator = torch.Generator().manual_seed(0)

    def unit(count: int) -> torch.Tensor:
        return normalize(torch.randn(count, 512, generator=generator), dim=-1).to(device)

    data = Features(unit(64 * STEPS), torch.zeros(64 * STEPS, dtype=torch.long, device=device))
    positives = unit(classes)
    start = (0.02 * torch.randn(negatives, VECTORS, plan.width, generator=generator)).to(device)
    before = _peak(device)
    train(
        Job(
            start=start,
            encoder=encoder,
            data=data,
            objective=negative_objective(NegativeLoss("separation", 0.0, 1.0), positives=positives, scale=100.0),
            method=Sgd(lr=0.1, batch_size=64),
            epochs=1,
            judges=positives,
        )
    )
    return _peak(device) - before


def _peak(device: "torch.device") -> int:
    import torch

    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(added_by_training(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
