"""The configuration of a run: typed, validated, and written in the same format as it is read.

Values come from these sources, and each overrides those before it: the defaults below, a file or a preset of the package,
the options of a command, and assignments `key=value`. Unknown keys and wrong types are errors that name the key. Every
artifact holds the resolved configuration, from which its run can be repeated. `configs/README.md` has the sources of the
default values in the paper and the official code.

Where files are written and how output looks are not part of the configuration, because they do not change a result.
"""

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from negprompt_cli.choices import Decoder, KeptEpoch, OnError, Precision, Runtime
from negprompt_cli.errors import SHOWN_CHARACTERS, UsageError, did_you_mean, wrong_value
from negprompt_cli.loss_presets import (
    LOSS_PRESETS,
    POSITIVE_PRESETS,
    LossName,
    LossPreset,
    PositiveLossName,
    ScoreForm,
)

SHOWN_PROBLEMS = 20
"""Largest number of wrong keys that one message names."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PixelsConfig(_Section):
    """How image files become 8-bit RGB if there is more than one way; ordinary 8-bit images are unchanged.

    `values`: which value is white in grey images of more than 8 bits: 'auto' (the largest of the data type; an image that
    seems to use a smaller range is refused with a message that names its range), 'type' (the largest of the data type, even
    for dark images), 'range' (each image is stretched from its lowest to its highest value), or a number.
    `alpha`: how transparency is removed: 'drop' as in CLIP's own preprocessing, or a background colour.
    `orientation`: whether an EXIF orientation is applied; CLIP's own preprocessing ignores it.
    """

    values: Literal["auto", "type", "range"] | Annotated[float, Field(gt=0)] = "auto"
    alpha: Literal["drop", "white", "black"] = "drop"
    orientation: Literal["ignore", "apply"] = "ignore"


class ModelConfig(_Section):
    """Which CLIP: an open_clip model name and pretrained tag, or local-dir:PATH or hf-hub:ID (which need no tag).

    `pixels`: how image files are converted; recorded with the model, because prompts depend on it.
    """

    name: str = "ViT-B-16"
    pretrained: str | None = "laion2b_s34b_b88k"
    pixels: PixelsConfig = PixelsConfig()


class DataConfig(_Section):
    """Which images, and how they are chosen.

    `shots`: training images per class, 0 for all. `train_classes`: which of the classes to train on ('all', '10%', ...).
    `added`: SPECs of images whose classes were added to an artifact after its training; a training does not use them.
    `corrections`: folder of sorted images; those that a person moved to another class become training images too.
    `limit`: most images per data set, for a quick trial. `on_error`: whether a broken image stops the job or is skipped.
    `decoder`: 'pil' decodes JPEGs as CLIP's own preprocessing does; 'torchcodec' is faster and changes features slightly.
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
    """The context vectors: their number and initial values.

    `init` 'words' starts from the token embeddings of `words`, with one vector for each of its tokens; 'random' draws
    `length` vectors.
    """

    init: Literal["words", "random"] = "words"
    words: str = "a photo of a"
    length: Annotated[int, Field(ge=1, le=74)] = 16
    class_specific: bool = False


class SgdConfig(_Section):
    """SGD with a fixed initial learning rate, for presets that prescribe it.

    A good `lr` depends on `batch_size`, `momentum` and the model. The rate rises during the share `warmup` of all steps and
    then falls to zero along a cosine. If the epochs have fewer than `min_steps` steps together, as with few images, epochs
    are added.
    """

    lr: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)] = 64
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    min_steps: Annotated[int, Field(ge=0)] = 0


