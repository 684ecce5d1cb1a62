"""Options that several commands share, declared once as dataclasses whose fields are Typer options.

`command` registers a function that takes such a dataclass as one parameter: its fields become options of the command, so
that `--help` lists them, and the function still receives one typed value. `Without` removes fields that a command does not
use. An option that belongs to the configuration names its key; the configuration has its range and its default.

A help page begins with the command's own options, which have no panel. The panels of the shared options follow, and
examples end the page.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from negprompt_cli.choices import Decoder, KeptEpoch, OnError, Precision, Runtime
from negprompt_cli.cli import completion
from negprompt_cli.cli.app import SUBCOMMANDS
from negprompt_cli.cli.console import Talk

if TYPE_CHECKING:
    from negprompt_cli.config import Asked
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile

DATA, MODEL, HARDWARE, RUN = "Data", "Model", "Hardware", "Run and output"
IMAGES = ("catalogue", "class_names", "on_error", "decoder", "image_batch", "workers", "cache", "runtime")
"""Fields of `Common` that commands without a data set of images do not use."""

METAVARS: dict[tuple[Any, ...], str] = {
    (bool, bool | None): "",
    (int, int | None): "N",
    (float, float | None): "NUMBER",
    (Path, Path | None): "PATH",
    (str, str | None): "NAME",
}
"""How a help page names the value of an option that declares no name for it; a flag has none."""


def option(*names: str, help: str, panel: str | None = None, key: str | None = None, **more: Any) -> Any:
    """Declare a Typer option. `key` is the configuration key that it sets, and `panel` its part of the help page."""
    info = typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)
    info.config_key = key
    return info


class Without:
    """Removes fields of a dataclass of options from a command: `Annotated[Common, Without("seed")]`."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)


