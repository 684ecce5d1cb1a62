"""Captions for pre-training the small CLIP, like those a person might write for an image of the demonstration world.

Like captions of real images they are varied and incomplete. Some name everything; others leave out the colour, the shape or
the surface, or mention size, light, sharpness or background. The words around the name vary too. Because of this variety
the words of a prompt's context have a meaning.
"""

from collections.abc import Sequence

import numpy as np

from negprompt_cli.demo.drawing import View
from negprompt_cli.demo.world import Thing

# "a photo of a {}." is the template of CLIP and of zero-shot prompts, so it occurs twice.
FRAMES = (
    "a photo of a {}.",
    "a photo of a {}.",
    "{}",
    "{}.",
    "a {}",
    "the {}",
    "one {}.",
    "a picture of a {}",
    "an image of a {}",
    "a drawing of a {}.",
    "a rendering of the {}.",
    "a photo of the {}",
    "this is a {}.",
    "there is a {} here",
    "a cropped photo of a {}.",
    "a close-up photo of a {}",
    "itap of a {}.",
    "my {}",
)
SCENERY = ("background", "texture", "pattern", "surface", "wallpaper")
EMPTY = ("nothing", "an empty {}", "no objects, only a {}", "a photo of a {}.", "{}", "just a {}", "an image of a {}")


def write_caption(things: Sequence[Thing], view: View, *, generator: np.random.Generator) -> str:
    """Write one caption for a scene of 0, 1 or 2 things seen in `view`."""
    if not things:
        scenery = f"{_tone(view)} {view.background} {_pick(SCENERY, generator)}"
        return _pick(EMPTY, generator).format(scenery)
    phrases = [_phrase(thing, generator) for thing in things]
    words = " and a ".join(phrases)
    if len(things) == 2 and generator.random() < 0.3:
        words = f"{phrases[0]} left of a {phrases[1]}"
    adjectives = _adjectives(view)
    if adjectives and generator.random() < 0.35:
        words = f"{_pick(adjectives, generator)} {words}"
    if generator.random() < 0.25:
        words = f"{words} on a {_pick((view.background, _tone(view)), generator)} background"
    return _pick(FRAMES, generator).format(words)


def _phrase(thing: Thing, generator: np.random.Generator) -> str:
    chance = generator.random()
    if chance < 0.82:
        plain = "plain " if thing.texture is None and generator.random() < 0.1 else ""
        return plain + thing.name
    if chance < 0.88:
        return f"{thing.colour} {thing.shape}"
    if chance < 0.94:
        return f"{thing.texture} {thing.shape}" if thing.texture else thing.shape
    return f"{thing.texture} {thing.colour} thing" if thing.texture else f"{thing.colour} thing"


def _adjectives(view: View) -> list[str]:
    radius = view.poses[0].radius
    return [
        *(["small"] if radius < 0.25 else []),
        *(["large", "big"] if radius > 0.36 else []),
        *(["dark"] if view.light < 0.7 else []),
        *(["bright"] if view.light > 1.1 else []),
        *(["blurry"] if view.blurs else ["sharp"]),
        *(["noisy", "grainy"] if view.noise > 0.03 else ["clean"]),
    ]


def _tone(view: View) -> str:
    brightness = view.light * sum(view.background_rgb) / 3
    return "black" if brightness < 0.25 else "gray" if brightness < 0.65 else "white"


def _pick(choices: Sequence[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]
