"""Whether an artifact can be reproduced: compares its records with the files and versions that are here now.

On one machine's CPU, with the same number of threads, versions and seed, a training gives the same artifact bit for bit. So
a verification checks that the file was not changed, that configuration, versions, processor, model, parents and images are
those that it records and, if asked to train again, that the bytes are the same. Each line is `ok`, `differs` or `unknown`,
with a reason; `unknown` means that something was not recorded or is missing here.

Only the digests of an artifact's parents are checked; each parent can be verified in the same way.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
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

    Raises:
        UsageError: there is no valid artifact at `path`, or something that `changes` names does not exist.
        NegPromptError: the model that `changes` names cannot be loaded.
    """
    case = _Case(path, load_prompts(path), parent, changes, progress)
    case.require_changes()
    checks = list(case.records())
    trained = case.prompts.kind != "transferred"
    if trained and retrain:
        checks += case.retrained()
    return Verification(path, case.prompts, tuple(checks), trained and retrain)


_Result = tuple[Status, str]
"""The result of a check, and the reason."""


def _check(what: str, find: Callable[[], _Result], remedy: str = "") -> Check:
    """One line; something that a check needs and that is missing here makes it unknown, with advice."""
    try:
        return Check(what, *find())
    except NegPromptError as error:
        return Check(what, "unknown", first_line(error), remedy)


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

    def records(self) -> Iterator[Check]:
        """Check everything that can be compared without a training."""
        yield _check("file", self._file)
        yield _check("configuration", self._configuration)
        yield _check("versions", self._versions)
        yield _check("model", self._model, remedy="moved-artifact-model")
        yield from map(self._parent, self.prompts.parents)
        if self.prompts.kind == "transferred":
            yield _check("contexts", self._transferred, remedy="moved-images" if self.added else "moved-artifact-model")
        elif self.summary is None:
            yield Check("training", "unknown", "it was not trained, but imported or made from words")
        else:
            summary = self.summary
            if self.prompts.kind == "negative" and self.source is not None:
                yield _check("positives", self._positives)
            yield _check("processor", partial(self._processor, summary))
            yield _check("images", partial(self._images, summary), remedy="moved-images")
        known = self.prompts.calibration
        if known is not None and not (self.added and self.source is None):
            yield _check("held-out images", partial(self._held_out, known), remedy="moved-images")

    def _file(self) -> _Result:
        """Whether the file has no other content than what is read from it."""
        prompts = self.prompts
        shape = f"{len(prompts.classes)} classes, {prompts.negatives_per_class} negatives each"
        if artifact_bytes(prompts) == self.path.read_bytes():
            return "ok", f"sha256 {prompts.sha256}; {shape}; writing it again gives the same bytes"
        how = f"sha256 {prompts.sha256}; {shape}; writing it again gives other bytes"
        if prompts.written_with == versions():
            return "differs", f"{how}: it was changed after it was written"
        return "unknown", f"{how}, as other versions may have written it"

    def _configuration(self) -> _Result:
        """Whether the configuration is still valid, and the same as in the file next to the artifact."""
        beside = self.path.with_name(f"{self.path.stem}.config.yaml")
        try:
            load_config(base=self.prompts.config.model_dump(mode="json"))
            if not beside.is_file():
                return "ok", f"valid; there is no {beside.name} to compare it with"
            if load_config(str(beside)) != self.prompts.config:
                return "differs", f"{beside} was changed: it differs from the artifact's"
        except UsageError as error:
            return "differs", str(error)
        return "ok", f"valid, and the same as in {beside.name}"

    def _versions(self) -> _Result:
        """Whether the versions are those of the training."""
        recorded, now = self.summary.versions if self.summary else dict(self.prompts.written_with), versions()
        if not recorded:
            return "unknown", "not recorded"
        other = [
            f"{name} {value}, here {now.get(name, 'none')}"
            for name, value in recorded.items()
            if now.get(name) != value
        ]
        return ("differs", "; ".join(other)) if other else ("ok", ", ".join(f"{k} {v}" for k, v in now.items()))

    def _model(self) -> _Result:
        """Whether the model's weights are the recorded ones."""
        clip = self.bench.clip
        try:
            check_model(self.prompts, clip.identity, clip.width, self.path)
        except UsageError as error:
            return "differs", str(error)
        return "ok", f"{clip.identity.name}: weights have sha256 {clip.identity.weights_sha256}"

    def _parent(self, parent: Parent) -> Check:
        """Whether an artifact that it was made from is here."""
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

    @cached_property
    def source(self) -> ArtifactFile | None:
        """The artifact it was made from, or None if that is missing."""
        path = self.find_parent(self.prompts.parents[0]) if self.prompts.parents else None
        return ArtifactFile(path) if path else None

    @property
    def added(self) -> tuple[Spec, ...]:
        """The images whose classes were added to the parent; none for a transfer to names, or a training."""
        before = self.source.prompts.config.data.added if self.source else ()
        return tuple(parse_spec(text) for text in self.prompts.config.data.added if text not in before)

    def _transferred(self) -> _Result:
        """Whether transferring or extending the parent again gives this artifact."""
        if self.source is None:
            return "unknown", "the parent is not here"
        if self.added:
            how, expected = "extending", self.prompts
            again, _ = extend_prompts(self.bench, self.source.prompts, self.added)
        else:
            how, expected = "transferring", replace(self.prompts, calibration=None)
            again = carry_over(self.bench, self.source.prompts, self.prompts.classes)
        same = artifact_bytes(replace(again, written_with=expected.written_with)) == artifact_bytes(expected)
        given = "the same" if same else "other"
        return "ok" if same else "differs", f"{how} the parent again gives {given} bytes"

    def _positives(self) -> _Result:
        """Whether the positive contexts are those of the parent."""
        assert self.source is not None
        if torch.equal(self.source.prompts.positive, self.prompts.positive):
            return "ok", "the positive contexts are the parent's"
        return "differs", "the positive contexts are not the parent's, though they were frozen"

    def _processor(self, summary: TrainingSummary) -> _Result:
        now = device_name(self.bench.compute.device)
        if not summary.device:
            return "unknown", "not recorded"
        return ("ok", now) if summary.device == now else ("differs", f"trained on {summary.device}, here {now}")

    def _images(self, summary: TrainingSummary) -> _Result:
        if not summary.files_sha256:
            return "unknown", "it was trained on given features, not on image files"
        stage2 = self.prompts.kind == "negative" and self.prompts.parents
        images = find_training_images(self.bench, self.prompts.classes if stage2 else None)
        return _compared(images, summary.images, summary.files_sha256)

    def _held_out(self, known: Calibration) -> _Result:
        """Whether the held-out images of the threshold are the recorded ones."""
        if not known.files_sha256:
            return "unknown", "it was calibrated on given features, not on image files"
        if known.data.endswith(LIMITED):
            return "unknown", f"it was calibrated on only some of {known.data.removesuffix(LIMITED)}"
        if self.added and self.source is not None:
            images = find_added_classes(self.bench, self.source.prompts, self.added).held_out
        else:
            spec = self.bench.config.data.spec if known.data == self.prompts.config.data.spec else known.data
            images = self.bench.image_set(parse_spec(spec), "eval")
        return _compared(images, known.images, known.files_sha256)

    def retrained(self) -> Iterator[Check]:
        """Train again and, if it is calibrated, calibrate again."""
        summary, known = self.summary, self.prompts.calibration
        if summary is None or not summary.files_sha256:
            yield Check("trained again", "unknown", "it has no training on images that could be repeated")
            return
        if self.prompts.kind == "negative" and self.prompts.parents and self.source is None:
            yield Check("trained again", "unknown", "the parent is not here")
            return
        try:
            if self.prompts.kind == "positive":
                again = learn_positive(self.bench, positive_data(self.bench)).prompts
            else:
                again = learn_negative(self.bench, *negative_data(self.bench, self.source)).prompts
        except NegPromptError as error:
            yield Check("trained again", "unknown", first_line(error))
            return
        yield _check("features", partial(_features, summary, again.training[-1]))
        yield _check("trained again", partial(self._contexts, summary, again))
        if known is not None and not known.data.endswith(LIMITED):
            yield _check("calibrated again", partial(self._threshold, known, again))

    def _contexts(self, summary: TrainingSummary, again: Prompts) -> _Result:
        recorded = replace(self.prompts, calibration=None)
        # Ignore the path, because the parent may have been moved.
        model = recorded.model if again.model.weights_sha256 == recorded.model.weights_sha256 else again.model
        again = replace(again, config=recorded.config, model=model, written_with=recorded.written_with)
        data = artifact_bytes(again)
        if data == artifact_bytes(recorded):
            return "ok", f"the same {len(data)} bytes"
        pairs = [(getattr(recorded, name), getattr(again, name)) for name in ("positive", "negative")]
        difference = max(_difference(a, b) for a, b in pairs)
        if difference == 0:
            return "differs", "the contexts are the same bit for bit, but the record of the training differs"
        largest = f"the largest difference of a number in the contexts is {difference:.3g}"
        on_cpu = summary.device.startswith("cpu") and self.bench.compute.device.type == "cpu"
        return ("differs", largest) if on_cpu else ("unknown", f"{largest}; only a CPU gives the same bits")

    def _threshold(self, known: Calibration, again: Prompts) -> _Result:
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
            return "ok", f"the same threshold, {known.threshold!r}"
        return "differs", f"threshold {found.threshold!r}, recorded {known.threshold!r}"


def _compared(images: ImageSet, count: int, recorded: str) -> _Result:
    """Whether images have the recorded names and sizes."""
    found = files_digest(images.paths, images.root)
    if found == recorded:
        return "ok", f"{count} images with the recorded names and sizes (sha256 {recorded})"
    return "differs", (
        f"{len(images)} images are found now, and {count} were used; names or sizes differ (sha256 {found}, recorded "
        f"{recorded})"
    )


def _features(recorded: TrainingSummary, again: TrainingSummary) -> _Result:
    if not recorded.features_sha256:
        return "unknown", "not recorded"
    if recorded.features_sha256 == again.features_sha256:
        return "ok", f"the images' features have sha256 {again.features_sha256}"
    return "differs", (
        "the images' features differ: an image was changed, or they were encoded in other batches or on another processor "
        f"(sha256 {again.features_sha256}, recorded {recorded.features_sha256})"
    )


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
