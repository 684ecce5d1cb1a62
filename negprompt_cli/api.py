"""The Python interface: what the commands do, in eleven names, which can be imported from the package itself.

    load_model      a frozen CLIP with its own preprocessing
    zero_shot       a detector from class names alone
    fit             a detector from a folder of images by class
    fit_embeddings  a detector from embeddings, without a model (`negprompt_cli.embeddings`)
    transfer        a detector for other class names, with the same contexts
    calibrate       a threshold from held-out ID images
    score_features  predictions and scores of image features
    score_images    one row of results for each image file
    save, load      write a detector as an artifact, or read one
    Detector        the class of detectors, in the style of pytorch-ood

A higher score means more ID, as everywhere in the package. There is one exception: `Detector.predict` and
`Detector.predict_features` return outlier scores, the ID score times -1, as pytorch-ood's helpers expect.

The examples below use the demo's model and images; `folder` is any empty folder.

>>> from negprompt_cli.demo.images import write_world
>>> from negprompt_cli.demo.model import unpack_model
>>> world = write_world(folder / "data", seed=0)
>>> import negprompt_cli as negprompt
>>> model = negprompt.load_model(f"local-dir:{unpack_model(folder / 'model')}", device="cpu")

With class names alone:

>>> detector = negprompt.zero_shot(model, ["red circle", "green square"])
>>> detector.class_names
['red circle', 'green square']
>>> detector.threshold is None
True

With a few images per class, a folder each:

>>> detector = negprompt.fit(world.shapes, model)
>>> row = next(negprompt.score_images(detector, world.far_digits))
>>> row.is_ood
True
>>> negprompt.save(detector, folder / "shapes.safetensors")
>>> again = negprompt.load(folder / "shapes.safetensors", model)
>>> again.threshold == detector.threshold
True
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from negprompt_cli.config import Config, ModelConfig, PixelsConfig, load_config
from negprompt_cli.data.encoding.decoders import pixel_rules
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.encoding.stream import stream_features
from negprompt_cli.data.results.artifacts import Prompts, check_model, load_prompts, save_prompts, sealed
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.data.sets.class_list import NovelNames, given_names, novel_names, read_class_list
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.pathlist import check_paths, list_paths
from negprompt_cli.embeddings import fit_embeddings as fit_embeddings
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.judgement import Judgements
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.fit import fit_prompts
from negprompt_cli.steps.shared.artifact_file import check_recorded_model
from negprompt_cli.steps.shared.learning import TrainingData, learn_negative, learn_positive
from negprompt_cli.steps.shared.scorer import Scorer, make_scorer
from negprompt_cli.steps.shared.starts import zero_shot_positive
from negprompt_cli.steps.shared.thresholds import CalibrateOptions, calibrate_scorer
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.transfer import check_transferable, transfer_prompts

Paths = str | Path | Iterable[str | Path]
"""An image, a folder, a glob, or several of them."""


class Detector:
    """An OOD detector: a model, prompts for its classes, an ID score and, if it was calibrated, a threshold.

    A detector can predict before it is fitted: it then uses "a photo of a <name>." for each class. `fit` and `fit_features`
    learn positive and negative contexts from ID images. `predict` and `predict_features` return outlier scores: the ID score
    times -1, so higher = more OOD. If pytorch-ood is already imported, each new detector is registered with it, and
    pytorch-ood's benchmarks accept it.

    Args:
        model: from `load_model`.
        prompts: class names, or an artifact's prompts.
        score: name of an ID score; None for the calibrated one, else negprompt, or mcm without negatives.
        settings: configuration keys and values, such as {"negative.count": 4}.

    Raises:
        UsageError: prompts of another model, an unknown key or score, or a name too long for the model.

    >>> detector = Detector(model, ["red circle", "green square"])
    >>> from PIL import Image
    >>> pixels = torch.stack([model.preprocess(Image.new("RGB", (80, 60), colour)) for colour in ("red", "green", "blue")])
    >>> detector.predict(pixels).shape
    torch.Size([3])
    >>> features = detector.encoder(pixels)
    >>> bool((detector.predict_features(features) == -torch.tensor(score_features(detector, features).scores)).all())
    True
    """

    requires_fit = False
    """Read by pytorch-ood: the detector works without `fit`, because class names are enough."""

    def __init__(
        self,
        model: Clip,
        prompts: Sequence[str] | Path | Prompts,
        *,
        score: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self._score = model, score
        base = prompts.config if isinstance(prompts, Prompts) else None
        self._bench = _bench(model, settings, base)
        self.prompts = (
            prompts if isinstance(prompts, Prompts) else zero_shot_positive(self._bench, _names(prompts).classes)
        )
        check_model(self.prompts, model.identity, model.plan.width, Path("these prompts"))
        _ = self.scorer
        _register(type(self))

    @cached_property
    def scorer(self) -> Scorer:
        """The encoded prompts with the score and the threshold; made when it is first used."""
        return make_scorer(self._bench, self.prompts, score=self._score)

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of the labels."""
        return self.prompts.names

    @property
    def threshold(self) -> float | None:
        """ID score below which an image is OOD; None before `calibrate`."""
        return self.scorer.threshold

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    def encoder(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images (B, 3, H, W) as L2-normalised features (B, F)."""
        return self.model.encode_images(pixels).clone()

    def fit(self, data_loader: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Learn from batches of preprocessed images (B, 3, H, W) and labels (B,); images with a label below 0 are ignored.

        Raises:
            UsageError: there is no ID image, or a label has no class name.
        """
        parts = [(self.encoder(x[y >= 0]), y[y >= 0]) for x, y in data_loader if bool((y >= 0).any())]
        if not parts:
            raise UsageError("There are no ID images (labels from 0) to fit on.")
        return self.fit_features(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))

    def fit_features(self, x: Tensor, y: Tensor) -> Self:
        """Learn from L2-normalised features (N, F) of ID images and their labels (N,); removes the threshold.

        Raises:
            UsageError: the shapes differ, or a label has no class name.
        """
        data = TrainingData.of(x, y, self.prompts.classes, self.model.device)
        positive = learn_positive(self._bench, data).prompts
        self.prompts = learn_negative(self._bench, data, positive).prompts
        self.__dict__.pop("scorer", None)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (B,) of preprocessed images (B, 3, H, W), higher = more OOD."""
        return self.predict_features(self.encoder(x))

    __call__ = predict

    def predict_features(self, x: Tensor) -> Tensor:
        """Outlier scores (B,) float64 of L2-normalised features (B, F), higher = more OOD."""
        return -torch.from_numpy(self.scorer.judge(x).scores)

    def push_to_hub(self, repo_id: str, *, evaluation: Path | None = None, private: bool = False) -> str:
        """Publish the artifact and a model card on the Hugging Face Hub, and return the address.

        Args:
            repo_id: "owner/name".
            evaluation: an evaluation.json, whose figures go into the card.
            private: whether a new repository is private.

        Raises:
            NegPromptError: the Hub refuses.
        """
        from negprompt_cli.data.results.hub import push_to_hub

        return push_to_hub(self.prompts, repo_id, evaluation=evaluation, private=private)

    @classmethod
    def from_pretrained(cls, source: str | Path, model: Clip | None = None, *, device: str = "auto") -> Self:
        """Load a published detector.

        Args:
            source: a repository of the Hugging Face Hub, or a folder that `data.results.hub.save_pretrained` wrote.
            model: the artifact's model, if it is already loaded; None loads the one that the artifact names.
            device: where to load it.

        Raises:
            UsageError: there is no artifact, or it belongs to another model.
            NegPromptError: the Hub cannot be reached.
        """
        from negprompt_cli.data.results.hub import find_artifact

        prompts = load_prompts(find_artifact(source))
        return cls(model or _model_of(prompts, device), prompts)


def load_model(
    name: str = "ViT-B-16",
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    pixels: PixelsConfig = PixelsConfig(),  # noqa: B008 - it is frozen
) -> Clip:
    """Load a CLIP with its own preprocessing and tokenizer, frozen.

    Args:
        name: open_clip model, local-dir:PATH or hf-hub:ID.
        pretrained: open_clip tag or weights file; None for the paper's weights of the default model.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of the image encoder: auto, fp32, bf16 or fp16.
        pixels: how image files that are not plain 8-bit RGB are converted (`negprompt_cli.config.PixelsConfig`).

    Raises:
        UsageError: there is no such model, tag, folder or device.
        NegPromptError: the weights cannot be downloaded.
    """
    default = ModelConfig()
    tag = default.pretrained if pretrained is None and name == default.name else pretrained
    config = ModelConfig(name=name, pretrained=tag, pixels=pixels)
    return load_clip(config, choose_compute(device, precision=precision))


def zero_shot(model: Clip, class_names: Sequence[str] | Path, *, score: str | None = None) -> Detector:
    """Make a detector from class names alone, or from a file of class names.

    Raises:
        UsageError: there are no names, or a name is too long for the model.
    """
    return Detector(model, class_names, score=score)


def fit(
    images: str | Path,
    model: Clip,
    *,
    acceptance: float = 0.95,
    score: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """Learn a detector from a folder of class folders, as `negprompt fit` does: both stages, then a threshold.

    Args:
        images: a folder, or any data SPEC of the command line.
        model: from `load_model`.
        acceptance: share of ID images that the threshold accepts, in (0, 1).
        score: ID score of the threshold; None for negprompt.
        settings: configuration keys and values, such as {"data.shots": 4}.

    Returns:
        The detector. It has no threshold if there are too few held-out images.

    Raises:
        UsageError: there are no such images, or a class has none.
        NegPromptError: an image is broken.
    """
    bench = _bench(model, {**(settings or {}), "data.spec": str(images)})
    prompts = fit_prompts(bench, CalibrateOptions(acceptance=acceptance, score=score))
    return Detector(model, prompts, score=score)


def transfer(detector: Detector, class_names: Sequence[str] | Path, *, extend: bool = False) -> Detector:
    """Make a detector for new class names with a detector's contexts. The result has no threshold.

    Args:
        detector: it must have negatives, and contexts that its classes share.
        class_names: the new names, or a file of them in any form that the command line reads.
        extend: keep the detector's own classes, before the new ones.

    Raises:
        UsageError: there are no names, a name is too long, or the detector's prompts cannot be transferred.
    """
    source = detector.prompts if detector.prompts.sha256 else sealed(detector.prompts)
    check_transferable(source, Path("the detector"))
    prompts, _ = transfer_prompts(detector._bench, source, _names(class_names), extend=extend)
    return Detector(detector.model, prompts)


def calibrate(
    detector: Detector, images: Paths | Tensor, *, acceptance: float = 0.95, confidence: float = 0.95
) -> Detector:
    """Choose a threshold on held-out ID images. The result's `prompts.calibration` has the interval of its acceptance.

    Args:
        detector: it is not changed.
        images: image files, folders or globs, or L2-normalised features (n, F). None may be a training image.
        acceptance: share of ID images to accept, in (0, 1).
        confidence: confidence of the interval, in (0, 1).

    Returns:
        The same detector with a threshold.

    Raises:
        UsageError: there are too few images; the message names how many are needed.
        BrokenImage: an image cannot be read.
    """
    from negprompt_cli.data.encoding.images import BrokenImage

    if not isinstance(images, Tensor):
        parts: list[Tensor] = []
        for batch in stream_features(detector.model, _listed(images)):
            if broken := next(filter(None, batch.errors), None):
                raise BrokenImage(broken)
            if batch.features is not None:
                parts.append(batch.features)
        images = torch.cat(parts)
    made = calibrate_scorer(
        detector.scorer,
        detector.scorer.judge(images),
        CalibrateOptions(acceptance=acceptance, confidence=confidence),
        data="images given in Python",
    )
    # If the prompts were read from a file, they now differ from its content.
    return Detector(detector.model, replace(detector.prompts, calibration=made, sha256=""), score=made.score)


def score_features(detector: Detector, features: Tensor) -> Judgements:
    """Return predictions, probabilities, ID scores and nearest negatives for L2-normalised features (B, F).

    Raises:
        ValueError: the features have another width, or are not normalised.
    """
    return detector.scorer.judge(features)


def score_images(detector: Detector, images: Paths) -> Iterator[Row]:
    """Yield one row of results for each image, in order. The row of a broken image has its error.

    Args:
        detector: the detector that scores the images.
        images: image files, folders (at any depth) or globs.

    Raises:
        UsageError: there are no such images.
    """
    for batch in stream_features(detector.model, _listed(images)):
        yield from detector.scorer.rows(batch)


def save(detector: Detector, path: str | Path) -> None:
    """Write a detector as a prompt artifact, which the commands read too.

    Raises:
        NegPromptError: the file cannot be written.
    """
    detector.prompts = save_prompts(detector.prompts, Path(path))


def load(path: str | Path, model: Clip | None = None, *, device: str = "auto", score: str | None = None) -> Detector:
    """Read a prompt artifact as a detector.

    Args:
        path: the file.
        model: the artifact's model, if it is already loaded; None loads the one that the artifact names.
        device: where to load it.
        score: ID score; None for the calibrated one.

    Raises:
        UsageError: the file is not a valid artifact, or belongs to another model.
    """
    prompts = load_prompts(Path(path))
    return Detector(model or _model_of(prompts, device), prompts, score=score)


def _bench(model: Clip, settings: Mapping[str, Any] | None, base: Config | None = None) -> Workbench:
    """A workbench for a model that is already loaded."""
    config = load_config(base=base.model_dump(mode="json") if base else None, flags=settings)
    named = model.identity
    identity = ModelConfig(name=named.name, pretrained=named.pretrained, pixels=pixel_rules(model))
    return Workbench(config.model_copy(update={"model": identity}), Silent(), clip=model)


def _names(class_names: Sequence[str] | Path) -> NovelNames:
    return novel_names(read_class_list(class_names) if isinstance(class_names, Path) else given_names(class_names))


def _model_of(prompts: Prompts, device: str) -> Clip:
    check_recorded_model(prompts.model.name)
    pixels = prompts.config.model.pixels
    return load_model(prompts.model.name, prompts.model.pretrained, device=device, pixels=pixels)


def _listed(images: Paths) -> Iterator[Path]:
    given = [images] if isinstance(images, str | Path) else list(images)
    arguments = [str(one) for one in given]
    check_paths(arguments)
    return list_paths(arguments, [], LeftOut())


def _register(kind: type[Detector]) -> None:
    """Register a detector class with pytorch-ood if that is already imported."""
    if (api := sys.modules.get("pytorch_ood.api")) is not None:
        api.FeaturesDetector.register(kind)
