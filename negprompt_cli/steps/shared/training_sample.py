"""The ID training images of an artifact, drawn again: what the visual baselines compare with.

Nothing of the images is kept in an artifact but the digest of their list, so the sample is drawn anew from the recorded
data, classes, shots and seed, and its digest compared. Paths of data are taken from the configuration at hand.
"""

from collections.abc import Sequence

from torch import Tensor

from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.imagesets import ImageSet, files_digest
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.training_data import find_training_images
from negprompt_cli.steps.shared.workbench import Workbench


def training_images(bench: Workbench, prompts: Prompts, scores: Sequence[str]) -> tuple[Workbench, ImageSet]:
    """The artifact's training images, not encoded yet, and the workbench that found them.

    Args:
        bench: model and configuration.
        prompts: the artifact.
        scores: names of the scores that need them, for messages.

    Raises:
        UsageError: the data are not there.
    """
    recorded = prompts.config
    here = bench.config.data
    places = {name: getattr(here, name) for name in ("root", "catalogue", "class_names", "on_error")}
    data = recorded.data.model_copy(update=places)
    # The model at hand may be called otherwise than where the artifact was made; its weights have been compared.
    other = bench.with_config(
        recorded.model_copy(update={"data": data, "model": bench.config.model, "compute": bench.config.compute})
    )
    try:
        return other, find_training_images(other, None if prompts.kind == "transferred" else prompts.classes)
    except UsageError as error:
        raise UsageError(
            f"{', '.join(scores)}: these scores need the images that the artifact was trained with, which cannot be found: "
            f"{error}",
            remedy="training-images",
            names=",".join(scores),
        ) from error


def training_features(bench: Workbench, prompts: Prompts, scores: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Features (T, F) and labels (T,) of the artifact's training images, on the model's device.

    Warns where the images are not the ones the artifact was trained with. Arguments and errors are those of
    `training_images`.
    """
    recorded = prompts.config
    other, images = training_images(bench, prompts, scores)
    encoded = other.encode(images)
    digest = files_digest(encoded.images.paths, encoded.images.root)
    if prompts.training and prompts.training[-1].files_sha256 != digest:
        said = (
            f"the {len(encoded)} training images drawn again from {recorded.data.spec} are not the ones the artifact was "
            "trained with (their names or sizes have changed)"
        )
        bench.decide(
            Decision("training-data-changed", said, {"spec": recorded.data.spec, "images": len(encoded)}, True)
        )
    for decision in other.decisions:
        bench.decide(decision)
    labelled = encoded.labels >= 0
    device = bench.clip.device
    return encoded.features[labelled].to(device), encoded.labels[labelled].to(device)
