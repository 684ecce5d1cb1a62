"""The ID training images of an artifact, sampled again for scores that compare with images.

An artifact has only the digest of the list of its training images. So the sample is drawn again from the recorded data,
classes, shots and seed, and its digest is compared. The paths of the data are those of the current configuration.
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
        prompts: the artifact.
        scores: names of the scores that need them, for messages.

    Raises:
        UsageError: the data are missing.
    """
    recorded = prompts.config
    here = bench.config.data
    places = {name: getattr(here, name) for name in ("root", "catalogue", "class_names", "on_error")}
    data = recorded.data.model_copy(update=places)
    # The model may have another name than in the artifact; its weights have already been compared.
    other = bench.with_config(
        recorded.model_copy(update={"data": data, "model": bench.config.model, "compute": bench.config.compute})
    )
    try:
        return other, find_training_images(other, None if prompts.kind == "transferred" else prompts.classes)
    except UsageError as error:
        raise UsageError(
            f"{', '.join(scores)}: these scores need the artifact's training images, which cannot be found: {error}",
            remedy="training-images",
            names=",".join(scores),
        ) from error


def training_features(bench: Workbench, prompts: Prompts, scores: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Features (T, F) and labels (T,) of the artifact's training images, on the model's device.

    Warns if the images have changed since the training. Arguments and errors are those of `training_images`.
    """
    recorded = prompts.config
    other, images = training_images(bench, prompts, scores)
    encoded = other.encode(images)
    digest = files_digest(images.paths, images.root)
    if prompts.training and prompts.training[-1].files_sha256 != digest:
        message = (
            f"The training images of {recorded.data.spec} have changed since the artifact was trained: the {len(encoded)} "
            "images that are drawn now have other names or sizes."
        )
        bench.decide(
            Decision("training-data-changed", message, {"spec": recorded.data.spec, "images": len(encoded)}, True)
        )
    for decision in other.decisions:
        bench.decide(decision)
    labelled = encoded.labels >= 0
    device = bench.clip.device
    return encoded.features[labelled].to(device), encoded.labels[labelled].to(device)
