"""Test-time scores of an evaluation: the ID images and those of one OOD set as a stream, in several random orders.

Each OOD set has its own stream, with all ID images and all of its own, so that a score never sees images of another OOD set.
A score does not know which images are ID.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from negprompt_cli.data.encoding.features import EncodedSet
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.engine.test_time import TEST_TIME_SCORES
from negprompt_cli.engine.test_time.stream import Stream
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True, eq=False)
class StreamScores:
    """A test-time score on one order of a stream, higher = more ID.

    `id_scores` (N,) and `ood_scores` (M,) are in the order of the image sets; `order` is the seed of the stream's order.
    """

    score: str
    ood: str
    order: int
    id_scores: npt.NDArray[np.float64]
    ood_scores: npt.NDArray[np.float64]


def stream_scores(bench: Workbench, bank: ScoreInputs, id_set: EncodedSet, ood: EncodedSet) -> list[StreamScores]:
    """Score a stream of ID and OOD images in every configured order; empty if no test-time score is configured.

    Args:
        bank: the inputs of scores, with zero-shot features and words.
        id_set: ID images.
        ood: OOD images.
    """
    settings = bench.config.evaluate
    if not settings.test_time:
        return []
    if bank.zero_shot is None or bank.words is None:
        raise ValueError("test-time scores need zero-shot features and words")
    message = (
        f"{', '.join(settings.test_time)}: these scores learn from the test images, including OOD images. Do not compare "
        "them with scores of single images. Their figures depend on the order of the images."
    )
    bench.decide(Decision("test-time", message, {"scores": list(settings.test_time)}, warning=True))
    features = torch.cat([id_set.features, ood.features]).float()
    made = []
    for seed in dict.fromkeys(settings.stream_orders):
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        # On the CPU, because one image at a time would not use an accelerator well.
        stream = Stream(features[order], bank.zero_shot.float().cpu(), bank.words.float().cpu(), bank.logit_scale)
        for name in settings.test_time:
            scores = torch.empty(len(features), dtype=torch.float64)
            with torch.no_grad():
                scores[order] = TEST_TIME_SCORES[name].load()(stream)
            split = len(id_set)
            made.append(StreamScores(name, ood.images.name, seed, scores[:split].numpy(), scores[split:].numpy()))
            bench.progress.say(f"{name} on the images of {ood.images.name}, order {seed}")
    return made
