"""The negative words of NegLabel: read from a list or taken from WordNet, and chosen far from the class names.

Jiang et al., "Negative label guided OOD detection with pretrained vision-language models", ICLR 2024, section 3.2
(NegMining): the distance of a word from the ID classes is the 5 % percentile of its negative cosines with them, and the
words farthest away are kept. Leaves out: the paper's adjectives and its templates of their own; the zero-shot template
serves words and classes alike.
"""

from pathlib import Path

import torch
from torch import Tensor

from negprompt_cli.data.sets.class_list import novel_names, read_class_list
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.templates import encode_zero_shot
from negprompt_cli.steps.shared.workbench import Workbench

PERCENTILE = 0.05
"""Eta of the paper: low, so that one class name near a word is enough to call the word near."""


def negative_words(file: Path | None) -> list[str]:
    """The words of a list (one per line, # comments), or without one the nouns of nltk's WordNet.

    Raises:
        UsageError: the file is missing, not text or empty; nltk or its WordNet is not installed.
    """
    if file is None:
        return _wordnet_nouns()
    return [c.name for c in novel_names(read_class_list(file)).classes]


def mine(words: Tensor, classes: Tensor, count: int) -> Tensor:
    """Choose the words farthest from all classes.

    Args:
        words: (W, F) L2-normalised features.
        classes: (K, F) L2-normalised features of the ID class names.
        count: how many to keep; all are kept where there are no more.

    Returns:
        (min(count, W),) indices, the farthest first.
    """
    parts = [torch.quantile(-(part @ classes.T), PERCENTILE, dim=1) for part in words.split(4096)]
    return torch.cat(parts).argsort(descending=True, stable=True)[:count]


def encode_negative_words(bench: Workbench, names: list[str], classes: Tensor) -> Tensor:
    """Features (W', F) of the negative words for ID classes `names` with zero-shot features `classes` (K, F).

    Raises:
        UsageError: no words (see `negative_words`), or none besides the class names themselves.
    """
    settings = bench.config.evaluate
    known = {fold(name) for name in names}
    words = negative_words(Path(settings.words) if settings.words else None)
    others = [word for word in words if fold(word) not in known]
    if not others:
        raise UsageError("All negative words are ID class names.", remedy="negative-words")
    features = encode_zero_shot(bench.clip, others, settings.template, budget=bench.budget)
    kept = mine(features, classes, settings.word_count)
    bench.progress.say(f"negative words: {len(kept)} of {len(words)}, farthest from the class names")
    return features[kept]


def _wordnet_nouns() -> list[str]:
    try:
        from nltk.corpus import wordnet

        nouns = {lemma.replace("_", " ") for synset in wordnet.all_synsets("n") for lemma in synset.lemma_names()}
    except ImportError:
        raise UsageError(
            "The score neglabel needs negative words. Without a list they are WordNet's nouns, which need nltk: "
            "`pip install nltk`, then `python -m nltk.downloader wordnet`.",
            remedy="negative-words",
        ) from None
    except LookupError:
        raise UsageError(
            "nltk is installed, but not its WordNet: run `python -m nltk.downloader wordnet`.", remedy="negative-words"
        ) from None
    return sorted(nouns)