class ScheduleConfig(_Section):
    """How context vectors are trained. By default L-BFGS takes one step per epoch, over all images, with no learning rate.

    `epochs` is the largest number of passes over the images. `tolerance` stops L-BFGS when the last ten steps lowered the
    loss by less than this share of the total decrease (of 1 if the total is less than 1).

    `classes_per_step` limits the memory and time of a step for many classes; 0 means all classes. Each step uses images of a
    random group of that many classes and encodes only their prompts, so an epoch has at least one step per group. Adam then
    replaces L-BFGS, with steps in units of the token embeddings' spread, and all epochs are done.

    `sgd` replaces both by SGD. `keep` selects the epoch that is kept: the last one, or the best one on the held-out share of
    the ID training images.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    classes_per_step: Annotated[int, Field(ge=0)] = 0
    keep: KeptEpoch = "last"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    sgd: SgdConfig | None = None


class PositiveConfig(_Section):
    """Stage 1.

    `loss` is a preset of the weights below: 'kgcoop', 'coop', 'fa' or 'locoop'; a given weight replaces the preset's.
    `anchor` weights the distance of the positive prompts from those of `context.words`, in units of the model's logit scale.
    `forced` is how often each prompt of `context.words` is counted in the denominator of the cross-entropy.
    `patches` weights the entropy of patches that do not show the class; it needs a vision transformer, image files, and
    memory for all patches.
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
    """The preset that a loss section names, or None if it names no known one."""
    name = loss.get("name") if isinstance(loss, dict) else None
    return LOSS_PRESETS.get(name) if isinstance(name, str) else None


class LossConfig(_Section):
    """Stage 2's loss preset and its weights: `beta` of NPD, `gamma` of NND, `contrast` of the class term.

    A weight that is given replaces the preset's.
    """

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
    """Stage 2: `count` negatives per class, which start at the positive context plus noise of standard deviation `noise`.

    `score`: the form of the score negprompt for the artifact, `standardised` or `paper`; by default that of the loss preset.
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
    """Evaluation: OOD sets (SPECs), names of scores, and parameters of scores and metrics.

    `scores`: 'all' means all that can be computed. `temperature`: tau of the softmax scores, on cosines. `template`: the
    zero-shot prompt with {} for the name, or the name of an ensemble ('openai-80', 'openai-7', 'neglabel', 'csp'); words
    share it. `templates`: an ensemble, or a file with one template per line; each template is tried alone, to show the
    spread of the zero-shot scores. `words`, `adjectives`: files of words for csp and the variants of neglabel, by default
    WordNet's nouns and adjectives; `word_count` of them are chosen and divided into `word_groups` groups at random.
    `phrase_template`: template or ensemble ('csp-phrases') of csp's phrases, null for `template`. `next_classes`: N of
    logit-gap, null for a fifth of the classes; a calibrated artifact keeps its own. `neighbours`: k of knn. `shrinkage`:
    that of mahalanobis, null to estimate it. `local_weight`: weight of the patches in gl-mcm. `recalls`: recalls besides 95
    % at which FPR is given. `ci`: whether to bootstrap intervals at `level` from `resamples` resamples of the images, and
    to compare scores with the best baseline on the same images. `test_time`: names of scores that learn from the test
    images; none by default. `stream_orders`: seeds of the orders in which these scores see the images.
    """

    ood: tuple[str, ...] = ()
    scores: tuple[str, ...] = ("negprompt", "mcm", "mcm-zero-shot", "max-logit", "energy")
    temperature: Annotated[float, Field(gt=0)] = 1.0
    template: str = "a photo of a {}."
    templates: str | None = None
    words: str | None = None
    adjectives: str | None = None
    phrase_template: str | None = None
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
    """Hardware. These settings change results by rounding errors only.

    `memory`: bytes for text activations ('auto', '4GiB'). `image_batch`: images per encoder batch, 0 for automatic.
    `workers`: decoding processes, -1 for automatic. `cache`: whether to keep image features on disk. `runtime`: what runs
    the image encoder; onnx (onnxruntime, on the CPU) is faster for convolutional encoders.
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
    """All settings that affect a result, in sections. `seed`: random seed of sampling, initialisation and batch order."""

    seed: Annotated[int, Field(ge=0, lt=2**43)] = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    positive: PositiveConfig = PositiveConfig()
    negative: NegativeConfig = NegativeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compute: ComputeConfig = ComputeConfig()

    def to_yaml(self) -> str:
        """The configuration as YAML, in the format that `load_config` reads."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def preset_names() -> tuple[str, ...]:
    """Names of the presets in the package."""
    return tuple(sorted(p.name.removesuffix(".yaml") for p in _preset_folder().iterdir() if p.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """Text of a preset in the package.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in preset_names():
        raise UsageError(f"Unknown preset '{name}'.{did_you_mean(name, preset_names())}")
    text: str = (_preset_folder() / f"{name}.yaml").read_text("utf-8")
    return text


