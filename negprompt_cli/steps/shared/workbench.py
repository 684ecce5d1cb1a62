"""What every step needs and should load only once: devices, the model, image sets and their features."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from negprompt_cli.config import Config, parse_bytes
from negprompt_cli.data.encoding.decoders import pixel_rules
from negprompt_cli.data.encoding.features import EncodedSet, EncodeOptions, encode_images
from negprompt_cli.data.encoding.known_model import open_clip_model
from negprompt_cli.data.encoding.models import load_clip, weights_decisions
from negprompt_cli.data.encoding.onnx_clip import run_by_onnx
from negprompt_cli.data.encoding.pixels import rules_decisions
from negprompt_cli.data.encoding.shared_model import agree_on_compute, load_shared
from negprompt_cli.data.encoding.text_features import text_features
from negprompt_cli.data.results.corrections import Corrections, find_corrections
from negprompt_cli.data.sets.imagesets import ImageSet, load_image_set
from negprompt_cli.data.sets.layouts import ROLES, Role
from negprompt_cli.data.sets.spec import Spec, parse_spec, user_path
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import Compute, choose_compute
from negprompt_cli.engine.parallel.rank_calls import current_team
from negprompt_cli.engine.parallel.ranks import ranks_from_environment
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.templates import encode_zero_shot

MAX_AUTO_BYTES = 3 << 30
"""Largest memory of 'auto' for text activations on a CPU: enough for 1000 classes x 2 on a ViT-B/16 without recomputing."""


class _Machine:
    """Devices, memory and model of a configuration, each found when it is first used."""

    def __init__(self, config: Config, progress: Progress, clip: Clip | None) -> None:
        self.named, self.asked, self._progress = config.model, config.compute, progress
        if clip is not None:
            self.clip, self.compute = clip, clip.compute

    @cached_property
    def compute(self) -> Compute:
        asked, team = self.asked, current_team()
        processes = team.ranks.local_size if team else 1
        if asked.gpus is not None and asked.gpus not in (1, processes):
            raise UsageError(
                f"{asked.gpus} processes were requested, but this job already has {processes} on this machine.",
                remedy="one-launcher",
            )
        if team:
            compute, _ = agree_on_compute(team, asked.device, asked.precision)
        else:
            compute = choose_compute(asked.device, precision=asked.precision)
        self._progress.say(f"Device: {compute.reason}")
        return compute

    @cached_property
    def clip(self) -> Clip:
        compute, named = self.compute, self.named
        team = current_team()
        if team and self.asked.runtime == "onnx":
            raise UsageError(
                "onnxruntime encodes images in one process, which uses all its cores.", remedy="one-process"
            )
        clip = self._open(compute)
        path, reason = clip.text_path
        slow = "" if path == "prefix" else f"; text encoding cannot share prefixes, because {reason}"
        self._progress.say(f"Model: {clip.identity}{slow}")
        for decision in weights_decisions(named):
            self._progress.decide(decision)
        if self.asked.runtime == "onnx":
            by_onnx = run_by_onnx(clip, keep=self.asked.cache)
            self._progress.say(f"Image encoder: onnxruntime, within {by_onnx.difference:.1g} of torch")
            return by_onnx
        return clip

    def _open(self, compute: Compute) -> Clip:
        if team := current_team():
            return load_shared(team, self.named, compute)
        # onnxruntime needs the model itself.
        lazily = self.asked.cache and self.asked.runtime == "torch"
        return open_clip_model(self.named, compute) if lazily else load_clip(self.named, compute)

    @cached_property
    def budget(self) -> int:
        if self.asked.memory != "auto":
            return parse_bytes(self.asked.memory)
        device = self.compute.device
        if device.type == "cuda":
            return torch.cuda.mem_get_info(device)[0] // 2
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks_from_environment().local_size
        return min(MAX_AUTO_BYTES, available // 4)


class Workbench:
    """Devices, model and data of one configuration, each loaded when it is first used.

    Args:
        progress: receives messages about what is loaded and found.
        clip: the configured model if it is already loaded; it is used unchanged, on its own device.
        remember: keep the features of whole image sets in memory, for several artifacts on the same images.

    Attributes:
        decisions: the decisions so far, for the result's document.
    """

    def __init__(self, config: Config, progress: Progress, *, clip: Clip | None = None, remember: bool = False) -> None:
        self.config, self.progress = config, progress
        self.decisions: list[Decision] = []
        self._machine = _Machine(config, progress, clip)
        self._remember = remember
        self._sets: dict[tuple[Spec, Role], ImageSet] = {}
        self._encoded: dict[int, tuple[ImageSet, EncodedSet]] = {}
        self._texts: dict[tuple[str, ...], Tensor] = {}

    def with_config(self, config: Config) -> "Workbench":
        """A workbench for another configuration; it shares the device and the model if both configurations name the same.

        Image sets are resolved again, because seed, limit and places of data belong to the configuration.
        """
        other = Workbench(config, self.progress, remember=self._remember)
        if (config.model, config.compute) == (self.config.model, self.config.compute):
            other._machine = self._machine
        return other

    @property
    def compute(self) -> Compute:
        """The devices and the precision; reported once.

        Raises:
            UsageError: they do not exist here, or more processes were requested than this job has.
        """
        return self._machine.compute

    @property
    def clip(self) -> Clip:
        """The frozen model, loaded once.

        Raises:
            UsageError: the model, the tag or the folder is unknown.
            NegPromptError: the weights cannot be downloaded or read.
        """
        for decision in rules_decisions(pixel_rules(self._machine.clip)):
            self.decide(decision)
        return self._machine.clip

    @property
    def budget(self) -> int:
        """Bytes for text activations: `compute.memory`, or a value for the hardware."""
        return self._machine.budget

    def decide(self, decision: Decision) -> None:
        """Keep a decision for the document, and report it."""
        if decision not in self.decisions:
            self.decisions.append(decision)
            self.progress.decide(decision)

    @cached_property
    def spec(self) -> Spec:
        """The parsed SPEC of the configuration's ID data.

        Raises:
            UsageError: it is not a SPEC.
        """
        return parse_spec(self.config.data.spec)

    @cached_property
    def corrections(self) -> Corrections | None:
        """A person's changes in the configured folder of sorted images, or None; raises as `find_corrections`."""
        named = self.config.data.corrections
        return None if named is None else find_corrections(user_path(named))

    def id_images(self, role: Literal["train", "eval"]) -> ImageSet:
        """The configured ID images; raises as `image_set`."""
        return self.image_set(self.spec, role)

    def image_set(self, spec: Spec, role: Role) -> ImageSet:
        """Find the images of a SPEC, once, and report them; raises as `load_image_set`."""
        if (spec, role) in self._sets:
            return self._sets[spec, role]
        data = self.config.data
        images = load_image_set(
            spec,
            role=role,
            data_root=Path(data.root),
            seed=self.config.seed,
            limit=data.limit,
            # A file of class names is for the ID classes only.
            class_names=Path(data.class_names) if data.class_names and role != "ood" else None,
            catalogue=Path(data.catalogue) if data.catalogue else None,
        )
        count = f"{len(images)} images" + (f" of {len(images.classes)} classes" if images.classes else "")
        self.progress.say(f"{ROLES[role][0].upper()}{ROLES[role][1:]}: {images.name}, {count} ({images.layout})")
        for decision in images.decisions:
            self.decide(decision)
        self._sets[spec, role] = images
        return images

    def encode(self, images: ImageSet) -> EncodedSet:
        """Features of an image set, from the cache if it has them; raises as `encode_images`."""
        if not self._remember:
            return self._encode(images)
        # A list of paths is encoded once, even with other labels. The set is kept with its features, so that the id of its
        # list stays its own.
        key = id(images.paths)
        if key not in self._encoded:
            self._encoded[key] = images, self._encode(images)
        _, encoded = self._encoded[key]
        if encoded.skipped:
            broken = set(encoded.skipped)
            images = images.take(np.flatnonzero([str(path) not in broken for path in images.paths]))
        return replace(encoded, images=images, labels=torch.from_numpy(images.labels.copy()))

    def encode_texts(self, names: Sequence[str], template: str) -> Tensor:
        """Features (W, F) of words in a template or an ensemble, for scores that use very many words.

        Raises:
            UsageError: as `encode_zero_shot`.
        """
        key = (template, *names)
        found = self._texts.get(key)
        if found is None:
            parts = [text.encode() for text in ("words", *key)]
            found = self.text_features(
                parts, len(names), lambda: encode_zero_shot(self.clip, list(names), template, budget=self.budget)
            )
            if self._remember:
                self._texts[key] = found
        return found

    def text_features(self, parts: Iterable[bytes], count: int, make: Callable[[], Tensor]) -> Tensor:
        """Features (count, F) of texts, from the cache if it has them; see `data.encoding.text_features`."""
        if self.config.compute.cache:
            return text_features(self.clip, parts, count, make, self.progress)
        with torch.no_grad():
            return make()

    def _encode(self, images: ImageSet) -> EncodedSet:
        asked, data = self.config.compute, self.config.data
        options = EncodeOptions(
            batch_size=asked.image_batch,
            workers=asked.workers,
            on_error=data.on_error,
            cache=asked.cache,
            decoder=data.decoder,
        )
        encoded = encode_images(self.clip, images, options, self.progress)
        if encoded.skipped:
            message = (
                f"{len(encoded.skipped)} broken images of {images.name} were skipped. {' '.join(encoded.reasons[:3])}"
            )
            self.decide(Decision("images-skipped", message, {"set": images.name, "files": list(encoded.skipped)}, True))
        return encoded
