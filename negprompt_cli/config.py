"""The configuration of a run: typed, validated, written out in the very format that is read.

Values come from, weakest first: the defaults below, a file or a preset that ships with the package, options of a command,
assignments `key=value`. Unknown keys and wrong types are errors that name the key. The resolved configuration is written
beside every artifact, and a run is repeatable from it. The values' sources in the paper and the official code are in
README's table of defaults.

Leaves out: where files are written and how output looks, which do not change a result.
"""

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from negprompt_cli.choices import Decoder, KeptEpoch, OnError, Precision, Runtime
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.loss_presets import (
    LOSS_PRESETS,
    POSITIVE_PRESETS,
    LossName,
    LossPreset,
    PositiveLossName,
    ScoreForm,
)

SHOWN_PROBLEMS = 20
"""Most wrong keys that one message names."""
SHOWN_CHARACTERS = 200
"""Most of a key or of a value that a message shows."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PixelsConfig(_Section):
    """How image files become 8-bit RGB where there is more than one way; ordinary 8-bit images are not touched.

    `values`: what is white in grey images of more than 8 bits: 'auto' (by the type; an image that does not fit is refused
    with its range), 'type' (by the type, however dark), 'range' (each image from its own lowest to its highest value), or a
    number.
    `alpha`: what becomes of transparency, 'drop' as in CLIP's own preprocessing, or the background it is laid over.
    `orientation`: whether an EXIF orientation is applied, which CLIP's own preprocessing ignores.
    """

    values: Literal["auto", "type", "range"] | Annotated[float, Field(gt=0)] = "auto"
    alpha: Literal["drop", "white", "black"] = "drop"
    orientation: Literal["ignore", "apply"] = "ignore"


class ModelConfig(_Section):
    """Which CLIP: an open_clip model name and pretrained tag, or local-dir:PATH or hf-hub:ID (which need no tag).

    `pixels`: how image files are read for it; recorded with the model, because prompts belong to what they were trained on.
    """

    name: str = "ViT-B-16"
    pretrained: str | None = "laion2b_s34b_b88k"
    pixels: PixelsConfig = PixelsConfig()


class DataConfig(_Section):
    """Which images, and how they are chosen.

    `shots`: training images per class, 0 for all. `train_classes`: which of the classes to train on ('all', '10%', ...).
    `added`: SPECs of images whose classes were added to an artifact after its training; a training does not use them.
    `corrections`: folder of sorted images, of which those that a person moved to another class are trained on as well.
    `limit`: images per data set, for a quick trial. `on_error`: what a broken image does. `decoder`: what decodes JPEGs,
    PIL as in CLIP's own preprocessing, or torchcodec, which is faster and changes features slightly.
    """

    spec: str = "imagenet"
    root: str = "data"
    catalogue: str | None = None
    class_names: str | None = None
    train_classes: str = "all"
    shots: Annotated[int, Field(ge=0)] = 16
    added: tuple[str, ...] = ()
    corrections: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    on_error: OnError = "stop"
    decoder: Decoder = "pil"


class ContextConfig(_Section):
    """The context vectors: their number and where they start.

    `init` 'words' starts from the token embeddings of `words` (and has as many vectors as `words` has tokens); 'random'
    draws `length` vectors.
    """

    init: Literal["words", "random"] = "words"
    words: str = "a photo of a"
    length: Annotated[int, Field(ge=1, le=74)] = 16
    class_specific: bool = False


class SgdConfig(_Section):
    """SGD with a learning rate of someone's choice, for presets that prescribe it.

    `lr` belongs to `batch_size`, `momentum` and the model. `warmup` is the share of all steps with a rising rate; it then
    falls to zero along a cosine. `epochs` are added until `min_steps` steps are taken, since a few images make few batches.
    """

    lr: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)] = 64
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    min_steps: Annotated[int, Field(ge=0)] = 0


class ScheduleConfig(_Section):
    """How context vectors are trained. By default L-BFGS takes exact steps over all images, one per epoch, without a rate.

    `epochs` is the most passes over the images. `tolerance` stops L-BFGS once the last ten steps lowered the loss by less
    than this share of what all steps lowered it by (of 1 where that is less than 1). `classes_per_step` bounds memory and
    time of a step where classes are many: each step sees images of a random group of that many classes and encodes their
    prompts only, so an epoch has a step for each group at least; 0 is all classes. Steps are then Adam's, in units of the
    token embeddings' spread, and all epochs are done. `sgd` replaces either by SGD. `keep` is the epoch kept: the last or
    the best on the held-out share of the ID training images.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    classes_per_step: Annotated[int, Field(ge=0)] = 0
    keep: KeptEpoch = "last"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    sgd: SgdConfig | None = None


