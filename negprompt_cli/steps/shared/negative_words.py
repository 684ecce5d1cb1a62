"""The negative words of scores that use words: their sources, the choice, and their features.

A choice has the name of the field of `ScoreInputs` that it fills:

    words             the words farthest from the class names (NegMining)
    words_by_images   the words farthest from ID training images (InterNeg)
    words_filtered    the words farthest from the class names, without names of single things, ID classes and their
                      subclasses, which WordNet tells (NegRefine without a language model)
    csp_words         the farthest nouns, and the farthest phrases of an adjective and a superclass, in proportion to their
                      numbers (CSP)

`engine/scores/word_choice` has the distances. ID class names are never among the words. Words
and classes have the same zero-shot template, as in the papers; CSP's code has another one for phrases (`phrase_template`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets import wordnet
from negprompt_cli.data.sets.class_list import novel_names, read_class_list
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.engine.scores.csp import SUPERCLASSES
from negprompt_cli.engine.scores.word_choice import farthest, image_distances, name_distances
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.workbench import Workbench

CHOICES = ("words", "words_by_images", "words_filtered", "csp_words")


@dataclass(frozen=True, eq=False)
class ChosenWords:
    """Chosen words with their distances (higher = farther from ID) and their features (W, F)."""

    choice: str
    words: tuple[str, ...]
    distances: tuple[float, ...]
    features: Tensor


def choose_words(
    bench: Workbench,
    prompts: Prompts,
    classes: Tensor,
    choices: Iterable[str],
    *,
    images: tuple[Tensor, Tensor] | None = None,
) -> list[ChosenWords]:
    """Choose negative words.

    Args:
        prompts: the artifact whose classes are ID.
        classes: (K, F) zero-shot features of the class names.
        choices: names in `CHOICES`.
        images: features (T, F) and labels (T,) of the training images, for words_by_images.

    Raises:
        UsageError: there are no words, or none is left after the choice; or WordNet is needed and missing.
        ValueError: words_by_images is chosen without `images`.
    """
    pool = _Pool(bench, prompts)
    settings = bench.config.evaluate
    count = settings.word_count
    made = []
    for choice in choices:
        check_choice(settings, prompts, choice)
        of = len(pool.nouns.texts)
        if choice == "words":
            found = pool.nouns.farthest(classes, count)
        elif choice == "words_filtered":
            found = pool.filtered().farthest(classes, count)
        elif choice == "csp_words":
            phrases = pool.phrases()
            of += len(phrases.texts)
            found = _share(pool.nouns, phrases, classes, count)
        else:
            if images is None:
                raise ValueError("words_by_images needs images")
            found = pool.nouns.chosen(image_distances(pool.nouns.features, classes, *images), count)
        words, distances, features = found
        if not words:
            raise UsageError(f"None of the {of} negative words is suitable ({choice}).", remedy="negative-words")
        bench.progress.say(f"Negative words: {len(words)} of {of} ({choice})")
        order = list(range(len(words)))
        if settings.word_groups > 1:
            # Words are still ordered by distance, and consecutive words form a group, so shuffle them first.
            order = torch.randperm(len(words), generator=torch.Generator().manual_seed(bench.config.seed)).tolist()
        made.append(
            ChosenWords(
                choice, tuple(words[i] for i in order), tuple(float(distances[i]) for i in order), features[order]
            )
        )
    return made


def check_choice(settings: EvaluateConfig, prompts: Prompts, choice: str) -> None:
    """Check, before anything is encoded, that the words of a choice are available. Training images are not checked.

    Raises:
        UsageError: a file is missing, not text or empty; WordNet is needed and missing; or the prompts are transferred and
            the choice needs ID images.
    """
    files = [settings.words, settings.adjectives] if choice == "csp_words" else [settings.words]
    for file in files:
        if file is None:
            wordnet.require()
        else:
            read_class_list(Path(file))
    if choice == "words_filtered":
        wordnet.require()
    if choice == "words_by_images" and prompts.kind == "transferred":
        raise UsageError(
            "Negative words are chosen by images of the prompts' classes, and transferred prompts have no such images."
        )


_Found = tuple[list[str], Tensor, Tensor]
"""Words, their distances (W,) and their features (W, F)."""


@dataclass(frozen=True, eq=False)
class _Texts:
    """Texts with their features (W, F)."""

    texts: list[str]
    features: Tensor

    def farthest(self, classes: Tensor, count: int) -> _Found:
        """The `count` texts farthest from the class names."""
        return self.chosen(name_distances(self.features, classes), count)

    def chosen(self, distances: Tensor, count: int) -> _Found:
        """The `count` texts with the highest distances (W,)."""
        kept = farthest(distances, count)
        return [self.texts[i] for i in kept.tolist()], distances[kept], self.features[kept]


class _Pool:
    """All texts without the ID class names; each kind is read and encoded when it is first used."""

    def __init__(self, bench: Workbench, prompts: Prompts) -> None:
        self._bench, self._classes, self._settings = bench, prompts.classes, bench.config.evaluate

    @cached_property
    def nouns(self) -> _Texts:
        known = {fold(label.name) for label in self._classes}
        words = [word for word in _listed(self._settings.words, wordnet.nouns) if fold(word) not in known]
        if not words:
            raise UsageError(
                "All negative words are names of ID classes, so none can be used.", remedy="negative-words"
            )
        return self._encoded(words)

    def filtered(self) -> _Texts:
        """The nouns without names of single things, ID classes and their subclasses."""
        things, subclasses = wordnet.things_and_subclasses(self.nouns.texts, self._classes)
        self._bench.progress.say(
            f"Negative words left out by WordNet: {len(things)} names of single things, {len(subclasses)} ID classes"
        )
        kept = [i for i, word in enumerate(self.nouns.texts) if word not in things and word not in subclasses]
        return _Texts([self.nouns.texts[i] for i in kept], self.nouns.features[kept])

    def phrases(self) -> _Texts:
        """Every adjective with a random superclass after it."""
        adjectives = _listed(self._settings.adjectives, wordnet.adjectives)
        generator = torch.Generator().manual_seed(self._bench.config.seed)
        drawn = torch.randint(len(SUPERCLASSES), (len(adjectives),), generator=generator).tolist()
        texts = [f"{word} {SUPERCLASSES[i]}" for word, i in zip(adjectives, drawn, strict=True)]
        return self._encoded(texts, self._settings.phrase_template)

    def _encoded(self, texts: list[str], template: str | None = None) -> _Texts:
        return _Texts(texts, self._bench.encode_texts(texts, template or self._settings.template))


def _share(nouns: _Texts, phrases: _Texts, classes: Tensor, count: int) -> _Found:
    """The farthest texts of both kinds, in proportion to their numbers."""
    first = round(count * len(nouns.texts) / (len(nouns.texts) + len(phrases.texts)))
    words, distances, features = nouns.farthest(classes, first)
    more, their, added = phrases.farthest(classes, count - first)
    return words + more, torch.cat([distances, their]), torch.cat([features, added])


def _listed(file: str | None, otherwise: Callable[[], list[str]]) -> list[str]:
    """The words of a file, one per line, or those of `otherwise` if no file is named.

    Raises:
        UsageError: the file is missing, not text or empty; or an error of `otherwise`.
    """
    return otherwise() if file is None else [c.name for c in novel_names(read_class_list(Path(file))).classes]
