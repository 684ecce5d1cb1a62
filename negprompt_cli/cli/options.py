"""Options that several commands share, declared once as dataclasses whose fields are Typer options.

`command` registers a function that takes such a group as one parameter: the group's fields become the command's own
options, so that `--help` lists them and the function still receives one typed value. Each option that belongs to the
configuration names its key there; what is not given on the line is left to the configuration.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from negprompt_cli.config import Asked
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile

DATA, MODEL, HARDWARE, OUTPUT = "Data", "Model", "Hardware", "Output"
TRAINING, LOSS, EVALUATION = "Training", "Stage 2", "Evaluation"


def option(*names: str, help: str, panel: str, key: str | None = None, **more: Any) -> Any:
    """Declare a Typer option; `key` is the configuration key it sets, if any."""
    info = typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)
    info.config_key = key
    return info


@dataclass(frozen=True)
class Common:
    """Options of every command that computes."""

    config: Annotated[
        str | None, option("--config", help="YAML file or name of a preset (`negprompt config ls`).", panel=OUTPUT)
    ] = None
    assignments: Annotated[
        list[str] | None,
        option(
            "--set", help="Set any configuration key: key=value. May be repeated.", panel=OUTPUT, metavar="KEY=VALUE"
        ),
    ] = None
    data: Annotated[
        str | None,
        option("--data", help="ID data: NAME or PATH, with #classes (default imagenet).", panel=DATA, key="data.spec"),
    ] = None
    data_root: Annotated[
        str | None,
        option(
            "--data-root",
            help="Where named data sets lie (default ./data).",
            panel=DATA,
            key="data.root",
            envvar="NEGPROMPT_DATA_ROOT",
        ),
    ] = None
    catalogue: Annotated[
        str | None,
        option("--catalogue", help="YAML catalogue of your own data sets.", panel=DATA, key="data.catalogue"),
    ] = None
    class_names: Annotated[
        str | None,
        option(
            "--class-names", help="File naming the classes; wins over folder names.", panel=DATA, key="data.class_names"
        ),
    ] = None
    limit: Annotated[
        int | None,
        option(
            "--limit", help="At most N images per data set; results are marked.", panel=DATA, key="data.limit", min=1
        ),
    ] = None
    on_error: Annotated[
        str | None,
        option("--on-error", help="A broken image: stop, or skip and count it.", panel=DATA, key="data.on_error"),
    ] = None
    decoder: Annotated[
        str | None,
        option(
            "--decoder", help="What decodes JPEGs: pil or torchcodec (extra decode).", panel=DATA, key="data.decoder"
        ),
    ] = None
    model: Annotated[
        str | None,
        option(
            "--model",
            help="open_clip model, local-dir:PATH or hf-hub:ID (default ViT-B-16).",
            panel=MODEL,
            key="model.name",
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        option(
            "--pretrained",
            help="open_clip tag or weights file (default laion2b_s34b_b88k).",
            panel=MODEL,
            key="model.pretrained",
        ),
    ] = None
    device: Annotated[
        str | None, option("--device", help="auto, cpu, cuda, cuda:N or mps.", panel=HARDWARE, key="compute.device")
    ] = None
    gpus: Annotated[
        int | None,
        option(
            "--gpus",
            help="N processes, a GPU each (with --device cpu: a share of the cores each).",
            panel=HARDWARE,
            key="compute.gpus",
            min=1,
        ),
    ] = None
    precision: Annotated[
        str | None,
        option("--precision", help="Image encoder: auto, fp32, bf16 or fp16.", panel=HARDWARE, key="compute.precision"),
    ] = None
    memory: Annotated[
        str | None,
        option(
            "--memory", help="For text activations: auto or a size such as 4GiB.", panel=HARDWARE, key="compute.memory"
        ),
    ] = None
    image_batch: Annotated[
        int | None,
        option(
            "--image-batch",
            help="Images per encoder batch, 0 to choose.",
            panel=HARDWARE,
            key="compute.batch_size",
            min=0,
        ),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "--workers", help="Image decoding processes, -1 to choose.", panel=HARDWARE, key="compute.workers", min=-1
        ),
    ] = None
    cache: Annotated[
        bool | None, option(" /--no-cache", help="Keep no image features on disk.", panel=HARDWARE, key="compute.cache")
    ] = None
    run: Annotated[Path | None, option("--run", help="Run folder (default runs/<data name>).", panel=OUTPUT)] = None
    seed: Annotated[
        int | None, option("--seed", help="Drives sampling, starts and batches.", panel=OUTPUT, key="seed", min=0)
    ] = None
    overwrite: Annotated[bool, option("--overwrite", help="Replace outputs that exist.", panel=OUTPUT)] = False
    json: Annotated[bool, option("--json", help="One JSON document on stdout.", panel=OUTPUT)] = False
    quiet: Annotated[bool, option("-q", "--quiet", help="Print only the path of what was made.", panel=OUTPUT)] = False

    def asked(self, *groups: Any) -> "Asked":
        """What preset or file, these options and further groups ask for; later groups win over earlier ones.

        Args:
            groups: more option groups, whose fields name configuration keys, or dotted keys with their values.

        Raises:
            UsageError: no such preset or file, or not a key=value.
        """
        from negprompt_cli.config import ModelConfig, ask_config

        given: dict[str, Any] = {}
        # The default tag belongs to the default model; another model brings its own or none.
        if self.model not in (None, ModelConfig().name):
            given["model.pretrained"] = None
        for group in (self, *groups):
            given |= group if isinstance(group, Mapping) else _given(group)
        return ask_config(self.config, flags=given, assignments=self.assignments or ())

    def run_folder(self, asked: "Asked") -> Path:
        """The run folder asked for, or runs/<data name>."""
        from negprompt_cli.data.results.runs import default_run_folder

        return self.run or default_run_folder(asked.spec)

    def artifact(self, asked: "Asked", named: Path | None, name: str) -> "ArtifactFile":
        """The artifact that was named, or the one called `name` in the run folder, which a step makes.

        Raises:
            UsageError: one that was named is not there.
        """
        from negprompt_cli.steps.shared.artifact_file import ArtifactFile

        if named is None:
            return ArtifactFile(self.run_folder(asked) / name)
        artifact = ArtifactFile(named)
        artifact.require_named()
        return artifact


@dataclass(frozen=True)
class Sampling:
    """Options of both training stages: which ID images are trained on."""

    shots: Annotated[
        int | None,
        option("--shots", help="Training images per class, 0 for all.", panel=TRAINING, key="data.shots", min=0),
    ] = None
    train_classes: Annotated[
        str | None,
        option("--train-classes", help="Part of the classes, e.g. 10%.", panel=TRAINING, key="data.train_classes"),
    ] = None


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a subcommand, option groups among its parameters taken apart."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        groups = {p: kind for p, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in groups:
                parameters += _fields(groups[parameter.name])
            else:
                parameters.append(
                    parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
                )

        @wraps(function)
        def run(**values: Any) -> None:
            arguments: dict[str, Any] = {}
            for parameter, kind in groups.items():
                arguments[parameter] = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
            function(**arguments, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(run)
        return function

    return register


def _fields(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(group)
    ]


def _given(group: Any) -> dict[str, Any]:
    """Configuration keys and values of a group's options that were given on the line."""
    hints = get_type_hints(type(group), include_extras=True)
    given = {}
    for f in fields(group):
        key = next((k for m in hints[f.name].__metadata__ if (k := getattr(m, "config_key", None))), None)
        value = getattr(group, f.name)
        if key and value is not None:
            given[key] = value
    return given
