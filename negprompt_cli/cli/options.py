"""How commands declare their options, and the options that several commands share.

The parameters of a command are declared with `option` and `argument`, as defaults of the function's parameters or of the
fields of dataclasses. `command` registers a function that takes such a dataclass as one parameter: its fields become options
of the command, so that `--help` lists them, and the function still receives one typed value. `Without` removes fields that a
command does not use. An option that belongs to the configuration names its key; the configuration has its range and its
default.

A help page begins with the command's own options, which have no panel. The panels of the shared options follow, and
examples end the page.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import partial, wraps
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

IMAGES = ("catalogue", "class_names", "on_error", "decoder", "image_batch", "workers", "cache", "runtime")
"""Fields of `Common` that commands without a data set of images do not use."""
PANELS = {"data": "Data", "model": "Model", "compute": "Hardware"}
"""The part of a help page for the shared options of a section of the configuration; the others are in `OTHER_PANEL`."""
OTHER_PANEL = "Run and output"
METAVARS: dict[Any, str] = {bool: "", int: "N", float: "NUMBER", Path: "PATH", str: "NAME"}
"""How a help page names the value of an option that declares no name for it; a flag has none."""


def option(
    help: str,
    *,
    name: str = "",
    short: str = "",
    key: str = "",
    read: Callable[[str], Any] | None = None,
    default: Any = None,
    **more: Any,
) -> Any:
    """Declare an option.

    Args:
        help: its line of the help page.
        name: the option as it is typed; by default that of the parameter, with dashes.
        short: another name, such as `-q`.
        key: the configuration key that it sets; in the options of `Training`, `stage` is replaced by the stage's name.
        read: makes the key's value of the text that was given.
        default: its value if it is not given; `...` if it must be given.
        more: arguments of `typer.Option`.
    """
    return _declared(partial(typer.Option, help=help, **more), default, names=(short, name), key=key, read=read)


def flag(help: str, *, name: str = "", short: str = "") -> Any:
    """Declare an option without a value, which is false if it is not given."""
    return option(help, name=name, short=short, default=False)


def argument(name: str, help: str, *, key: str = "", default: Any = ...) -> Any:
    """Declare an argument, which must be given if it has no default; `name` is shown on the help page."""
    return _declared(partial(typer.Argument, help=help, metavar=name), default, key=key)


def _declared(info: "partial[Any]", default: Any, **metadata: Any) -> Any:
    """A declaration that `_parameter` and `Common.asked` read; arguments have no names."""
    metadata = {"info": info, "names": None, "key": "", "read": None, **metadata}
    return field(default=MISSING if default is ... else default, metadata=metadata)


class Without:
    """Removes fields of a dataclass of options from a command: `Annotated[Common, Without("seed")]`."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)


SET = option("Set any configuration key; may be repeated.", name="--set", metavar="KEY=VALUE")


@dataclass(frozen=True)
class Common:
    """Options of every command that computes."""

    data: str | None = option(
        "ID data: a name or a path; #classes selects some (default imagenet).",
        key="data.spec",
        metavar="SPEC",
        autocompletion=completion.sets,
    )
    data_root: str | None = option(
        "Folder of the named data sets (default ./data).", key="data.root", metavar="DIR", envvar="NEGPROMPT_DATA_ROOT"
    )
    class_names: str | None = option(
        "File of class names that replace the folders' names.", key="data.class_names", metavar="FILE"
    )
    limit: int | None = option("For a trial: use at most N images of each data set.", key="data.limit")
    catalogue: str | None = option("YAML file that describes your own data sets.", key="data.catalogue", metavar="FILE")
    on_error: OnError | None = option("Stop at a broken image (default), or skip it.", key="data.on_error")
    decoder: Decoder | None = option("JPEG decoder (default pil; torchcodec is an extra).", key="data.decoder")
    model: str | None = option(
        "open_clip model, local-dir:PATH or hf-hub:ID (default: the artifact's, else ViT-B-16).", key="model.name"
    )
    pretrained: str | None = option(
        "open_clip tag or weights file (default: the artifact's, else laion2b_s34b_b88k).",
        key="model.pretrained",
        metavar="TAG",
    )
    device: str | None = option(
        "Where to compute: auto (default), cpu, cuda, cuda:N or mps.",
        key="compute.device",
        metavar="DEVICE",
        autocompletion=completion.devices,
    )
    gpus: int | None = option(
        "Run N processes, each on its own GPU; with --device cpu they share the cores.", key="compute.gpus"
    )
    precision: Precision | None = option(
        "Number format of the image encoder: auto (default), fp32, bf16 or fp16.",
        key="compute.precision",
        metavar="TYPE",
    )
    memory: str | None = option(
        "Memory for encoding prompts: auto (default) or, for example, 4GiB.", key="compute.memory", metavar="SIZE"
    )
    image_batch: int | None = option("Images encoded at once; 0 is automatic (default).", key="compute.image_batch")
    workers: int | None = option("Processes that decode images; -1 is automatic (default).", key="compute.workers")
    runtime: Runtime | None = option(
        "Library for the image encoder: torch (default), or onnx on the CPU.", key="compute.runtime"
    )
    cache: bool | None = option("Do not keep image features on disk.", name=" /--no-cache", key="compute.cache")
    run: Path | None = option("Run folder (default runs/<data name>).", metavar="DIR")
    seed: int | None = option("Random seed for sampling, initialisation and batch order.", key="seed")
    config: str | None = option(
        "Settings: a YAML file or the name of a preset.", metavar="FILE", autocompletion=completion.presets
    )
    assignments: list[str] | None = SET
    overwrite: bool = flag("Replace files that exist.")
    json: bool = flag("Print one JSON document on stdout.")
    quiet: bool = flag("Print only the result: a path, names or a verdict.", short="-q")
    verbose: bool = flag("Print a line for every epoch.", short="-v")

    def talk(self) -> Talk:
        """The object that prints the command's messages and results."""
        return Talk(quiet=self.quiet, as_json=self.json, verbose=self.verbose)

    def asked(self, *groups: Any, stage: str = "") -> "Asked":
        """The settings of the preset or file, of these options and of further groups; later ones override earlier ones.

        Args:
            groups: more dataclasses of options whose fields name configuration keys, or mappings of dotted keys to values.
            stage: `positive` or `negative`, for the options of `Training`.

        Raises:
            UsageError: there is no such preset or file, or a setting is not of the form key=value.
        """
        from negprompt_cli.config import ModelConfig, ask_config

        given: dict[str, Any] = {}
        names: dict[str, str] = {}
        # The default tag belongs to the default model only.
        if self.model not in (None, ModelConfig().name):
            given["model.pretrained"] = None
        for group in (self, *groups):
            if isinstance(group, Mapping):
                given |= group
                continue
            for f in fields(group):
                value, key = getattr(group, f.name), f.metadata["key"].replace("stage.", f"{stage}.")
                if key and value is not None:
                    given[key] = f.metadata["read"](value) if f.metadata["read"] else value
                    names[key] = _typed(f)
        return ask_config(self.config, flags=given, assignments=self.assignments or (), names=names)

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


