"""Evaluation documents for tests that need one of their own making."""

from collections.abc import Sequence
from typing import Any

from negprompt_cli.data.results.evaluations import AVERAGE, EvaluationDocument, Row
from negprompt_cli.engine.metrics.detection import METRICS


def evaluation(rows: Sequence[Row], **fields: object) -> EvaluationDocument:
    """An evaluation document with these rows, and fields that override the others by name, in sections by `__`."""
    values: dict[str, Any] = {
        "schema": "negprompt/evaluation/1",
        "limited": False,
        "model": {"name": "ViT-B-16", "pretrained": "laion2b_s34b_b88k", "weights_sha256": "ab" * 32},
        "prompts": {
            "path": "negative.safetensors",
            "sha256": "cd" * 32,
            "kind": "negative",
            "loss": "separation",
            "negatives": 2,
            "seed": 0,
            "shots": 16,
            "context": 4,
            "learned_on_classes": 3,
        },
        "id": {"name": "pets", "images": 30, "classes": 3, "accuracy": 0.7, "files_sha256": "1" * 64},
        "ood": {row.ood: {"images": row.images, "files_sha256": "2" * 64} for row in rows if row.ood != AVERAGE},
        "temperature": 1.0,
        "template": "a photo of a {}.",
        "rows": [row.document() for row in rows],
    }
    for key, value in fields.items():
        section, _, name = key.partition("__")
        values[section] = {**values[section], name: value} if name else value
    return EvaluationDocument.model_validate(values)


def evaluation_row(ood: str = "noise", score: str = "mcm", **figures: object) -> Row:
    """A row of an evaluation; every figure that is not given is a half."""
    halves = dict.fromkeys(METRICS, 0.5)
    return Row.model_validate({"ood": ood, "images": 10, "score": score, **halves, **figures})
