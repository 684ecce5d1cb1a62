"""Recognise the parts of a data set (train, val and test) in their usual spellings."""

import re
from typing import Literal

Part = Literal["train", "val", "test"]

_SPELLINGS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def part_named(text: str) -> Part | None:
    """Return the part that a name means, or None; case is ignored: "Validation" is val, "train_set" is train."""
    return _SPELLINGS.get(re.sub(r"[_\- ]?(set|data|images|imgs|split)$", "", text.strip().casefold()))
