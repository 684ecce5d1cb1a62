"""The demonstration world: its words, and its ID, near OOD and novel class names.

The data file `world.yaml` has the facts; it is validated when it is loaded. Names are compositions: "striped blue circle" is
a texture, a colour and a shape, so names that are not used as classes have a meaning too. `drawing.py` draws images.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from negprompt_cli.errors import NegPromptError, UsageError, did_you_mean

Channel = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing of the world; a `texture` of None means a plain surface."""

    texture: str | None
    colour: str
    shape: str

    @property
    def name(self) -> str:
        """The class name: texture (unless plain), colour and shape, separated by spaces."""
        return " ".join(word for word in (self.texture, self.colour, self.shape) if word)


class ImageCounts(BaseModel):
    """The number of images per class (train, val, near, novel) and per set (the two far OOD sets)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: PositiveInt
    val: PositiveInt
    near: PositiveInt
    novel: PositiveInt
    far_digits: PositiveInt
    far_photos: PositiveInt


class World(BaseModel):
    """The validated content of `world.yaml`; ID, near OOD and novel class names are disjoint compositions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: PositiveInt
    colours: dict[str, tuple[Channel, Channel, Channel]]
    shapes: tuple[str, ...]
    textures: tuple[str, ...]
    backgrounds: tuple[str, ...]
    id: tuple[str, ...]
    near: tuple[str, ...]
    novel: tuple[str, ...]
    images: ImageCounts

    @model_validator(mode="after")
    def _names_compose_and_are_disjoint(self) -> Self:
        names = [*self.id, *self.near, *self.novel]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"class names that occur more than once: {', '.join(repeated)}")
        for name in names:
            try:
                self.thing(name)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return self

    def thing(self, name: str) -> Thing:
        """Return the thing that a class name means.

        Raises:
            UsageError: the name is not "[texture] colour shape" in this world's words.
        """
        *front, shape = name.split() or [""]
        texture = front.pop(0) if len(front) == 2 else None
        if len(front) != 1:
            raise UsageError(f"'{name}' is not '[texture] colour shape', for example 'striped blue circle'.")
        for word, known in ((texture, self.textures), (front[0], self.colours), (shape, self.shapes)):
            if word is not None and word not in known:
                raise UsageError(f"'{name}': the demonstration world has no '{word}'.{did_you_mean(word, known)}")
        return Thing(texture=texture, colour=front[0], shape=shape)

    def all_things(self) -> list[Thing]:
        """Return every composition of the world, in the order of the data file."""
        return [
            Thing(texture=texture, colour=colour, shape=shape)
            for texture in chain([None], self.textures)
            for colour in self.colours
            for shape in self.shapes
        ]


@cache
def load_world() -> World:
    """Load and validate the world's facts.

    Raises:
        NegPromptError: the packaged data file is damaged.
    """
    text = files("negprompt_cli.demo").joinpath("world.yaml").read_text(encoding="utf-8")
    try:
        return World.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise NegPromptError(f"The package's world.yaml is damaged ({error}). Reinstall negprompt.") from error
