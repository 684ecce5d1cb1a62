"""Image encoder, prompts, score and threshold as one torch module: pixels in, decisions out.

The text tower is folded into matrices: prompt features are constants. The scores are the catalogue's own functions, so an
exported file computes what `evaluate` does. Pixels are what the model's preprocessing makes; that preprocessing stays
outside, because decoding and resizing do not belong into a graph.

Leaves out: scores that compare with anything but prompts.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negprompt_cli.engine.scores import ScoreOptions, find_score
from negprompt_cli.engine.scores.image_block import ImageBlock, ScoringContext
from negprompt_cli.engine.scores.score_inputs import ScoreInputs


class DetectorModule(nn.Module):
    """Maps pixels (B, 3, H, W) to probabilities (B, K), ID scores (B,) float32 and is_ood (B,) bool.

    Where there are negatives, also to the nearest of all K * p, (B,) int64, and its cosine, (B,) float32: the outputs named
    in `judgement`.

    Args:
        visual: the image tower, (B, 3, H, W) to (B, F); frozen, on the CPU.
        bank: prompt features, on the CPU.
        score: name of an ID score that needs prompts only.
        temperature: tau of the softmax scores, on cosines.
        threshold: images whose score is below are OOD; None calls none OOD.
        by_class: thresholds of predicted classes that have one of their own.
    """

    def __init__(
        self,
        visual: nn.Module,
        bank: ScoreInputs,
        *,
        score: str,
        temperature: float,
        threshold: float | None,
        by_class: Mapping[int, float] | None = None,
    ) -> None:
        super().__init__()
        self.visual = visual
        self._bank = bank.to(torch.device("cpu"), torch.float32)
        self._temperature = temperature
        self._score = find_score(score).load()
        common = float("-inf") if threshold is None else threshold
        thresholds = torch.full((len(bank.positives),), common)
        for label, own in (by_class or {}).items():
            thresholds[label] = own
        self.register_buffer("_thresholds", thresholds)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Judge preprocessed images."""
        pooled = self.visual(pixels)
        if isinstance(pooled, tuple):  # CoCa's tower gives its tokens too
            pooled = pooled[0]
        # A setup remembers what it computes, and what an exporter traces must not be remembered.
        block = ImageBlock(
            ScoringContext(self._bank, self._temperature, ScoreOptions()), F.normalize(pooled.float(), dim=-1), None
        )
        probabilities = torch.softmax(self._bank.logit_scale * block.cosines("positives"), dim=1)
        score = self._score(block).float()
        thresholds: Tensor = self._thresholds  # type: ignore[assignment]
        outputs: tuple[Tensor, ...] = (probabilities, score, score < thresholds[block.predictions])
        if self._bank.negatives is not None:
            outputs += (block.nearest("negatives"), block.highest("negatives").float())
        return outputs
