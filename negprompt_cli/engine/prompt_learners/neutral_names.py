"""Meaningless names, for properties that must hold for any class name.

A context learned on few classes may behave differently with other names. Stage 2 therefore also looks at neutral names.
Real words could be names of a user's classes, so each neutral name is two syllables; their order is random but fixed.
"""

import torch

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def neutral_names(count: int) -> tuple[str, ...]:
    """Return the first `count` of 4,900 different names, such as "bako".

    Raises:
        ValueError: `count` is negative or above 4,900.
    """
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    if not 0 <= count <= len(syllables) ** 2:
        raise ValueError(f"count must be from 0 to {len(syllables) ** 2}, got {count}")
    places = torch.randperm(len(syllables) ** 2, generator=torch.Generator().manual_seed(0))[:count].tolist()
    return tuple(syllables[p // len(syllables)] + syllables[p % len(syllables)] for p in places)
