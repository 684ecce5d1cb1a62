"""Workbenches that share what is expensive: seeds, experiments and reports load the model once."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from negprompt_cli.config import Config
from negprompt_cli.data.encoding.features import EncodedSet
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.steps.shared.workbench import Workbench

Bench = TypeVar("Bench", bound=Workbench)


def with_config(bench: Bench, config: Config) -> Bench:
    """A workbench for another configuration of the same model and hardware, sharing the loaded model.

    Image sets are resolved anew, because seed, limit and places of data belong to the configuration.

    Raises:
        ValueError: the configurations differ in hardware settings.
    """
    if config.compute != bench.config.compute:
        raise ValueError("a shared workbench needs the same hardware settings")
    other = type(bench)(config, bench.progress)
    loaded = vars(bench)
    # What `cached_property` has made already is in the instance's dictionary, by design; a transferred artifact's
    # recorded model may be called differently and is checked by its weights.
    for name in ("compute", "clip", "budget"):
        if name in loaded:
            vars(other)[name] = loaded[name]
    return other


@dataclass
class RememberingWorkbench(Workbench):
    """A workbench that keeps the features of whole image sets in memory, for several artifacts on the same images."""

    _encoded: dict[int, tuple[ImageSet, EncodedSet]] = field(default_factory=dict, repr=False)

    def encode(self, images: ImageSet) -> EncodedSet:
        """As `Workbench.encode`; the same list of paths is encoded once, whatever its labels are now."""
        key = id(images.paths)
        if key not in self._encoded:
            # The set is kept with its features, so that no other list can take over its identity.
            self._encoded[key] = images, super().encode(images)
        _, encoded = self._encoded[key]
        if encoded.skipped:
            return super().encode(images)
        return replace(encoded, images=images, labels=torch.from_numpy(images.labels.copy()))
