"""Run all benchmarks and print one table.

    python tests/benchmarks/run.py [--device cpu|cuda] [--only NAME ...] [--threads N] [sizes]

Each benchmark is a file with `add_arguments` and `measure`. Below the table there is a reason for each benchmark that cannot
run here. The targets are for two CPU cores.
"""

import argparse
import importlib
import platform
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from harness import Row, Skip, print_table

NAMES = (
    "prompt_encode",
    "stage2_step",
    "memory",
    "time_to_loss",
    "scores",
    "metrics",
    "image_encode",
    "decoders",
    "exported",
    "runtime",
    "cached_evaluation",
    "startup",
)


def main() -> None:
    modules = {name: importlib.import_module(f"bench_{name}") for name in NAMES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, module in modules.items():
        module.add_arguments(parser.add_argument_group(name))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rows: list[Row] = []
    skipped: list[str] = []
    for name in args.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += modules[name].measure(args)
        except Skip as reason:
            skipped.append(f"{name}: skipped, {reason}")
    where = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else platform.processor()
    print(f"{args.device} ({where}), {args.threads} threads, PyTorch {torch.__version__}\n")
    print_table(rows)
    for line in skipped:
        print(line)


if __name__ == "__main__":
    main()