@dataclass(frozen=True)
class Common:
    """Options of every command that computes."""

    data: Annotated[
        str | None,
        option(
            "--data",
            help="ID data: a name or a path; #classes selects some (default imagenet).",
            panel=DATA,
            key="data.spec",
            metavar="SPEC",
            autocompletion=completion.sets,
        ),
    ] = None
    data_root: Annotated[
        str | None,
        option(
            "--data-root",
            help="Folder of the named data sets (default ./data).",
            panel=DATA,
            key="data.root",
            metavar="DIR",
            envvar="NEGPROMPT_DATA_ROOT",
        ),
    ] = None
    class_names: Annotated[
        str | None,
        option(
            "--class-names",
            help="File of class names that replace the folders' names.",
            panel=DATA,
            key="data.class_names",
            metavar="FILE",
        ),
    ] = None
    limit: Annotated[
        int | None,
        option("--limit", help="Trial: at most N images per data set.", panel=DATA, key="data.limit", metavar="N"),
    ] = None
    catalogue: Annotated[
        str | None,
        option(
            "--catalogue",
            help="YAML file that describes your own data sets.",
            panel=DATA,
            key="data.catalogue",
            metavar="FILE",
        ),
    ] = None
    on_error: Annotated[
        OnError | None,
        option("--on-error", help="Stop at a broken image (default), or skip it.", panel=DATA, key="data.on_error"),
    ] = None
    decoder: Annotated[
        Decoder | None,
        option("--decoder", help="JPEG decoder (default pil; torchcodec is an extra).", panel=DATA, key="data.decoder"),
    ] = None
    model: Annotated[
        str | None,
        option(
            "--model",
            help="open_clip model, local-dir:PATH or hf-hub:ID (default ViT-B-16).",
            panel=MODEL,
            key="model.name",
            metavar="NAME",
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        option(
            "--pretrained",
            help="open_clip tag or weights file (default laion2b_s34b_b88k).",
            panel=MODEL,
            key="model.pretrained",
            metavar="TAG",
        ),
    ] = None
    device: Annotated[
        str | None,
        option(
            "--device",
            help="auto (default), cpu, cuda, cuda:N or mps.",
            panel=HARDWARE,
            key="compute.device",
            metavar="DEVICE",
            autocompletion=completion.devices,
        ),
    ] = None
    gpus: Annotated[
        int | None,
        option(
            "--gpus",
            help="Run N processes, each on its own GPU; with --device cpu they share the cores.",
            panel=HARDWARE,
            key="compute.gpus",
            metavar="N",
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        option(
            "--precision",
            help="Image encoder in auto (default), fp32, bf16 or fp16.",
            panel=HARDWARE,
            key="compute.precision",
            metavar="TYPE",
        ),
    ] = None
    memory: Annotated[
        str | None,
        option(
            "--memory",
            help="Memory for encoding prompts: auto (default) or, for example, 4GiB.",
            panel=HARDWARE,
            key="compute.memory",
            metavar="SIZE",
        ),
    ] = None
    image_batch: Annotated[
        int | None,
        option(
            "--image-batch",
            help="Images encoded at once; 0 is automatic (default).",
            panel=HARDWARE,
            key="compute.image_batch",
            metavar="N",
        ),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "--workers",
            help="Processes that decode images; -1 is automatic (default).",
            panel=HARDWARE,
            key="compute.workers",
            metavar="N",
        ),
    ] = None
    runtime: Annotated[
        Runtime | None,
        option(
            "--runtime",
            help="Runs the image encoder: torch (default), or onnx for the CPU.",
            panel=HARDWARE,
            key="compute.runtime",
        ),
    ] = None
    cache: Annotated[
        bool | None,
        option(" /--no-cache", help="Do not keep image features on disk.", panel=HARDWARE, key="compute.cache"),
    ] = None
    run: Annotated[
        Path | None, option("--run", help="Run folder (default runs/<data name>).", panel=RUN, metavar="DIR")
    ] = None
    seed: Annotated[
        int | None,
        option(
            "--seed",
            help="Random seed for sampling, initialisation and batch order.",
            panel=RUN,
            key="seed",
            metavar="N",
        ),
    ] = None
    config: Annotated[
        str | None,
        option(
            "--config",
            help="Configuration: a YAML file or the name of a preset.",
            panel=RUN,
            metavar="FILE",
            autocompletion=completion.presets,
        ),
    ] = None
    assignments: Annotated[
        list[str] | None,
        option("--set", help="Set any configuration key; may be repeated.", panel=RUN, metavar="KEY=VALUE"),
    ] = None
    overwrite: Annotated[bool, option("--overwrite", help="Replace files that exist.", panel=RUN)] = False
    json: Annotated[bool, option("--json", help="Print one JSON document on stdout.", panel=RUN)] = False
    quiet: Annotated[
        bool, option("-q", "--quiet", help="Print only the result: a path, names or a verdict.", panel=RUN)
    ] = False
    verbose: Annotated[bool, option("-v", "--verbose", help="Print a line for every epoch.", panel=RUN)] = False

    def talk(self) -> Talk:
        """The object that prints the command's messages and results."""
        return Talk(quiet=self.quiet, as_json=self.json, verbose=self.verbose)

    def asked(self, *groups: Any) -> "Asked":
        """The settings of the preset or file, of these options and of further groups; later ones override earlier ones.

        Args:
            groups: more dataclasses of options whose fields name configuration keys, or mappings of dotted keys to values.

        Raises:
            UsageError: there is no such preset or file, or a setting is not of the form key=value.
        """
        from negprompt_cli.config import ModelConfig, ask_config

        given: dict[str, Any] = {}
        # The default tag belongs to the default model only.
        if self.model not in (None, ModelConfig().name):
            given["model.pretrained"] = None
        for group in (self, *groups):
            given |= group if isinstance(group, Mapping) else _given(group)
        return ask_config(self.config, flags=given, assignments=self.assignments or ())

    def run_folder(self, asked: "Asked") -> Path:
        """The folder given with --run, or runs/<data name>."""
        from negprompt_cli.data.results.runs import default_run_folder

        return self.run or default_run_folder(asked.spec)

    def artifact(self, asked: "Asked", named: Path | None, name: str) -> "ArtifactFile":
        """The named artifact, or the file `name` in the run folder, which an earlier step writes.

        Raises:
            UsageError: an artifact was named and does not exist.
        """
        from negprompt_cli.steps.shared.artifact_file import ArtifactFile

        if named is None:
            return ArtifactFile(self.run_folder(asked) / name)
        artifact = ArtifactFile(named)
        artifact.require_named()
        return artifact


def only(*names: str) -> Without:
    """Keeps only these fields of `Common` in a command: `Annotated[Common, only("json", "quiet")]`."""
    return Without(*(f.name for f in fields(Common) if f.name not in names))


def split_commas(text: str) -> list[str]:
    """The parts of a text between commas, without spaces around them and without empty ones."""
    return [part for piece in text.split(",") if (part := piece.strip())]


Prompts = Annotated[Path | None, option("--prompts", help="Prompt artifact (default <run>/negative.safetensors).")]


def score_option(help: str, name: str = "--score", **more: Any) -> Any:
    """Declare an option that takes a name of a score, or several; the shell completes them."""
    return option(name, help=help, **{"autocompletion": completion.scores, **more})


ScoreName = Annotated[str | None, score_option("ID score to use (default: the calibrated one).")]

MovedRoot = Annotated[
    str | None,
    option(
        "--data-root", help="Folder of the named data sets, if they moved.", envvar="NEGPROMPT_DATA_ROOT", metavar="DIR"
    ),
]

Threshold = Annotated[
    float | None, option("--threshold", help="Images with a lower score are OOD (default: the calibrated one).")
]

Shots = Annotated[
    int | None,
    option("--shots", help="Training images per class, 0 for all (default 16).", key="data.shots", metavar="N"),
]


@dataclass(frozen=True)
class Training:
    """Options of both training stages; `stage` in a key is replaced by the name of the stage."""

    shots: Shots = None
    epochs: Annotated[
        int | None,
        option(
            "--epochs", help="At most N passes over the images (default 100).", key="stage.schedule.epochs", metavar="N"
        ),
    ] = None
    classes_per_step: Annotated[
        int | None,
        option(
            "--classes-per-step",
            help="Use N random classes in each training step; 0 is all (default).",
            key="stage.schedule.classes_per_step",
            metavar="N",
        ),
    ] = None
    lr: Annotated[
        float | None,
        option(
            "--lr",
            help="Train with SGD at this learning rate; the default training needs none.",
            key="stage.schedule.sgd.lr",
            metavar="RATE",
        ),
    ] = None
    keep: Annotated[
        KeptEpoch | None,
        option(
            "--keep", help="Epoch to keep: last (default), or best on held-out ID images.", key="stage.schedule.keep"
        ),
    ] = None

    def of(self, stage: str) -> dict[str, Any]:
        """The given values by configuration key, for the stage `positive` or `negative`."""
        return {key.replace("stage.", f"{stage}."): value for key, value in _given(self).items()}


class _Command(TyperCommand):
    """A command whose help page does not name Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the page."""
        return _without_types(super().get_params(ctx))


class _Group(TyperGroup):
    """The same for a group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the page."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperArgument):  # its metavar is its name
            vars(parameter)["display_type_rich"] = lambda ctx: None
        elif parameter.name == "help":
            parameter.metavar = ""
    return parameters


def group(name: str) -> typer.Typer:
    """A subcommand that has commands of its own.

    Args:
        name: its name, a key of `SUBCOMMANDS`.
    """
    return typer.Typer(cls=_Group, help=SUBCOMMANDS[name], no_args_is_help=True, add_completion=False)


def command(
    app: typer.Typer, name: str, *, shown: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a subcommand; the fields of dataclasses among its parameters become options.

    Args:
        app: the app or group that gets the command.
        name: its name.
        shown: the examples at the end of its help page.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        groups = {p: _group(kind) for p, kind in hints.items() if _group(kind)[0]}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in groups:
                parameters += _fields(*groups[parameter.name])
            else:
                parameters.append(
                    parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
                )

        @wraps(function)
        def run(**values: Any) -> None:
            values = {name: _at_home(value) for name, value in values.items()}
            arguments: dict[str, Any] = {}
            for parameter, (kind, without) in groups.items():
                names = [f.name for f in fields(kind) if f.name not in without]
                arguments[parameter] = kind(**{name: values.pop(name) for name in names})
            function(**arguments, **values)

        for parameter in parameters:
            kind, mark, *_ = get_args(parameter.annotation)
            if mark.metavar is None:
                mark.metavar = next((word for types, word in METAVARS.items() if kind in types), None)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, cls=_Command, help=_prose(function), epilog=_examples(shown))(run)
        return function

    return register


def _at_home(value: Any) -> Any:
    """A value of an option with `~/` replaced by the home folder: shells leave it as it is in `--run=~/photos`."""
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    if isinstance(value, str | Path) and str(value).startswith("~/"):
        return type(value)(os.path.expanduser(str(value)))  # noqa: PTH111 - Path's own raises where there is no home
    return value


def _prose(function: Callable[..., None]) -> str:
    """The docstring of a command with its paragraphs as single lines, which the help page wraps to the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(function.__doc__ or "").split("\n\n"))


def _examples(lines: tuple[str, ...]) -> str | None:
    """The end of a help page: commands to copy."""
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)]) if lines else None


def _group(kind: Any) -> tuple[Any, frozenset[str]]:
    """The dataclass of options that a parameter's type names, or None, and the fields that the command does not use."""
    without: frozenset[str] = frozenset()
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
        without = without.union(*(mark.names for mark in marks if isinstance(mark, Without)))
    return (kind if isinstance(kind, type) and is_dataclass(kind) else None), without


def _fields(group: type[Any], without: frozenset[str]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(group)
        if f.name not in without
    ]


def _given(group: Any) -> dict[str, Any]:
    """Values by configuration key of those options of a group that were given."""
    hints = get_type_hints(type(group), include_extras=True)
    given = {}
    for f in fields(group):
        key = next((k for m in hints[f.name].__metadata__ if (k := getattr(m, "config_key", None))), None)
        value = getattr(group, f.name)
        if key and value is not None:
            given[key] = value
    return given
