"""The effect of a person's corrections: the old and the new detector on the same images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from negprompt_cli.data.results.artifacts import Prompts, check_model, load_prompts
from negprompt_cli.data.sets.imagesets import ImageSet, class_places
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.outcomes import Outcome, outcome
from negprompt_cli.steps.shared.scorer import make_scorer
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class Corrected:
    """The effect of corrections on the same held-out images, and on the corrected images, which are training images now.

    `images`: number of corrected images. `detector`: file of the old detector. Its figures are None if the file is missing.
    """

    images: int
    detector: str | None
    held_out_before: Outcome | None
    held_out_after: Outcome
    corrected_before: Outcome | None
    corrected_after: Outcome | None


def corrected_images(bench: Workbench, images: ImageSet) -> ImageSet:
    """The corrected images among the training images of `with_corrections`."""
    own = set(bench.corrections.images()) if bench.corrections else set()
    chosen = [i for i, path in enumerate(images.paths) if path.absolute() in own]
    return images.take(np.array(chosen, dtype=np.int64))


def earlier_detector(bench: Workbench, out: Path) -> tuple[Path, Prompts] | None:
    """The detector whose predictions were corrected, or else the one in `out`; None if there is neither."""
    sorted_by = bench.corrections.detector if bench.corrections else None
    for path, digest in ([sorted_by] if sorted_by else []) + [(out, "")]:
        try:
            prompts = load_prompts(path)
            check_model(prompts, bench.clip.identity, bench.clip.width, path)
        except UsageError:
            continue
        if digest in ("", prompts.sha256):
            return path, prompts
    message = (
        "The detector whose predictions were corrected is missing, so there are no figures from before the corrections."
    )
    bench.decide(Decision("other", message, {"detector": str(sorted_by[0]) if sorted_by else None}))
    return None


def compare_corrected(
    bench: Workbench, earlier: tuple[Path, Prompts] | None, prompts: Prompts, corrected: ImageSet
) -> Corrected:
    """Compare the old and the new detector on the same held-out images and on the corrected ones.

    Args:
        bench: its data have the held-out images.
        earlier: the old detector and its file.
        prompts: the new detector, which learned from the corrections.
        corrected: the corrected images.
    """

    def judged(by: Prompts, images: ImageSet) -> Outcome | None:
        if not len(images):
            return None
        encoded = bench.encode(images)
        places = class_places(images.classes, by.classes)
        labels = places[encoded.labels.numpy()]
        scorer = make_scorer(bench, by)
        return outcome(scorer, scorer.judge(encoded.features), labels, np.ones(len(labels), dtype=bool))

    held_out = bench.id_images("eval")
    after = judged(prompts, held_out)
    assert after is not None
    path, before = earlier or (None, None)
    return Corrected(
        images=len(corrected),
        detector=str(path) if path else None,
        held_out_before=judged(before, held_out) if before else None,
        held_out_after=after,
        corrected_before=judged(before, corrected) if before else None,
        corrected_after=judged(prompts, corrected),
    )
