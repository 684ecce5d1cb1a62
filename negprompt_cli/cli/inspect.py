"""`negprompt inspect`: the contents of a prompt artifact."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import hanging
from negprompt_cli.cli.options import MOVED_MODEL, TAG, Common, argument, flag, only, option
from negprompt_cli.wording import percent, some_of

if TYPE_CHECKING:
    from negprompt_cli.data.results.artifacts import Prompts
    from negprompt_cli.engine.clip import Clip

EXAMPLES = (
    "negprompt inspect runs/photos/negative.safetensors",
    "negprompt inspect runs/photos/negative.safetensors --no-words --json",
)


def inspect(
    common: Annotated[Common, only("device", "json")],
    artifact: Path = argument("ARTIFACT", "Prompt artifact."),
    no_words: bool = flag("Do not show words, for which the model is loaded."),
    top: int = option("Words to show for each context vector (default 5).", default=5, min=1),
    model: str | None = MOVED_MODEL,
    pretrained: str | None = TAG,
) -> None:
    """Show an artifact's contents and the words nearest to it.

    For each context vector it shows the words of the model's vocabulary with the nearest embeddings.
    """
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile

    ArtifactFile(artifact).require_named()
    from negprompt_cli.steps.inspect import inspect_artifact

    def load(prompts: "Prompts") -> "Clip":
        from negprompt_cli.config import ModelConfig
        from negprompt_cli.data.encoding.models import load_clip
        from negprompt_cli.data.results.artifacts import check_model
        from negprompt_cli.engine.devices import choose_compute
        from negprompt_cli.steps.shared.artifact_file import check_recorded_model

        recorded = prompts.model
        if model is None:
            check_recorded_model(recorded.name)
        tag = pretrained if model else pretrained or recorded.pretrained
        clip = load_clip(
            ModelConfig(name=model or recorded.name, pretrained=tag), choose_compute(common.device or "auto")
        )
        check_model(prompts, clip.identity, clip.width, artifact)
        return clip

    _, document = inspect_artifact(artifact, load=None if no_words else load, count=top)
    if common.json:
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    """Print the document for people."""
    classes = [c["name"] for c in document["classes"]]
    loss = document["loss"]
    facts = {
        "artifact": document["path"],
        "sha256": document["sha256"],
        "kind": document["kind"],
        "model": " ".join(filter(None, (document["model"]["name"], document["model"]["pretrained"]))),
        "weights": document["model"]["weights_sha256"],
        "written with": ", ".join(f"{k} {v}" for k, v in document["written_with"].items()) or "-",
        "data": f"{document['data']}, {document['shots'] or 'all'} shots, seed {document['seed']}"
        + (", LIMITED" if document["limited"] else ""),
        "classes": f"{len(classes)}: {some_of(classes, 8)}",
        "learned on": f"{document['learned_on_classes']} classes",
        "loss": "-"
        if loss is None
        else ", ".join([loss["name"], *(f"{key} {loss[key]:g}" for key in ("beta", "gamma", "contrast"))]),
        "tensors": ", ".join(f"{name} {tuple(shape)}" for name, shape in document["tensors"].items()),
        "parents": ", ".join(f"{p['kind']} {p['sha256'][:12]}" for p in document["parents"]) or "-",
    }
    facts["threshold"] = "none: `negprompt calibrate` chooses one"
    if (made := document["calibration"]) is not None:
        facts["threshold"] = (
            f"ID if {made['score']} is at least {made['threshold']:.6g}; chosen on {made['images']} held-out images of "
            f"{made['data']}, of which {made['accepted']} are accepted ({percent(made['low'])} to {percent(made['high'])} % "
            f"of new ones, at {100 * made['confidence']:g} % confidence)"
        )
        if made["by_class"]:
            facts["thresholds by class"] = ", ".join(f"{key} {value:.6g}" for key, value in made["by_class"].items())
    for stage in document["training"]:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in stage["terms"].items())
        facts[f"{stage['stage']} stage"] = f"{stage['images']} images, epoch {stage['epoch']}, {terms}"
    if (bond := document["class_bond"]) is not None:
        between = bond["cosine_between_classes"]
        facts["negatives"] = f"{percent(bond['own_class_share'])} % are closest to the positive of their own class" + (
            "" if between is None else f"; the mean cosine between those of different classes is {between:.3f}"
        )
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(hanging(f"{name:<{width}}  ", str(value)))
    if document["word_spacing"] is not None:
        note = (
            "Each context vector with its norm, and the nearest words of the vocabulary with their distances. Negative "
            "vectors also have the distance from the same vector of the positive context. Neighbouring words are "
            f"{document['word_spacing']:.3f} apart (median); a vector farther from every word resembles no word."
        )
        typer.echo("\n" + hanging("", note))
    for context in document["contexts"]:
        typer.echo(f"\n{context['context']}")
        for i, vector in enumerate(context["vectors"], start=1):
            away = "" if vector["from_positive"] is None else f"  from positive {vector['from_positive']:.3f}"
            near = ", ".join(f"{w['word']} {w['distance']:.3f}" for w in vector["words"])
            typer.echo(hanging(f"  {i:2d}  norm {vector['norm']:.3f}{away}  ", near).rstrip())
