"""Judges image files with an exported detector, in threads and in order, without torch.

Each thread decodes a few images and judges them with one call of onnxruntime on one core, so decoding and computing overlap.
The first images are judged one by one, so that the first rows come soon.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from negprompt_cli.config import Config, ModelConfig, PixelsConfig
from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.data.encoding.pixels import rules_decisions
from negprompt_cli.data.results.exported import ExportedDetector, ExportMetadata
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.parallel.ranks import ranks_from_environment, usable_cores
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.verdicts import Verdicts, one_class_decisions

IMAGES_PER_CALL = 4
"""Enough images to make the cost of a call small, and few enough for rows to come soon and threads to end together."""


@dataclass(frozen=True, eq=False)
class ExportedJudge:
    """Judges image files with a detector. `rules`: how files become RGB. `threads`, `images_per_call`: at least 1."""

    detector: ExportedDetector
    verdicts: Verdicts
    rules: PixelsConfig
    threads: int
    images_per_call: int

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Decisions to report to the user."""
        return (*rules_decisions(self.rules), *one_class_decisions(self.verdicts.classes))

    def stream(self, paths: Iterable[Path]) -> Generator[list[Row], None, None]:
        """Rows of images, a few at a time, in order, while `paths` is still being listed."""
        source = iter(paths)
        waiting: deque[Future[list[Row]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for number in itertools.count():
                    share = list(itertools.islice(source, 1 if number < self.threads else self.images_per_call))
                    if not share:
                        break
                    waiting.append(pool.submit(self._rows, share))
                    if len(waiting) > 2 * self.threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # A caller that stops early does not wait for the images that are left.
                pool.shutdown(wait=True, cancel_futures=True)

    def _rows(self, paths: Sequence[Path]) -> list[Row]:
        preprocessing = self.detector.metadata.preprocessing
        pixels = np.empty((len(paths), 3, *preprocessing.size), dtype=np.float32)
        errors: list[str | None] = []
        readable = 0
        for path in paths:
            try:
                preprocessing(open_rgb(path, self.rules), pixels[readable])
                readable += 1
                errors.append(None)
            except BrokenImage as error:
                errors.append(str(error))
        judged = self.detector.judge(pixels[:readable]) if readable else None
        return self.verdicts.rows(paths, errors, judged)


def exported_model(metadata: ExportMetadata) -> ModelConfig:
    """The model of a file, and how its images are read, as a section of the configuration."""
    return ModelConfig(
        name=metadata.model.name, pretrained=metadata.model.pretrained, pixels=metadata.preprocessing.pixels
    )


def make_exported_judge(
    detector: ExportedDetector, config: Config, *, score: str | None = None, threshold: float | None = None
) -> ExportedJudge:
    """Make a judge of an exported detector with the settings of a configuration.

    Args:
        detector: the open file.
        config: how images are read, threads (`compute.workers`) and images per call (`compute.image_batch`).
        score: name of a score; only the file's own is possible.
        threshold: another threshold; None for the file's.

    Raises:
        UsageError: the file does not support a setting: another score, model, device, precision or decoder, or several
            processes.
    """
    metadata, compute = detector.metadata, config.compute
    _check(detector, config, score)
    by_key = {label.key: i for i, label in enumerate(metadata.classes)}
    scores = metadata.calibration_scores
    verdicts = Verdicts(
        metadata.classes,
        metadata.score,
        metadata.threshold,
        {by_key[key]: value for key, value in metadata.by_class.items() if key in by_key},
        None if scores is None else np.array(scores),
        metadata.calibrated_for,
        metadata.prompts_sha256,
        metadata.model.weights_sha256,
        exported=True,
    )
    return ExportedJudge(
        detector,
        verdicts.with_threshold(threshold),
        config.model.pixels,
        usable_cores() if compute.workers < 0 else max(1, compute.workers),
        compute.image_batch or IMAGES_PER_CALL,
    )


def _check(detector: ExportedDetector, config: Config, score: str | None) -> None:
    path, metadata, compute = detector.path, detector.metadata, config.compute
    named, own = (config.model.name, config.model.pretrained), (metadata.model.name, metadata.model.pretrained)
    if named != own:
        raise UsageError(
            f"{path} contains the model {metadata.model} and cannot use another one.", remedy="exported-model"
        )
    if score not in (None, metadata.score):
        raise UsageError(f"{path} can only compute the score {metadata.score}.", remedy="exported-score")
    if compute.device not in ("auto", "cpu"):
        raise UsageError(
            f"{path} runs on the CPU only (onnxruntime), not on {compute.device}.", remedy="exported-device"
        )
    if compute.precision not in ("auto", "fp32"):
        raise UsageError(f"{path} computes in fp32 only, not in {compute.precision}.", remedy="exported-precision")
    if config.data.decoder != "pil":
        raise UsageError(f"{path} works with images that PIL decodes, not {config.data.decoder}.", remedy="decoder-pil")
    if (compute.gpus or 1) > 1 or ranks_from_environment().several:
        raise UsageError(f"{path} runs in one process, which uses all cores.", remedy="one-process")
