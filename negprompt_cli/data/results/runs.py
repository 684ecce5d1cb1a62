"""Names of run folders and of the files in them. This module imports no torch."""

from pathlib import Path

POSITIVE = "positive.safetensors"
NEGATIVE = "negative.safetensors"
EVALUATION = "evaluation.json"
PAGE = "report.html"
"""Name of the report page of `fit`."""
ZERO_SHOT = "zero-shot"
"""Value used instead of a positive artifact for positives that are not trained."""


def default_run_folder(spec: str) -> Path:
    """Return runs/<data name>."""
    from negprompt_cli.data.sets.sources import short_name
    from negprompt_cli.data.sets.spec import exists, parse_spec, user_path

    parsed = parse_spec(spec)
    path = user_path(parsed.base)
    return Path("runs") / short_name(parsed, path if exists(path) else None)


def seed_folder(run: Path, seed: int) -> Path:
    """Return the folder of one seed's files."""
    return run / f"seed-{seed}"


def transfer_name(stem: str) -> str:
    """Return transfer-<stem>.safetensors for the stem of the class list's file name."""
    return f"transfer-{stem}.safetensors"
