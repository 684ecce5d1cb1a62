"""Names of run folders and of the files in them. Imports no torch."""

from pathlib import Path

POSITIVE = "positive.safetensors"
NEGATIVE = "negative.safetensors"
EVALUATION = "evaluation.json"
PAGE = "report.html"
"""The page of a fit."""
ZERO_SHOT = "zero-shot"
"""In the place of a positive artifact: positives that are not trained."""


def default_run_folder(spec: str) -> Path:
    """runs/<data name>."""
    from negprompt_cli.data.sets.sources import short_name
    from negprompt_cli.data.sets.spec import exists, parse_spec, user_path

    parsed = parse_spec(spec)
    path = user_path(parsed.base)
    return Path("runs") / short_name(parsed, path if exists(path) else None)


def seed_folder(run: Path, seed: int) -> Path:
    """The paths of the files of one seed."""
    return run / f"seed-{seed}"


def transfer_name(stem: str) -> str:
    """transfer-<stem>.safetensors, for the stem of the class list's file name."""
    return f"transfer-{stem}.safetensors"