@dataclass(frozen=True)
class Asked:
    """The settings that a person gave, without defaults; `config` fills in the others.

    They are kept apart because a command first needs the name of its data to find an artifact, and then overrides that
    artifact's configuration by these settings. `values`: sections, keys and values as they were given. `names`: what the
    person called a key, if not by its name, for messages.
    """

    values: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """SPEC of the ID data.

        Raises:
            UsageError: the given value is not text.
        """
        data = self.values.get("data", {})
        spec = data.get("spec", DataConfig().spec) if isinstance(data, Mapping) else None
        return spec if isinstance(spec, str) else self.config().data.spec

    def given(self, key: str) -> Any:
        """The value given for a dotted key, or None."""
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def over(self, keys: Mapping[str, Any]) -> "Asked":
        """The same settings with these dotted keys set or replaced; a value may be None."""
        values = deepcopy(dict(self.values))
        for key, value in keys.items():
            _put(values, key, value)
        return Asked(values, {key: name for key, name in self.names.items() if key not in keys})

    def config(self, base: Mapping[str, Any] | None = None) -> Config:
        """Resolve the configuration.

        Args:
            base: sections whose values the given settings override, such as those of an artifact.

        Raises:
            UsageError: a key or value is wrong; the message names the key.
        """
        values = deepcopy(dict(base or {}))
        _merge(values, self.values)
        return _validate(values, self.names)


def ask_config(
    source: str | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> Asked:
    """Collect the given settings; later arguments override earlier ones.

    Args:
        source: a YAML file, or the name of a preset.
        flags: values by dotted key, from the options of a command.
        assignments: texts `key=value`; the value is read as YAML.
        names: what the person called the keys of `flags`, for messages.

    Raises:
        UsageError: the file is missing or not YAML, or an assignment is not of the form key=value; the message names it.
    """
    asked = replace(Asked({} if source is None else _read(source)).over(flags or {}), names=names or {})
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
    """Resolve a configuration: `ask_config` and `Asked.config` in one call, with their arguments and errors."""
    return ask_config(source, flags=flags, assignments=assignments).config(base)


def parse_config(text: str, where: str) -> Config:
    """Read a configuration that `Config.to_yaml` wrote.

    Args:
        text: the YAML.
        where: its name in messages.

    Raises:
        UsageError: the text is not YAML, or not a valid configuration.
    """
    values = _mapping(_parse(text, where), where)
    try:
        return _validate(values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def parse_bytes(text: str) -> int:
    """Read a size in bytes, such as '4GiB', '512MB' or '1000'.

    Raises:
        UsageError: the text is not a positive size.
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

    values: dict[str, Any] = {}
    for key, value in _mapping(read_yaml(path, what="a configuration"), source).items():
        # Keys may be written as for --set.
        if isinstance(key, str) and "." in key:
            _put(values, key, value)
        else:
            _merge(values, {key: value})
    return values


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
        if into.get(section) is None:  # the section is missing, or null in an earlier source
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


def _validate(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Config:
    """The configuration of these values; messages call a key by its name in `names`, such as an option."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems: dict[str, list[ErrorDetails]] = {}
        for problem in error.errors():
            # Other parts are places in a list, or kinds of values.
            key = ".".join(str(part) for part in problem["loc"] if str(part).isidentifier())
            problems.setdefault(key[:SHOWN_CHARACTERS], []).append(problem)
    lines, far = [], False
    for key, found in list(problems.items())[:SHOWN_PROBLEMS]:
        if found[0]["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _keys(Config), n=3, cutoff=0.5)
            far |= not near
            lines.append(f"Unknown configuration key '{key}'." + (f" Did you mean {', '.join(near)}?" if near else ""))
        else:
            lines.append(wrong_value((names or {}).get(key, f"Configuration key '{key}'"), found))
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"And {len(problems) - SHOWN_PROBLEMS} more.")
    raise UsageError("\n".join(lines), remedy="list-keys" if far else "")
