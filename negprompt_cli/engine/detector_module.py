"""Image encoder, prompts, score and threshold as one torch module that maps pixels to decisions.

Prompt features are constants, so the module needs no text tower. It calls the score functions of `engine.scores`, so an
exported file computes the same scores as `evaluate`. The input is preprocessed pixels: decoding and resizing are not part
of the graph. Only scores that need nothing but prompts are supported.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negprompt_cli.engine.scores import ScoreOptions, find_score
from negprompt_cli.engine.scores.image_block import ImageBlock, ScoringContext
from negprompt_cli.engine.scores.score_inputs import ScoreInputs


class DetectorModule(nn.Module):
    """Map pixels (B, 3, H, W) to probabilities (B, K), ID scores (B,) float32 and is_ood (B,) bool.

    With negatives there are two more outputs: the index of the nearest of all K * p negatives, (B,) int64, and its cosine,
    (B,) float32. `judgement` has the names of all outputs.

    Args:
        visual: the image tower, (B, 3, H, W) to (B, F); frozen, on the CPU.
        bank: prompt features, on the CPU.
        score: name of an ID score that needs prompts only.
        temperature: tau of the softmax scores, on cosines.
        options: constants of the score.
        threshold: images that score below it are OOD; with None no image is OOD.
        by_class: thresholds for single predicted classes, in place of `threshold`.

    Raises:
        UsageError: there is no such score.
    """

    def __init__(
        self,
        visual: nn.Module,
        bank: ScoreInputs,
        *,
        score: str,
        temperature: float,
        options: ScoreOptions,
        threshold: float | None,
        by_class: Mapping[int, float] | None = None,
    ) -> None:
        super().__init__()
        self.visual = visual
        self._bank = bank.to(torch.device("cpu"), torch.float32)
        self._temperature = temperature
        self._options = options
        self._score = find_score(score).load()
        common = float("-inf") if threshold is None else threshold
        thresholds = torch.full((len(bank.positives),), common)
        for label, own in (by_class or {}).items():
            thresholds[label] = own
        self.register_buffer("_thresholds", thresholds)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Judge preprocessed images (B, 3, H, W); the outputs are those of the class docstring, in that order."""
        pooled = self.visual(pixels)
        if isinstance(pooled, tuple):  # CoCa's tower also returns its tokens.
            pooled = pooled[0]
        # A context caches what it computes. Tensors that an exporter traces must not be cached, so each call makes its own.
        block = ImageBlock(
            ScoringContext(self._bank, self._temperature, self._options), F.normalize(pooled.float(), dim=-1), None
        )
        probabilities = torch.softmax(self._bank.logit_scale * block.cosines("positives"), dim=1)
        score = self._score(block).float()
        thresholds: Tensor = self._thresholds  # type: ignore[assignment]
        outputs: tuple[Tensor, ...] = (probabilities, score, score < thresholds[block.predictions])
        if self._bank.negatives is not None:
            outputs += (block.nearest("negatives"), block.highest("negatives").float())
        return outputs
