"""Whether an artifact can be reproduced: compares its records with the files and versions that are here now.

On one machine's CPU, with the same number of threads, versions and seed, a training gives the same artifact bit for bit. So
a verification checks that the file was not changed, that configuration, versions, processor, model, parents and images are
those that it records and, if asked to train again, that the bytes are the same. Each line is `ok`, `differs` or `unknown`,
with a reason; `unknown` means that something was not recorded or is missing here.

Only the digests of an artifact's parents are checked; each parent can be verified in the same way.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from negprompt_cli import schemas
from negprompt_cli.config import load_config
from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.results.artifacts import (
    Calibration,
    Parent,
    Prompts,
    TrainingSummary,
    artifact_bytes,
    check_model,
    load_prompts,
)
from negprompt_cli.data.results.provenance import device_name, versions
from negprompt_cli.data.sets.imagesets import ImageSet, files_digest
from negprompt_cli.data.sets.spec import Spec, parse_spec
from negprompt_cli.errors import NegPromptError, UsageError, first_line
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.added_classes import find_added_classes
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.extension import extend_prompts
from negprompt_cli.steps.shared.learning import carry_over, learn_negative, learn_positive
from negprompt_cli.steps.shared.thresholds import CalibrateOptions, calibrate_prompts
from negprompt_cli.steps.shared.training_data import find_training_images, negative_data, positive_data
from negprompt_cli.steps.shared.workbench import Workbench

LIMITED = " (limited)"
"""The end of the data's name in a calibration that used only some of the images."""

Status = Literal["ok", "differs", "unknown"]


@dataclass(frozen=True)
class Check:
    """One line of a verification: what was checked, the result, and the reason.

    `remedy`: name of advice for a person at the command line, as in errors; empty for none.
    """

    what: str
    status: Status
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Verification:
    """The result of a verification. `retrained`: whether it trained again."""

    path: Path
    prompts: Prompts
    checks: tuple[Check, ...]
    retrained: bool

    @property
    def status(self) -> Status:
        """'differs' if any line differs, else 'unknown' if any is unknown, else 'ok'."""
        found = {check.status for check in self.checks}
        return "differs" if "differs" in found else "unknown" if "unknown" in found else "ok"

    @property
    def conclusion(self) -> str:
        """The verdict as a sentence."""
        named = ", ".join(check.what for check in self.checks if check.status == self.status)
        if self.status == "differs":
            return f"It cannot be reproduced bit for bit here, because something differs: {named}."
        if self.status == "unknown":
            return f"Nothing differs, but this could not be checked: {named}."
        if self.retrained:
            return "It was reproduced bit for bit."
        return "It can be reproduced from what it records."

    def document(self) -> dict[str, Any]:
        """The verification as JSON values."""
        return {
            "schema": schemas.VERIFICATION,
            "path": str(self.path),
            "sha256": self.prompts.sha256,
            "kind": self.prompts.kind,
            "status": self.status,
            "conclusion": self.conclusion,
            "retrained": self.retrained,
            "checks": [{"what": c.what, "status": c.status, "reason": c.reason} for c in self.checks],
            "versions": versions(),
        }


def run_verify(
    path: Path,
    *,
    parent: Path | None,
    retrain: bool,
    changes: Mapping[str, Any],
    progress: Progress,
) -> Verification:
    """Check an artifact against the files and versions that are here now.

    Args:
        path: a prompt artifact.
        parent: the artifact it was made from, if that is in another folder.
        retrain: train again, without the feature cache and without writing files, and compare.
        changes: dotted keys of the recorded configuration with their values here: the places of the data and the model, and
            the device.
        progress: receives messages.

    Raises:
        UsageError: there is no valid artifact at `path`, or something that `changes` names does not exist.
        NegPromptError: the model that `changes` names cannot be loaded.
    """
    case = _Case(path, load_prompts(path), parent, changes, progress)
    case.require_changes()
    checks = [case.file(), case.configuration(), case.made_with(), case.model()]
    checks += case.parents()
    if case.prompts.kind == "transferred":
        checks.append(case.transferred())
    else:
        checks += case.training()
    checks += case.calibration()
    retrains = retrain and case.prompts.kind != "transferred"
    if retrains:
        checks += case.retrained()
    return Verification(path, case.prompts, tuple(checks), retrains)


