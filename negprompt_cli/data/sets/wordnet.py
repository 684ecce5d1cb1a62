"""WordNet's words, read with nltk from the data that nltk downloads. This package contains no WordNet data.

Proper names (Tokyo, Beethoven) are synsets that WordNet calls instances of others. A subclass of a class is any synset below
it. A class with a wnid is that synset. Any other class is every noun synset of its name, so all meanings of the name count.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.errors import UsageError

Made = TypeVar("Made")

NOUN = "n"
ADJECTIVE = "a"


def require() -> None:
    """Check that WordNet is installed, by reading its first entries.

    Raises:
        UsageError: nltk or its WordNet is not installed.
    """
    _with_wordnet(lambda wordnet: next(iter(wordnet.all_synsets(NOUN)), None))


def nouns() -> list[str]:
    """Return all nouns, sorted.

    Raises:
        UsageError: nltk or its WordNet is not installed.
    """
    return _lemmas(NOUN)


def adjectives() -> list[str]:
    """Return all adjectives, sorted; errors are those of `nouns`."""
    return _lemmas(ADJECTIVE)


def things_and_subclasses(words: Sequence[str], classes: Iterable[ClassLabel]) -> tuple[set[str], set[str]]:
    """Return the words that are only proper names, and the words that name an ID class or a subclass of one.

    Args:
        words: any words; those that are not in WordNet are in neither set.
        classes: the ID classes.

    Raises:
        UsageError: as `nouns`.
    """
    return _with_wordnet(lambda wordnet: _sort_out(words, classes, wordnet))


def _sort_out(words: Sequence[str], classes: Iterable[ClassLabel], wordnet: Any) -> tuple[set[str], set[str]]:
    below = [synset for label in classes for synset in _synsets(label, wordnet)]
    seen = set(below)
    while below:
        synset = below.pop()
        new = [s for s in (*synset.hyponyms(), *synset.instance_hyponyms()) if s not in seen]
        seen.update(new)
        below += new
    subclasses = {_words(lemma) for synset in seen for lemma in synset.lemma_names()}
    things: set[str] = set()
    kinds: set[str] = set()
    for synset in wordnet.all_synsets(NOUN):
        (things if synset.instance_hypernyms() else kinds).update(map(_words, synset.lemma_names()))
    single = things - kinds
    folded = {fold(word) for word in subclasses}
    return {word for word in words if word in single}, {word for word in words if fold(word) in folded}


def _synsets(label: ClassLabel, wordnet: Any) -> list[Any]:
    if label.wnid is not None:
        with warnings.catch_warnings():
            # Other versions of WordNet have other offsets; nltk then warns and returns None.
            warnings.simplefilter("ignore")
            found = wordnet.synset_from_pos_and_offset(NOUN, int(label.wnid[1:]))
        if found is not None:
            return [found]
    return list(wordnet.synsets(label.name.replace(" ", "_"), NOUN))


def _lemmas(kind: str) -> list[str]:
    found = _with_wordnet(lambda w: {_words(lemma) for s in w.all_synsets(kind) for lemma in s.lemma_names()})
    return sorted(found)


def _words(lemma: str) -> str:
    return lemma.replace("_", " ")


def _with_wordnet(use: Callable[[Any], Made]) -> Made:
    """Return `use(WordNet)`.

    Raises:
        UsageError: nltk or its WordNet is not installed.
    """
    try:
        from nltk.corpus import wordnet

        return use(wordnet)
    except ImportError:
        raise UsageError(
            "WordNet needs nltk: `pip install nltk`, then `python -m nltk.downloader wordnet`.", remedy="negative-words"
        ) from None
    except LookupError:
        raise UsageError(
            "nltk is installed, but its WordNet is not. Run `python -m nltk.downloader wordnet`.",
            remedy="negative-words",
        ) from None
