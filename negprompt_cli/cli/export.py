"""`negprompt export`: the detector or its context in a format for other programs."""

from pathlib import Path
from typing import Annotated, Literal

from negprompt_cli import schemas
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import IMAGES, PROMPTS, SCORE, THRESHOLD, Common, Without, flag, option
from negprompt_cli.data.results.runs import NEGATIVE
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError

EXAMPLES = (
    "negprompt export --run runs/photos",
    "negprompt export --prompts negative.safetensors --format onnx --fp16 --out detector.onnx",
    "negprompt export --run runs/photos --format coop",
)


SUFFIX = {"onnx": ".onnx", "pt2": ".pt2", "coop": ".pth.tar"}


def export(
    common: Annotated[Common, Without(*IMAGES, "verbose")],
    prompts: Path | None = PROMPTS,
    form: Literal["onnx", "pt2", "coop"] = option(
        "onnx (default), pt2 (torch.export), or coop (context only).", name="--format", default="onnx"
    ),
    half: bool = flag("Store ONNX weights in float16, which halves the file.", name="--fp16"),
    score: str | None = SCORE,
    threshold: float | None = THRESHOLD,
    out: Path | None = option("File to write (default: next to the artifact, named by --format)."),
) -> None:
    """Write the detector as an ONNX or torch.export file.

    The exported detector takes preprocessed pixels and returns class probabilities, ID scores and is_ood. Its outputs are
    compared with PyTorch's before it is written. --format coop writes the context as a CoOp checkpoint instead.
    """
    talk = common.talk()
    asked = common.asked()
    artifact = common.artifact(asked, prompts, NEGATIVE)
    artifact.require(asked.spec)
    path = out or artifact.path.with_suffix(SUFFIX[form])
    from negprompt_cli.data.encoding.onnx_files import require_libraries
    from negprompt_cli.data.results.provenance import versions
    from negprompt_cli.steps.export import run_export
    from negprompt_cli.steps.shared.coop import write_coop
    from negprompt_cli.steps.shared.outputs import refuse_existing
    from negprompt_cli.steps.shared.scorer import make_scorer, open_prompts
    from negprompt_cli.steps.shared.workbench import Workbench

    refuse_existing(path, overwrite=common.overwrite)
    if form == "coop":
        given = {"--fp16": half, "--score": score, "--threshold": threshold is not None}
        if any(given.values()):
            raise UsageError(
                f"{next(k for k, v in given.items() if v)} cannot be used with --format coop, which has no scores."
            )
        made = artifact.prompts
        write_coop(made, path)
        if made.negative is not None:
            message = "CoOp has no negative prompts, so only the positive context was written."
            talk.decide(Decision("prompts-changed", message, {"negatives": made.negatives_per_class}, warning=True))
        talk.result(
            path,
            {
                "schema": schemas.EXPORT,
                "path": str(path),
                "format": "coop",
                "prompts_sha256": made.sha256,
                "versions": versions(),
            },
        )
        return
    if form == "onnx":
        require_libraries(remedy="format-pt2")
    config = artifact.configure(asked, "model")
    start_processes(config)
    bench = Workbench(config, talk)
    scorer = make_scorer(bench, open_prompts(bench, artifact), score=score, threshold=threshold)
    if scorer.threshold is None:
        message = (
            "There is no threshold, so is_ood is never true. Run `negprompt calibrate` first, or pass --threshold."
        )
        talk.decide(Decision("threshold", message, {"threshold": None, "score": scorer.choice.name}, warning=True))
    result = run_export(scorer, path, form=form, half=half)
    talk.say(
        f"The score is {scorer.choice.name}. The outputs agree with PyTorch's to {result.difference:.2g} of their range. "
        f"The file has {path.stat().st_size / 1e6:.1f} MB."
    )
    talk.result(
        path,
        {
            "schema": schemas.EXPORT,
            "path": str(path),
            "format": form,
            "difference": result.difference,
            **result.metadata.model_dump(mode="json", exclude={"classes", "calibration_scores"}),
        },
    )