@dataclass(frozen=True)
class _Case:
    """An artifact and the configuration to check it with."""

    path: Path
    prompts: Prompts
    given_parent: Path | None
    changes: Mapping[str, Any]
    progress: Progress

    @cached_property
    def bench(self) -> Workbench:
        """A workbench for the recorded configuration with the changes."""
        # Cached features may have been encoded in batches of another size, which changes their last bits.
        recorded = self.prompts.config.model_dump(mode="json")
        return Workbench(load_config(base=recorded, flags={**self.changes, "compute.cache": False}), self.progress)

    def require_changes(self) -> None:
        """Raise an error if something that the changes name is missing. What only the artifact names may be missing."""
        if "compute.device" in self.changes:
            _ = self.bench.compute
        if "model.name" in self.changes:
            _ = self.bench.clip
        if "data.spec" in self.changes:
            self.bench.id_images("train")

    @property
    def summary(self) -> TrainingSummary | None:
        """The artifact's record of its own training."""
        return self.prompts.training[-1] if self.prompts.training else None

    def file(self) -> Check:
        """Whether the file has no other content than what is read from it."""
        prompts = self.prompts
        shape = f"{len(prompts.classes)} classes, {prompts.negatives_per_class} negatives each"
        if artifact_bytes(prompts) == self.path.read_bytes():
            return Check("file", "ok", f"sha256 {prompts.sha256}; {shape}; writing it again gives the same bytes")
        how = f"sha256 {prompts.sha256}; {shape}; writing it again gives other bytes"
        if prompts.written_with == versions():
            return Check("file", "differs", f"{how}: it was changed after it was written")
        return Check("file", "unknown", f"{how}, as other versions may have written it")

    def configuration(self) -> Check:
        """Whether the configuration is still valid, and the same as in the file next to the artifact."""
        beside = self.path.with_name(f"{self.path.stem}.config.yaml")
        try:
            load_config(base=self.prompts.config.model_dump(mode="json"))
            if not beside.is_file():
                return Check("configuration", "ok", f"valid; there is no {beside.name} to compare it with")
            if load_config(str(beside)) != self.prompts.config:
                return Check("configuration", "differs", f"{beside} was changed: it differs from the artifact's")
        except UsageError as error:
            return Check("configuration", "differs", str(error))
        return Check("configuration", "ok", f"valid, and the same as in {beside.name}")

    def made_with(self) -> Check:
        """Whether the versions are those of the training."""
        recorded = self.summary.versions if self.summary else dict(self.prompts.written_with)
        if not recorded:
            return Check("versions", "unknown", "not recorded")
        now = versions()
        other = [
            f"{name} {value}, here {now.get(name, 'none')}"
            for name, value in recorded.items()
            if now.get(name) != value
        ]
        if other:
            return Check("versions", "differs", "; ".join(other))
        return Check("versions", "ok", ", ".join(f"{name} {value}" for name, value in now.items()))

    def model(self) -> Check:
        """Whether the model's weights are the recorded ones."""
        try:
            clip = self.bench.clip
        except NegPromptError as error:
            return Check("model", "unknown", first_line(error), remedy="moved-artifact-model")
        try:
            check_model(self.prompts, clip.identity, clip.width, self.path)
        except UsageError as error:
            return Check("model", "differs", str(error))
        return Check("model", "ok", f"{clip.identity.name}: weights have sha256 {clip.identity.weights_sha256}")

    def parents(self) -> list[Check]:
        """Whether the artifacts that it was made from are here."""
        return [self._parent(parent) for parent in self.prompts.parents]

    def _parent(self, parent: Parent) -> Check:
        name = f"parent ({parent.kind})"
        found = self.find_parent(parent)
        if found is not None:
            return Check(name, "ok", f"{found} has sha256 {parent.sha256}")
        if self.given_parent is not None:
            return Check(name, "differs", f"{self.given_parent} does not have sha256 {parent.sha256}")
        return Check(name, "unknown", f"no file next to it has sha256 {parent.sha256}.", remedy="name-parent")

    def find_parent(self, parent: Parent) -> Path | None:
        """The file with a parent's digest: the given one, or one next to the artifact."""
        beside = sorted(p for p in self.path.parent.glob("*.safetensors") if p.name != self.path.name)
        candidates = [self.given_parent] if self.given_parent else beside
        return next((p for p in candidates if _sha256(p) == parent.sha256), None)

    def transferred(self) -> Check:
        """Whether transferring or extending the parent again gives this artifact."""
        if self.source is None:
            return Check("contexts", "unknown", "the parent is not here")
        if self.added:
            try:
                made, _ = extend_prompts(self.bench, self.source.prompts, self.added)
            except NegPromptError as error:
                return Check("contexts", "unknown", first_line(error), remedy="moved-images")
            if artifact_bytes(replace(made, written_with=self.prompts.written_with)) == artifact_bytes(self.prompts):
                return Check("contexts", "ok", "extending the parent again gives the same bytes")
            return Check("contexts", "differs", "extending the parent again gives other bytes")
        made = carry_over(self.bench.clip, self.source.prompts, self.prompts.classes, budget=self.bench.budget)
        again = replace(made, written_with=self.prompts.written_with)
        if artifact_bytes(again) == artifact_bytes(replace(self.prompts, calibration=None)):
            return Check("contexts", "ok", "transferring the parent again gives the same bytes")
        return Check("contexts", "differs", "transferring the parent again gives other bytes")

    @property
    def added(self) -> tuple[Spec, ...]:
        """The images whose classes were added to the parent; none for a transfer to names, or a training."""
        before = self.source.prompts.config.data.added if self.source else ()
        return tuple(parse_spec(text) for text in self.prompts.config.data.added if text not in before)

    @cached_property
    def source(self) -> ArtifactFile | None:
        """The artifact it was made from, or None if that is missing."""
        path = self.find_parent(self.prompts.parents[0]) if self.prompts.parents else None
        return ArtifactFile(path) if path else None

    def training(self) -> Iterator[Check]:
        """Check that positives, images and processor are those of the training."""
        if self.summary is None:
            yield Check("training", "unknown", "it was not trained, but imported or made from words")
            return
        if self.prompts.kind == "negative" and self.source is not None:
            same = torch.equal(self.source.prompts.positive, self.prompts.positive)
            how = "are the parent's" if same else "are not the parent's, though they were frozen"
            yield Check("positives", "ok" if same else "differs", f"the positive contexts {how}")
        yield self._processor(self.summary)
        yield self._images(self.summary)

    def _processor(self, summary: TrainingSummary) -> Check:
        try:
            now = device_name(self.bench.compute.device)
        except UsageError as error:
            return Check("processor", "unknown", str(error))
        if not summary.device:
            return Check("processor", "unknown", "not recorded")
        if summary.device == now:
            return Check("processor", "ok", now)
        return Check("processor", "differs", f"trained on {summary.device}, here {now}")

    def _images(self, summary: TrainingSummary) -> Check:
        if not summary.files_sha256:
            return Check("images", "unknown", "it was trained on given features, not on image files")
        return self._listed("images", summary.images, summary.files_sha256, self._training_images)

    def _training_images(self) -> ImageSet:
        stage2 = self.prompts.kind == "negative" and self.prompts.parents
        return find_training_images(self.bench, self.prompts.classes if stage2 else None)

    def _listed(self, what: str, count: int, recorded: str, find: Callable[[], ImageSet]) -> Check:
        try:
            images = find()
            found = files_digest(images.paths, images.root)
        except NegPromptError as error:
            return Check(what, "unknown", first_line(error), remedy="moved-images")
        if found == recorded:
            return Check(what, "ok", f"{count} images with the recorded names and sizes (sha256 {recorded})")
        return Check(
            what,
            "differs",
            f"{len(images)} images are found now, and {count} were used; names or sizes differ (sha256 {found}, recorded "
            f"{recorded})",
        )

    def calibration(self) -> Iterator[Check]:
        """Check that the held-out images of the threshold are the recorded ones."""
        known = self.prompts.calibration
        if known is None:
            return
        if not known.files_sha256:
            yield Check("held-out images", "unknown", "it was calibrated on given features, not on image files")
        elif known.data.endswith(LIMITED):
            yield Check(
                "held-out images", "unknown", f"it was calibrated on only some of {known.data.removesuffix(LIMITED)}"
            )
        elif self.added:
            if self.source is not None:
                source = self.source.prompts
                yield self._listed(
                    "held-out images",
                    known.images,
                    known.files_sha256,
                    lambda: find_added_classes(self.bench, source, self.added).held_out,
                )
        else:
            spec = self.bench.config.data.spec if known.data == self.prompts.config.data.spec else known.data
            yield self._listed(
                "held-out images",
                known.images,
                known.files_sha256,
                lambda: self.bench.image_set(parse_spec(spec), "eval"),
            )

    def retrained(self) -> Iterator[Check]:
        """Train again and, if it is calibrated, calibrate again."""
        summary = self.summary
        if summary is None or not summary.files_sha256:
            yield Check("trained again", "unknown", "it has no training on images that could be repeated")
            return
        if self.prompts.kind == "negative" and self.prompts.parents and self.source is None:
            yield Check("trained again", "unknown", "the parent is not here")
            return
        try:
            again = self._learned()
            yield self._features(summary, again.training[-1])
            yield self._contexts(summary, again)
            if self.prompts.calibration is not None and not self.prompts.calibration.data.endswith(LIMITED):
                yield self._threshold(self.prompts.calibration, again)
        except NegPromptError as error:
            yield Check("trained again", "unknown", first_line(error))

    def _learned(self) -> Prompts:
        """Train again with the recorded configuration."""
        bench = self.bench
        if self.prompts.kind == "positive":
            data = positive_data(bench)
            learned = learn_positive(bench.clip, data, bench.config, budget=bench.budget, progress=self.progress)
        else:
            data, frozen = negative_data(bench, self.source)
            learned = learn_negative(
                bench.clip, data, bench.config, frozen, budget=bench.budget, progress=self.progress
            )
        return learned.prompts

    def _features(self, recorded: TrainingSummary, again: TrainingSummary) -> Check:
        if not recorded.features_sha256:
            return Check("features", "unknown", "not recorded")
        if recorded.features_sha256 == again.features_sha256:
            return Check("features", "ok", f"the images' features have sha256 {again.features_sha256}")
        return Check(
            "features",
            "differs",
            "the images' features differ: an image was changed, or they were encoded in other batches or on another "
            f"processor (sha256 {again.features_sha256}, recorded {recorded.features_sha256})",
        )

    def _contexts(self, summary: TrainingSummary, again: Prompts) -> Check:
        recorded = replace(self.prompts, calibration=None)
        # Ignore the path, because the parent may have been moved.
        model = recorded.model if again.model.weights_sha256 == recorded.model.weights_sha256 else again.model
        again = replace(again, config=recorded.config, model=model, written_with=recorded.written_with)
        data = artifact_bytes(again)
        if data == artifact_bytes(recorded):
            return Check("trained again", "ok", f"the same {len(data)} bytes")
        pairs = [(getattr(recorded, name), getattr(again, name)) for name in ("positive", "negative")]
        difference = max(_difference(a, b) for a, b in pairs)
        if difference == 0:
            return Check(
                "trained again",
                "differs",
                "the contexts are the same bit for bit, but the record of the training differs",
            )
        largest = f"the largest difference of a number in the contexts is {difference:.3g}"
        on_cpu = summary.device.startswith("cpu") and self.bench.compute.device.type == "cpu"
        return Check(
            "trained again",
            "differs" if on_cpu else "unknown",
            largest if on_cpu else f"{largest}; only a CPU gives the same bits",
        )

    def _threshold(self, known: Calibration, again: Prompts) -> Check:
        bench = self.bench
        data, evaluate = bench.config.data, bench.config.evaluate
        same = known.data == self.prompts.config.data.spec
        config = bench.config.model_copy(
            update={
                "data": data if same else data.model_copy(update={"spec": known.data}),
                "evaluate": evaluate.model_copy(update=known.settings),
            }
        )
        options = CalibrateOptions(known.acceptance, known.confidence, known.score, bool(known.by_class))
        found = calibrate_prompts(bench.with_config(config), again, options)
        if found.threshold == known.threshold:
            return Check("calibrated again", "ok", f"the same threshold, {known.threshold!r}")
        return Check("calibrated again", "differs", f"threshold {found.threshold!r}, recorded {known.threshold!r}")


def _difference(a: Tensor | None, b: Tensor | None) -> float:
    """The largest difference of two tensors; infinite if they cannot be compared."""
    if a is None or b is None or a.shape != b.shape:
        return 0.0 if a is b else float("inf")
    return float((a.double() - b.double()).abs().max())


def _sha256(path: Path) -> str:
    """Digest of a file; empty if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return ""
