"""Names made of syllables, for what has to hold for any class name.

A context that is learned on few classes need not do for other names what it does for these. Words chosen from a language
would be names of somebody's classes; these are two random syllables each, the same for everybody.
"""

import torch

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def neutral_names(count: int) -> tuple[str, ...]:
    """The first `count` of 4,900 different names, such as "bako".

    Raises:
        ValueError: there are fewer.
    """
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    if not 0 <= count <= len(syllables) ** 2:
        raise ValueError(f"count must be from 0 to {len(syllables) ** 2}, got {count}")
    places = torch.randperm(len(syllables) ** 2, generator=torch.Generator().manual_seed(0))[:count].tolist()
    return tuple(syllables[p // len(syllables)] + syllables[p % len(syllables)] for p in places)
