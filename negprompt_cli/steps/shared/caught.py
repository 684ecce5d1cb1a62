"""What each negative prompt catches: the rejected images to which it is the nearest negative prompt."""

import numpy as np

from negprompt_cli.config import PixelsConfig
from negprompt_cli.report.page import Gallery, Thumbnail
from negprompt_cli.report.thumbnails import thumbnails
from negprompt_cli.steps.shared.measure import Measured
from negprompt_cli.steps.shared.report_pictures import nearest
from negprompt_cli.steps.shared.scored_sets import ScoredSets

SHOWN = 12
"""Number of negative prompts shown: those that catch most."""


def caught_gallery(measured: Measured, sets: ScoredSets, rules: PixelsConfig) -> Gallery | None:
    """The negatives that catch most OOD images, each with its nearest image; None without negatives."""
    if measured.bank.negatives is None:
        return None
    score, flat = sets.scores[0], measured.bank.negatives.flatten(0, 1)
    threshold, per_class = sets.threshold(score), measured.bank.negatives.shape[1]
    counts = {"ood": np.zeros(len(flat), dtype=np.int64), "id": np.zeros(len(flat), dtype=np.int64)}
    cosines, places, paths, totals = [], [], [], {"ood": 0, "id": 0}
    for i, (scored, plain) in enumerate(
        zip((measured.id_set, *measured.ood_sets), (sets.id_set, *sets.ood_sets), strict=True)
    ):
        rejected = np.flatnonzero(plain.scores[score] < threshold)
        values, found = nearest(scored, flat)
        role = "ood" if i else "id"
        counts[role] += np.bincount(found.numpy()[rejected], minlength=len(flat))
        totals[role] += len(rejected)
        if i:
            cosines.append(values.numpy()[rejected])
            places.append(found.numpy()[rejected])
            paths += [plain.paths[j] for j in rejected.tolist()]
    owners, near = np.concatenate(places), np.concatenate(cosines)
    shown = [n for n in np.argsort(-counts["ood"], kind="stable")[:SHOWN].tolist() if counts["ood"][n]]
    best = [int(np.flatnonzero(owners == n)[near[owners == n].argmax()]) for n in shown]
    chosen = [paths[b] for b in best]
    cards = []
    for n, b, path, jpeg in zip(shown, best, chosen, thumbnails(chosen, rules), strict=True):
        owner, number = divmod(n, per_class)
        lines = [
            f"OOD images: {counts['ood'][n]:,}",
            f"ID images: {counts['id'][n]:,}",
            f"nearest cosine: {near[b]:.3f}",
        ]
        cards.append(Thumbnail(jpeg, f"{sets.names[owner]} #{number + 1}", lines, path=str(path)))
    used = int((counts["ood"] > 0).sum())
    note = (
        f"The counts say to how many of the {totals['ood']:,} rejected OOD and {totals['id']:,} rejected ID images a "
        f"negative prompt is the nearest one. The picture is its nearest OOD image. {used} of {len(flat)} negative prompts "
        "have one."
    )
    return Gallery("What the negative prompts catch", note, cards)
