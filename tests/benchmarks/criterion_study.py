"""Judge the default score and its parts by ID data alone (`engine.criterion`), on features of several backbones.

    python tests/benchmarks/criterion_study.py                          the ten problems of the shared assets
    python tests/benchmarks/criterion_study.py mine.safetensors ...     your own features
    python tests/benchmarks/criterion_study.py --classes 16             four random draws of 16 classes of each problem

Your own file must have `text` (K, D), `images` (N, D) and `labels` (N,), and may have `logit_scale` (). The shared assets
are real OpenAI ViT-B/32 features (four problems), those of a small CLIP (two), and the latter moved into a cone like that of
a real CLIP (four). The rows are the score without one of its statistics, and scores that need no training. OOD images are
never used.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from harness import SHARED
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.config import Config
from negprompt_cli.engine.criterion import SIDES, Criterion, Learn, mean_of, measure_criterion
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.engine.scores.id_statistics import TERMS
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.embedding_learning import learn_embeddings
from negprompt_cli.steps.shared.self_check import learner_of_parts

SIMPLE = ("mcm", "max-logit", "energy", "logit-gap")
Problem = tuple[str, Tensor, Tensor, Tensor, float]


def shared_problems() -> Iterator[Problem]:
    """Yield name, class embeddings, ID images, labels and logit scale; the evaluation images are not used."""
    sys.path.insert(0, str(SHARED / "tools"))
    import geometry_check  # type: ignore[import-not-found]

    for name, text, scale, images, labels, _judged, _ood in geometry_check.problems():
        yield name, text, images, labels, scale


def own_problems(paths: Sequence[Path]) -> Iterator[Problem]:
    for path in paths:
        found = load_file(path)
        scale = float(found.get("logit_scale", torch.tensor(100.0)))
        text, images = (normalize(found[key].float(), dim=1) for key in ("text", "images"))
        yield path.stem, text, images, found["labels"].long(), scale


def draws_of(problem: Problem, classes: int) -> Iterator[Problem]:
    """Yield four problems of as many random classes."""
    name, text, images, labels, scale = problem
    for draw in range(4):
        kept = torch.randperm(len(text), generator=torch.Generator().manual_seed(draw))[:classes].sort().values
        place = torch.full((len(text),), -1)
        place[kept] = torch.arange(len(kept))
        own = place[labels] >= 0
        yield f"{name}, draw {draw}", text[kept], images[own], place[labels[own]], scale


def study(problem: Problem, config: Config) -> dict[str, Criterion]:
    """Return the criterion of each row."""
    _, text, images, labels, scale = problem
    whole = learn_embeddings(config, Features(images, labels), text, scale=scale)[0].id_statistics
    learn = learner_of_parts(config, whole, scale=scale)
    learned: dict[float, ScoreInputs] = {}

    def without(term: str, positives: Tensor, images: Tensor, labels: Tensor) -> ScoreInputs:
        key = float(images.double().sum())
        inputs = learned[key] = learned.get(key) or learn(positives, images, labels)
        assert inputs.id_statistics is not None
        terms = inputs.id_statistics.terms.clone()
        if term:
            terms[TERMS.index(term), 2] = 0
        return replace(inputs, id_statistics=replace(inputs.id_statistics, terms=terms))

    def measured(learner: Learn, scores: Sequence[str]) -> Criterion:
        return measure_criterion(text, images, labels, learner, scores=scores, seed=config.seed, directions=2)

    rows = {"negprompt": measured(partial(without, ""), ("negprompt", *SIMPLE))}
    return rows | {f"without {term}": measured(partial(without, term), ("negprompt",)) for term in TERMS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="*", type=Path)
    parser.add_argument("--classes", type=int, help="draw this number of classes of each problem, four times")
    args = parser.parse_args()
    found: dict[str, list[Criterion]] = {}
    whole = own_problems(args.features) if args.features else shared_problems()
    for problem in (small for one in whole for small in (draws_of(one, args.classes) if args.classes else [one])):
        try:
            rows = study(problem, Config())
        except UsageError as error:
            print(f"{problem[0]} is left out: {error}")
            continue
        print(problem[0], *(f"{name} {_text(rows['negprompt'], name)}" for name in ("negprompt", *SIMPLE)), sep="; ")
        for name, criterion in rows.items():
            found.setdefault(name, []).append(criterion)
    print(
        f"\n| score | {' | '.join(SIDES)} | mean | worst side against the better of mcm and max-logit |\n|{'---|' * 6}"
    )
    for label, name, key in [(n, n, "negprompt") for n in SIMPLE] + [(n, "negprompt", n) for n in found]:
        sides = [mean_of(one.sides[side][name] for one in found[key]) for side in SIDES]
        cells = [f"{100 * one.auroc:.1f} / {100 * one.fpr95_id_positive:.1f}" for one in sides]
        auroc = statistics.fmean(one.auroc for one in sides)
        fpr = statistics.fmean(one.fpr95_id_positive for one in sides)
        worst = min(
            one.sides[side][name].auroc - max(base.sides[side][simple].auroc for simple in ("mcm", "max-logit"))
            for one, base in zip(found[key], found["negprompt"], strict=True)
            for side in SIDES
        )
        print(f"| {label} | {' | '.join(cells)} | {100 * auroc:.2f} / {100 * fpr:.2f} | {100 * worst:+.1f} |")


def _text(criterion: Criterion, score: str) -> str:
    one = criterion.overall(score)
    return f"{100 * one.auroc:.2f} / {100 * one.fpr95_id_positive:.2f}"


if __name__ == "__main__":
    main()
