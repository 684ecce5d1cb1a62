"""A device that is too small, for tests without one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from negprompt_cli.engine.prompt_learners import prompt_encoder
from negprompt_cli.engine.prompt_learners.shared_prefix import Packed, encode_shared_prefix


def room_for(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have memory run out where prompts of more classes are encoded at once (on the prefix path)."""

    def encode(causal: Any, prefix: Tensor, sequences: Packed, *rest: Tensor) -> Tensor:
        if len(sequences.ends) > classes:
            raise torch.OutOfMemoryError("simulated")
        return encode_shared_prefix(causal, prefix, sequences, *rest)

    monkeypatch.setattr(prompt_encoder, "encode_shared_prefix", encode)