class PositiveConfig(_Section):
    """Stage 1.

    `loss` is the preset of the weights that follow: 'kgcoop', 'coop', 'fa' or 'locoop'; each is by preset if not given.
    `anchor` weighs the distance of the positive prompts from those of `context.words`, in units of the model's logit scale.
    `forced`: how often each of those is among the classes that an image's own prompt must beat. `patches` weighs the entropy
    of patches that do not show the class, which takes a vision transformer, image files, and memory for all their patches.
    """

    context: ContextConfig = ContextConfig()
    loss: PositiveLossName = "kgcoop"
    anchor: Annotated[float, Field(ge=0)] = POSITIVE_PRESETS["kgcoop"].anchor
    forced: Annotated[int, Field(ge=0)] = POSITIVE_PRESETS["kgcoop"].forced
    patches: Annotated[float, Field(ge=0)] = POSITIVE_PRESETS["kgcoop"].patches
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="before")
    @classmethod
    def _own_weights(cls, values: Any) -> Any:
        name = values.get("loss") if isinstance(values, dict) else None
        if isinstance(name, str) and (preset := POSITIVE_PRESETS.get(name)):
            return {**asdict(preset), **values}
        return values


def _preset(loss: Any) -> LossPreset | None:
    """The preset that the values of a loss section name, if they name one."""
    name = loss.get("name") if isinstance(loss, dict) else None
    return LOSS_PRESETS.get(name) if isinstance(name, str) else None


class LossConfig(_Section):
    """Stage 2's loss preset; `beta` weighs NPD, `gamma` NND, `contrast` the class term, each by preset if not given."""

    name: LossName = "separation"
    beta: Annotated[float, Field(ge=0)] = LOSS_PRESETS["separation"].beta
    gamma: Annotated[float, Field(ge=0)] = LOSS_PRESETS["separation"].gamma
    contrast: Annotated[float, Field(ge=0)] = LOSS_PRESETS["separation"].contrast

    @model_validator(mode="before")
    @classmethod
    def _own_weights(cls, values: Any) -> Any:
        if preset := _preset(values):
            return {"beta": preset.beta, "gamma": preset.gamma, "contrast": preset.contrast, **values}
        return values


class NegativeConfig(_Section):
    """Stage 2: `count` negatives per class, starting `noise` (standard deviation) around the positive context.

    `score`: the form of the score negprompt that the artifact gets, `standardised` or `paper`; the preset's own where not
    given.
    """

    count: Annotated[int, Field(ge=1, le=64)] = 2
    noise: Annotated[float, Field(ge=0)] = 0.02
    loss: LossConfig = LossConfig()
    score: ScoreForm = "standardised"
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="before")
    @classmethod
    def _own_score(cls, values: Any) -> Any:
        loss = values.get("loss") if isinstance(values, dict) else None
        if preset := _preset(loss):
            return {"score": preset.score, **values}
        return values