PROMPTS = option("Prompt artifact (default <run>/negative.safetensors).")
SCORE = option("ID score to use (default: the calibrated one).", autocompletion=completion.scores)
THRESHOLD = option("Images with a lower score are OOD (default: the calibrated one).")
SHOTS = option("Training images per class, 0 for all (default 16).", key="data.shots")
MOVED_ROOT = option("New folder of the named data sets, if they moved.", envvar="NEGPROMPT_DATA_ROOT", metavar="DIR")
MOVED_MODEL = option("New place of the artifact's model, if it moved.")
TAG = option("open_clip tag or weights file.")


@dataclass(frozen=True)
class Training:
    """Options of both training stages."""

    shots: int | None = SHOTS
    epochs: int | None = option("At most N passes over the images (default 100).", key="stage.schedule.epochs")
    classes_per_step: int | None = option(
        "Use N random classes in each training step; 0 is all (default).", key="stage.schedule.classes_per_step"
    )
    lr: float | None = option(
        "Train with SGD at this learning rate; the default training needs none.",
        key="stage.schedule.sgd.lr",
        metavar="RATE",
    )
    keep: KeptEpoch | None = option(
        "Epoch to keep: last (default), or best on held-out ID images.", key="stage.schedule.keep"
    )


class _WithoutTypes:
    """A command, or a group of commands, whose help page does not name Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperArgument):  # its metavar is its name
                vars(parameter)["display_type_rich"] = lambda ctx: None
            elif parameter.name == "help":
                parameter.metavar = ""
        return parameters


class _Command(_WithoutTypes, TyperCommand): ...


class _Group(_WithoutTypes, TyperGroup): ...


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
        groups: dict[str, tuple[Any, list[str]]] = {}
        parameters: list[inspect.Parameter] = []
        for own, parameter in inspect.signature(function).parameters.items():
            kind, without = _group(hints[own])
            if kind is None:
                parameters.append(_parameter(own, hints[own], parameter.default))
            else:
                types, used = get_type_hints(kind), [f for f in fields(kind) if f.name not in without]
                groups[own] = kind, [f.name for f in used]
                parameters += [_parameter(f.name, types[f.name], f, shared=kind is Common) for f in used]

        @wraps(function)
        def run(**values: Any) -> None:
            values = {name: _at_home(value) for name, value in values.items()}
            made = {own: kind(**{f: values.pop(f) for f in names}) for own, (kind, names) in groups.items()}
            function(**made, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, cls=_Command, help=_prose(function), epilog=_examples(shown))(run)
        return function

    return register


def _parameter(name: str, hint: Any, declared: "Field[Any]", *, shared: bool = False) -> inspect.Parameter:
    """A parameter as Typer reads it; the shared options have their own parts of the help page."""
    info, names = declared.metadata["info"], declared.metadata["names"]
    typed = filter(None, (names[0], _typed(declared, name))) if names else ()
    word = next((METAVARS[kind] for kind in get_args(hint) or (hint,) if kind in METAVARS), None)
    panel = PANELS.get(declared.metadata["key"].partition(".")[0], OTHER_PANEL) if shared else None
    metavar = info.keywords.get("metavar", word)
    mark = info(*typed, metavar=metavar, rich_help_panel=panel, show_default=False)
    default = inspect.Parameter.empty if declared.default is MISSING else declared.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, mark])


def _typed(declared: "Field[Any]", name: str = "") -> str:
    """An option as it is typed, or the name of an argument; `name` is that of a parameter that is not a field."""
    metadata = declared.metadata
    given: str = metadata["names"][1] if metadata["names"] else metadata["info"].keywords["metavar"]
    return given or f"--{(name or declared.name).replace('_', '-')}"


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
