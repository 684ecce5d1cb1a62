"""Names of run folders and of the files in them. Imports no torch."""

from pathlib import Path

POSITIVE = "positive.safetensors"
NEGATIVE = "negative.safetensors"
EVALUATION = "evaluation.json"


def default_run_folder(spec: str) -> Path:
    """runs/<data name>: the catalogue name or the last part of a path, with its selector."""
    from negprompt_cli.data.sets.sources import path_name
    from negprompt_cli.data.sets.spec import exists, parse_spec, user_path

    parsed = parse_spec(spec)
    path = user_path(parsed.base)
    return Path("runs") / ((path_name(path) if exists(path) else parsed.base) + parsed.label)


def transfer_name(stem: str) -> str:
    """transfer-<stem>.safetensors, for the stem of the class list's file name."""
    return f"transfer-{stem}.safetensors"