class EvaluateConfig(_Section):
    """Evaluation: OOD sets (SPECs), scores by name, and what the scores and metrics leave open.

    `scores`: 'all' means all that can be computed. `temperature`: tau of the softmax scores, on cosines. `template`: the
    zero-shot prompt with {} for the name, or the name of an ensemble ('openai-80', 'openai-7'). `templates`: an ensemble, or
    a file with one template per line, whose templates are tried one by one for the spread of zero-shot scores. `words`,
    `adjectives`: files of words for the forms of neglabel and for csp, WordNet's nouns and adjectives without one;
    `word_count` of them are chosen and put into `word_groups` groups at random. `next_classes`: N of logit-gap, null for a
    fifth of the classes. `neighbours`: k of knn. `shrinkage`: of mahalanobis, null to estimate it. `local_weight`: of
    gl-mcm's patches. `recalls`: recalls besides 95 % at which FPR is given. `ci`: whether intervals at `level` are
    bootstrapped from `resamples` resamples of the images, and scores compared with the best baseline on the same images.
    `test_time`: scores that learn from the images they test, by name; none by default. `stream_orders`: seeds of the orders
    in which they see them.
    """

    ood: tuple[str, ...] = ()
    scores: tuple[str, ...] = ("negprompt", "mcm", "mcm-zero-shot", "max-logit", "energy")
    temperature: Annotated[float, Field(gt=0)] = 1.0
    template: str = "a photo of a {}."
    templates: str | None = None
    words: str | None = None
    adjectives: str | None = None
    word_count: Annotated[int, Field(ge=1)] = 10_000
    word_groups: Annotated[int, Field(ge=1)] = 1
    next_classes: Annotated[int, Field(ge=1)] | None = None
    neighbours: Annotated[int, Field(ge=1)] = 5
    shrinkage: Annotated[float, Field(ge=0, le=1)] | None = None
    local_weight: Annotated[float, Field(ge=0)] = 1.0
    recalls: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    test_time: tuple[str, ...] = ()
    stream_orders: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    ci: bool = False
    resamples: Annotated[int, Field(ge=1)] = 1000
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95


class ComputeConfig(_Section):
    """Hardware; none of it changes results beyond rounding.

    `memory`: bytes for text activations ('auto', '4GiB'). `image_batch`: images per encoder batch, 0 to choose.
    `workers`: decoding processes, -1 to choose. `cache`: keep image features on disk. `runtime`: what runs the image
    encoder; onnx (onnxruntime, on the CPU) is faster for convolutional ones.
    """

    device: str = "auto"
    gpus: Annotated[int, Field(ge=1)] | None = None
    precision: Precision = "auto"
    runtime: Runtime = "torch"
    memory: str = "auto"
    image_batch: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=-1)] = -1
    cache: bool = True


