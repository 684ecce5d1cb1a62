"""A frozen CLIP: model, preprocessing, tokenizer and identity in one object.

The class wraps any open_clip dual encoder. Image and prompt features are L2-normalised float32. Model and preprocessing
are kept together, because features made with other preprocessing are silently wrong (`clip.load` of Radford et al., 2021,
does the same). `data.encoding.models` loads models.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negprompt_cli.engine.devices import Compute
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.engine.prompt_learners.prompt_encoder import Encoder, PromptEncoder
from negprompt_cli.engine.prompt_learners.tokens import PromptTokens, Tokenizer, tokenize_prompts, word_ids
from negprompt_cli.engine.prompt_learners.towers import TowerPlan, plan_text_path
from negprompt_cli.errors import UsageError


@dataclass(frozen=True)
class ClipFacts:
    """What is known of a CLIP without loading it.

    `preprocessing` describes the preprocessing in words and is part of cache keys. `logit_scale`: CLIP's s, by which its
    softmax multiplies cosines. `width`: length of a token embedding and of a context vector. `text_path`: how prompts are
    encoded, as in `TowerPlan.path`, and why.
    """

    identity: ModelIdentity
    preprocessing: str
    logit_scale: float
    width: int
    text_path: tuple[str, str]


@dataclass(frozen=True)
class Towers:
    """The loaded part of a CLIP. `plan` says how its text tower is run."""

    model: nn.Module
    tokenizer: Tokenizer
    plan: TowerPlan


@dataclass(frozen=True)
class Clip(ClipFacts):
    """A frozen CLIP on its device.

    `preprocess` maps a PIL image to (3, H, W). `towers` returns what encodes, and loads it first if necessary.
    """

    preprocess: Callable[[Any], Tensor]
    compute: Compute
    towers: Callable[[], Towers]

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        *,
        preprocess: Callable[[Any], Tensor],
        preprocessing: str,
        tokenizer: Tokenizer,
        identity: ModelIdentity,
        compute: Compute,
    ) -> "Clip":
        """Freeze a float32 model and put it on its device."""
        model.eval().requires_grad_(False)
        model.visual.to(memory_format=torch.channels_last)
        model.to(compute.device)
        plan, scale = plan_text_path(model), model.get_parameter("logit_scale")
        towers = Towers(model, tokenizer, plan)
        facts = (identity, preprocessing, float(scale.exp()), plan.width, (plan.path, plan.reason))
        return cls(*facts, preprocess, compute, lambda: towers)

    @property
    def facts(self) -> ClipFacts:
        """The facts alone."""
        return ClipFacts(*(getattr(self, field.name) for field in fields(ClipFacts)))

    @property
    def model(self) -> nn.Module:
        """The open_clip model."""
        return self.towers().model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.towers().tokenizer

    @property
    def plan(self) -> TowerPlan:
        """How the text tower is run."""
        return self.towers().plan

    @property
    def device(self) -> torch.device:
        """The device that encodes images and text and trains prompts."""
        return self.compute.device

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images.

        Args:
            pixels: (B, 3, H, W) as `preprocess` makes them, on any device.

        Returns:
            (B, F) float32 features, L2-normalised, on the model's device.
        """
        device, dtype = self.device, self.compute.dtype
        pixels = pixels.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            features: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]
            return F.normalize(features.float(), dim=-1)

    def prompt_encoder(
        self,
        names: Sequence[str],
        *,
        context: int,
        budget: int,
        template: str = "{}.",
        notice: Callable[[str], None] | None = None,
    ) -> Encoder:
        """Make the encoder of prompts '<context> template(name)' for K class names (see `PromptEncoder`).

        Args:
            names: K class names as words.
            context: number M of context vectors, 0 for none.
            budget: bytes the activations of one call may take.
            template: the text after the context, with {} for the name.
            notice: called with one line when memory ran out and chunks became smaller.

        Raises:
            UsageError: a prompt is longer than the text tower reads, or the model's end token is wrong.
        """
        tokens = tokenize_prompts(names, self.tokenizer, self.plan, context=context, template=template)
        return self.encoder_of(tokens, budget=budget, notice=notice)

    def encoder_of(
        self, tokens: PromptTokens, *, budget: int, notice: Callable[[str], None] | None = None
    ) -> PromptEncoder:
        """Make the encoder of K prompts that are already tokenised. Arguments as for `prompt_encoder`."""
        return PromptEncoder(self.model, self.plan, tokens, device=self.device, budget=budget, notice=notice)

    def word_context(self, words: str) -> Tensor:
        """Embed words as a context: (M, D), one vector per token.

        Raises:
            UsageError: `words` has no tokens.
        """
        if not words.strip():
            raise UsageError("A context initialised from words needs at least one word.")
        ids = word_ids(words, self.tokenizer, self.plan)
        vectors: Tensor = self.plan.embedding(torch.tensor(ids, device=self.device))
        return vectors.detach().float()

    def encode_template(self, names: Sequence[str], *, template: str, budget: int) -> Tensor:
        """Encode plain text prompts: `template` with {} replaced by each of K names.

        Returns:
            (K, F) float32 features, L2-normalised.

        Raises:
            UsageError: the template has no {}, or `prompt_encoder` raises it.
        """
        before, found, _ = template.partition("{}")
        if not found:
            raise UsageError(f"The template '{template}' has no {{}} for the class name.")
        words = before.strip()
        context = self.word_context(words) if words else torch.empty(0, self.plan.width, device=self.device)
        behind = template[len(before) :]
        encoder = self.prompt_encoder(names, context=len(context), budget=budget, template=behind)
        with torch.no_grad():
            return encoder(context[None])[0]


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 (hex) of the names, types, shapes and values of a model's parameters and buffers, in name order.

    The digest does not depend on the file format of the weights or on their device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
