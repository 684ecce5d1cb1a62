"""Publish prompt artifacts on the Hugging Face Hub, with a model card made from the artifact and its evaluation.

A published folder has `prompts.safetensors`, the model card README.md and, if there is one, evaluation.json. Images and the
weights of models are not published; the artifact identifies the weights by digest. A local folder of this form can be used
like a repository.
"""

import tempfile
from pathlib import Path
from typing import Any

from negprompt_cli.data.files.atomic import atomic_write_bytes, atomic_write_text
from negprompt_cli.data.results.artifacts import Prompts, save_prompts
from negprompt_cli.data.results.evaluations import AVERAGE, load_evaluation
from negprompt_cli.engine.scores import find_score
from negprompt_cli.errors import NegPromptError, UsageError, first_line
from negprompt_cli.wording import percent, some_of

ARTIFACT = "prompts.safetensors"
CARD, EVALUATION = "README.md", "evaluation.json"
SHOWN_CLASSES = 50


def save_pretrained(
    prompts: Prompts, folder: Path, *, evaluation: Path | None = None, repo_id: str | None = None
) -> Prompts:
    """Write artifact, card and evaluation into `folder`.

    Args:
        prompts: the artifact.
        folder: created if it does not exist; files with these names are replaced.
        evaluation: an evaluation.json of these prompts; its results are added to the card.
        repo_id: "owner/name" of the future repository.

    Raises:
        UsageError: the evaluation is invalid, limited, or not of these prompts.
        NegPromptError: the files cannot be written.
    """
    saved = save_prompts(prompts, folder / ARTIFACT)
    atomic_write_text(folder / CARD, model_card(saved, evaluation, source=repo_id or str(folder)))
    if evaluation is not None:
        atomic_write_bytes(folder / EVALUATION, evaluation.read_bytes())
    return saved


def push_to_hub(
    prompts: Prompts, repo_id: str, *, evaluation: Path | None = None, private: bool = False, api: Any = None
) -> str:
    """Publish an artifact and return the address of the repository.

    Args:
        prompts: the artifact.
        repo_id: "owner/name".
        evaluation: an evaluation.json of these prompts.
        private: whether a new repository is private.
        api: a `huggingface_hub.HfApi`; None uses one with the user's login.

    Raises:
        NegPromptError: the hub cannot be reached or refuses the upload.
        UsageError: the evaluation is invalid, limited, or not of these prompts.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(library_name="negprompt")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(prompts, Path(folder), evaluation=evaluation, repo_id=repo_id)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Prompts by negprompt")
        except Exception as error:  # The hub raises its own errors and those of HTTP and of the network.
            raise NegPromptError(
                f"Cannot publish {repo_id}: {first_line(error)} (log in with `hf auth login`)."
            ) from error
    return str(url)


def find_artifact(source: str | Path) -> Path:
    """Return the artifact file of a local folder or of a repository of the hub; it is downloaded if necessary.

    Raises:
        UsageError: the folder has no artifact.
        NegPromptError: the hub has no such repository, or cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / ARTIFACT).is_file():
            raise UsageError(f"{path} has no {ARTIFACT}, which `save_pretrained` writes.")
        return path / ARTIFACT
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(source), ARTIFACT, library_name="negprompt"))
    except Exception as error:  # as above
        raise NegPromptError(
            f"{source} is not a local folder, and it cannot be downloaded from the hub: {first_line(error)}"
        ) from error


def model_card(prompts: Prompts, evaluation: Path | None = None, *, source: str = "FOLDER") -> str:
    """Return the README.md of a published artifact: description, example and results.

    Args:
        prompts: the artifact.
        evaluation: an evaluation.json; its results are quoted with their conventions.
        source: repository or folder, for the example.

    Raises:
        UsageError: the evaluation is invalid, limited, or not of these prompts.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="negprompt",
        tags=["out-of-distribution-detection", "clip", "prompt-learning"],
        pipeline_tag="zero-shot-image-classification",
    )
    name = " ".join(filter(None, (prompts.model.name.rsplit("/", 1)[-1], prompts.model.pretrained)))
    loss = f"loss {prompts.config.negative.loss.name}, " if prompts.negative is not None else ""
    lines = [
        f"---\n{data.to_yaml()}\n---",
        "# Prompts for out-of-distribution detection",
        f"Learned {prompts.kind} prompts for CLIP ({name}, weights sha256 `{prompts.model.weights_sha256}`), made with "
        f"negprompt: {len(prompts.classes)} classes, {prompts.negatives_per_class} negatives per class, {loss}"
        f"{prompts.config.data.shots or 'all'} shots, seed {prompts.config.seed}.",
        "The image and text towers are not part of this repository; the model with this digest is needed too.",
        f"## Classes\n\n{some_of(prompts.names, SHOWN_CLASSES)}.",
        "## Use\n\n```python\nimport negprompt_cli as negprompt\n\n"
        f'detector = negprompt.Detector.from_pretrained("{source}")\n'
        'for row in negprompt.score_images(detector, "photos"):\n    print(row.path, row.prediction_name, row.is_ood)\n```',
        _threshold(prompts),
        _figures(prompts, evaluation),
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def _threshold(prompts: Prompts) -> str:
    made = prompts.calibration
    if made is None:
        return "## Threshold\n\nThese prompts have no threshold yet. Choose one with held-out images of the classes."
    return (
        f"## Threshold\n\nAn image is in-distribution if its score `{made.score}` is at least {made.threshold:.6g}, "
        f"which accepts {made.accepted} of {made.images} held-out images of the classes "
        f"({100 * made.confidence:g} % interval for new ones: {percent(made.low)} to {percent(made.high)} %)."
    )


def _figures(prompts: Prompts, path: Path | None) -> str:
    if path is None:
        return ""
    document = load_evaluation(path)
    if document.limited:
        raise UsageError(f"{path} is a limited evaluation, which a card must not quote. Evaluate all images.")
    if document.model.weights_sha256 != prompts.model.weights_sha256 or document.id.classes != len(prompts.classes):
        raise UsageError(f"{path} is not an evaluation of these prompts: model or classes differ.")
    rows = [
        f"| {row.ood} | {row.score} | {percent(row.auroc)} | {percent(row.fpr95_id_positive)} |"
        for row in document.rows
        if row.ood != AVERAGE
    ]
    return "\n".join(
        [
            "## Evaluation",
            "",
            f"ID: {document.id.name}, {document.id.images} images, accuracy {percent(document.id.accuracy)} %. Per cent; "
            "FPR95 is the share of OOD images accepted when 95 % of ID images are accepted (ID positive).",
            "",
            "| OOD | score | AUROC | FPR95 |",
            "|---|---|---|---|",
            *rows,
            "",
            "\n".join(f"* {s.name}: {s.title} ([{s.paper}]({s.url}))" for s in map(find_score, document.scores)),
        ]
    )
