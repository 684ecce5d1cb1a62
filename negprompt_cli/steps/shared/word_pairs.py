"""Features of texts such as "cat and barn owl", which are encoded when a score first asks for them.

Which pairs a score needs depends on the images, and all pairs would be too many: 1,000 classes and 10,000 words have ten
million.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from negprompt_cli.steps.shared.templates import encode_zero_shot
from negprompt_cli.steps.shared.workbench import Workbench

MOST_KEPT = 100_000
"""Texts whose features are kept for later images, 200 MB of 512 dimensions."""


class WordPairs:
    """Maps places (n, 2) of a class name and a word to the L2-normalised features (n, D) of "<name> and <word>".

    Args:
        names: the class names.
        words: the words.
        template: the zero-shot template or ensemble.
    """

    def __init__(self, bench: Workbench, names: Sequence[str], words: Sequence[str], template: str) -> None:
        self._bench, self._names, self._words, self._template = bench, names, words, template
        self._known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, places: Tensor) -> Tensor:
        """The features of pairs.

        Raises:
            UsageError: a text is too long for the text encoder.
        """
        pairs: list[tuple[int, int]] = list(map(tuple, places.tolist()))
        if len(self._known) > MOST_KEPT:
            self._known.clear()
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self._known]:
            texts = [f"{self._names[i]} and {self._words[w]}" for i, w in new]
            found = encode_zero_shot(self._bench.clip, texts, self._template, budget=self._bench.budget)
            self._known.update(zip(new, found, strict=True))
        return torch.stack([self._known[pair] for pair in pairs])
