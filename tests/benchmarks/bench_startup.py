"""Time `negprompt --help`, compared with a Python process that only imports typer and rich."""

import argparse
import subprocess
import sys

import torch
from harness import Row, as_installed, take_turns, text_of

TARGET = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--startup-repeats", type=int, default=9)


def measure(args: argparse.Namespace) -> list[Row]:
    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=as_installed())

    turns = take_turns(
        lambda: run("-m", "negprompt_cli", "--help"),
        lambda: run("-c", "import typer, rich"),
        repeats=args.startup_repeats,
        device=torch.device("cpu"),
    )
    ratio = 1 / turns.speedup
    return [
        Row(
            "negprompt --help against importing typer and rich",
            text_of(turns.ours),
            text_of(turns.reference),
            f"{ratio:.2f}",
            f"<= {TARGET:g}",
            ratio <= TARGET,
        )
    ]