class Config(_Section):
    """Everything that decides a result, in sections; `seed` drives sampling, initialisation and batch order."""

    seed: Annotated[int, Field(ge=0, lt=2**43)] = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    positive: PositiveConfig = PositiveConfig()
    negative: NegativeConfig = NegativeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compute: ComputeConfig = ComputeConfig()

    def to_yaml(self) -> str:
        """Write the configuration in the format `load_config` reads."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package."""
    return tuple(sorted(p.name.removesuffix(".yaml") for p in _preset_folder().iterdir() if p.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """Text of a shipped preset.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in preset_names():
        raise UsageError(f"Unknown preset '{name}'.{did_you_mean(name, preset_names())}")
    text: str = (_preset_folder() / f"{name}.yaml").read_text("utf-8")
    return text


@dataclass(frozen=True)
class Asked:
    """What a person asked for, before anything is filled in; `config` makes a configuration of it.

    A command needs the name of its data before it can find the artifact whose configuration is overridden by what was asked
    for. `values`: sections, keys and values as they were given.
    """

    values: Mapping[str, Any]

    @property
    def spec(self) -> str:
        """The ID data.

        Raises:
            UsageError: what was given for them is no text.
        """
        data = self.values.get("data", {})
        spec = data.get("spec", DataConfig().spec) if isinstance(data, Mapping) else None
        return spec if isinstance(spec, str) else self.config().data.spec

    def given(self, key: str) -> Any:
        """What was asked for under a dotted key; None where nothing was."""
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def over(self, keys: Mapping[str, Any]) -> "Asked":
        """The same with dotted keys on top; a value may be None."""
        values = deepcopy(dict(self.values))
        for key, value in keys.items():
            _put(values, key, value)
        return Asked(values)

    def config(self, base: Mapping[str, Any] | None = None) -> Config:
        """Resolve the configuration.

        Args:
            base: sections whose values are weaker than all that was asked for (what an artifact at hand says).

        Raises:
            UsageError: a key or value is wrong; the message names the key.
        """
        values = deepcopy(dict(base or {}))
        _merge(values, self.values)
        return _validate(values)


def ask_config(
    source: str | None = None, *, flags: Mapping[str, Any] | None = None, assignments: Iterable[str] = ()
) -> Asked:
    """Gather what was asked for; later arguments win over earlier ones.

    Args:
        source: a YAML file, or the name of a shipped preset.
        flags: dotted keys to values from options of a command.
        assignments: `key=value` texts, the value read as YAML.

    Raises:
        UsageError: the file is missing or not YAML, or an assignment is none; the message names it.
    """
    asked = Asked({} if source is None else _read(source)).over(flags or {})
    for assignment in assignments:
        key, found, text = assignment.partition("=")
        where = f"Setting {assignment[:SHOWN_CHARACTERS]}"
        if not found:
            raise UsageError(f"{where}: write key=value, for example negative.count=4.")
        asked = asked.over({key.strip(): _parse(text, where)})
    return asked


def load_config(
    source: str | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Resolve a configuration in one go: arguments and errors are those of `ask_config` and `Asked.config`."""
    return ask_config(source, flags=flags, assignments=assignments).config(base)


def parse_config(text: str, where: str) -> Config:
    """Read a configuration that `Config.to_yaml` wrote.

    Args:
        text: the YAML.
        where: what messages call it.

    Raises:
        UsageError: not YAML, or not a configuration.
    """
    values = _mapping(_parse(text, where), where)
    try:
        return _validate(values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def parse_bytes(text: str) -> int:
    """Read a size such as '4GiB', '512MB' or a bare number of bytes.

    Raises:
        UsageError: not a size.
    """
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {letter: 1024**power, f"{letter}ib": 1024**power, f"{letter}b": 1000**power}
    stripped = text.strip().lower()
    number = stripped.rstrip("kmgtib ")
    unit = stripped[len(number) :].strip()
    try:
        size = int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"'{text}' is not a size in bytes; write for example 4GiB, 512MiB or auto.") from None
    if size <= 0:
        raise UsageError(f"A size must be positive, not '{text}'.")
    return size


def _preset_folder() -> Any:
    """The folder of presets: inside the installed package, or at the top of a checkout."""
    packaged = resources.files("negprompt_cli") / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "configs"


def _read(source: str) -> dict[str, Any]:
    path = Path(source)
    if not path.is_file():
        if source in preset_names():
            return _mapping(_parse(preset_text(source), source), source)
        raise UsageError(
            f"Configuration {source!r} is neither a file nor a preset.{did_you_mean(source, preset_names())}",
            remedy="list-presets",
        )
    from negprompt_cli.data.files.yamlfile import read_yaml

    return _mapping(read_yaml(path, what="a configuration"), source)


def _parse(text: str, where: str) -> Any:
    from negprompt_cli.data.files.yamlfile import parse_yaml

    return parse_yaml(text, where)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{where}: a configuration is a mapping of keys to values.")
    return value


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _put(into: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        if into.get(section) is None:  # also a section that a weaker source leaves out
            into[section] = {}
        inner = into[section]
        if not isinstance(inner, dict):
            raise UsageError(f"'{dotted}' is not a configuration key: '{section}' has no keys below it.")
        into = inner
    into[last] = value


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _validate(values: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        text, far = _explain(error)
        raise UsageError(text, remedy="list-keys" if far else "") from None


def _explain(error: ValidationError) -> tuple[str, bool]:
    """The problems in words, and whether a key among them resembles none that exists."""
    lines, far = [], False
    problems = error.errors()
    for problem in problems[:SHOWN_PROBLEMS]:
        key = ".".join(str(p) for p in problem["loc"])[:SHOWN_CHARACTERS]
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _keys(Config), n=3, cutoff=0.5)
            far |= not near
            lines.append(f"Unknown configuration key '{key}'." + (f" Did you mean {', '.join(near)}?" if near else ""))
        else:
            lines.append(f"Configuration key '{key}': {problem['msg']} (got {_shown(problem['input'])}).")
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"And {len(problems) - SHOWN_PROBLEMS} more.")
    return "\n".join(lines), far


def _shown(value: Any) -> str:
    """A value as Python writes it, cut where it is longer than a person reads."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
