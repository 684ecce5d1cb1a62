"""Configuration: what wins over what, what is refused, and that what is written is read back."""

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.config import Config, ask_config, load_config, parse_bytes, preset_names, preset_text
from negprompt_cli.errors import UsageError


def test_base_then_file_then_flags_then_set(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 2\nnegative: {count: 3, noise: 0.5}\nmodel: {name: from-file}\n")
    config = load_config(
        str(file),
        base={"model": {"name": "from-base", "pretrained": "from-base"}, "seed": 1},
        flags={"negative.count": 4, "data.shots": 8},
        assignments=["data.shots=9"],
    )
    assert config.model.pretrained == "from-base"
    assert config.model.name == "from-file"
    assert (config.seed, config.negative.noise) == (2, 0.5)
    assert config.negative.count == 4
    assert config.data.shots == 9


def test_part_of_a_section_keeps_the_stage_defaults():
    config = load_config(None, assignments=["positive.schedule.epochs=3", "negative.schedule.epochs=3"])
    assert config.positive.schedule.tolerance == Config().positive.schedule.tolerance
    assert config.negative.schedule.sgd is None


def test_a_rate_asks_for_sgd_over_whatever_was_there():
    for config in (load_config(None, flags={"negative.schedule.sgd.lr": 0.3}), load_config("quoted")):
        assert config.positive.schedule.sgd is None
        assert config.negative.schedule.sgd is not None
    changed = load_config("quoted", flags={"negative.schedule.sgd.lr": 0.3}).negative.schedule.sgd
    assert changed is not None
    assert (changed.lr, changed.batch_size, changed.momentum) == (0.3, 256, 0.9)
    with pytest.raises(UsageError, match=r"negative\.schedule\.sgd\.lr"):
        load_config(None, flags={"negative.schedule.sgd.batch_size": 64})


def test_a_section_that_a_file_leaves_out_is_there_once_a_key_of_it_is_given(tmp_path: Path):
    written = tmp_path / "written.yaml"
    written.write_text(Config().to_yaml(), "utf-8")
    config = load_config(str(written), assignments=["negative.schedule.sgd.lr=0.3"])
    assert config.negative.schedule.sgd is not None


def test_a_loss_preset_brings_its_weights_unless_they_are_given():
    quoted = load_config(None, flags={"negative.loss.name": "quoted"}).negative.loss
    assert (quoted.beta, quoted.gamma) == (0.1, 0.05)
    given = load_config(None, flags={"negative.loss.name": "quoted", "negative.loss.gamma": 2}).negative.loss
    assert (given.beta, given.gamma) == (0.1, 2.0)


@given(
    seed=st.integers(0, 2**40),
    shots=st.integers(0, 1000),
    lr=st.floats(1e-6, 10),
    words=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    ood=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=3),
)
def test_written_configurations_read_back(seed: int, shots: int, lr: float, words: str, ood: list[str]):
    flags = {
        "seed": seed,
        "data.shots": shots,
        "negative.schedule.sgd.lr": lr,
        "positive.context.words": words,
        "evaluate.ood": ood,
    }
    config = load_config(None, flags=flags)
    assert Config.model_validate(yaml.safe_load(config.to_yaml())) == config


def test_every_preset_is_valid_and_says_what_it_is():
    assert {"paper", "quoted", "official", "demo"} <= set(preset_names())
    for name in preset_names():
        load_config(name)
        assert preset_text(name).startswith("# ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("negativ: {}", "negative"),
        ("negative: {cout: 1}", "negative.count"),
        ("negative: {count: 0}", "negative.count"),
        ("seed: yes please", "seed"),
        ("- a list", "mapping"),
        ("a: &x [*x]", "alias"),
        ("{unclosed", "YAML"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
        ("a: " + "[" * 100_000, "YAML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, says: str):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_config(str(file))


def test_wrong_assignments_are_refused():
    with pytest.raises(UsageError, match="key=value"):
        load_config(None, assignments=["seed"])
    with pytest.raises(UsageError, match="has no keys below"):
        load_config(None, assignments=["seed=1", "seed.deeper=2"])


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_refused(text: str):
    with suppress(UsageError):
        assert isinstance(load_config(None, assignments=[f"negative={text}"]), Config)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("4GiB", 4 * 2**30), ("1.5 MiB", 3 * 2**19), ("2kb", 2000), ("3G", 3 * 2**30)]
)
def test_sizes(text: str, size: int):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "0", "4PiB", "1e400", "nan"])
def test_wrong_sizes_are_refused(text: str):
    with pytest.raises(UsageError):
        parse_bytes(text)


def test_what_was_asked_for_names_its_data_before_it_is_resolved() -> None:
    assert ask_config().spec == "imagenet"
    asked = ask_config(flags={"data.spec": "p1"})
    assert asked.spec == "p1"
    for wrong in (ask_config(flags={"data.spec": 3}), ask_config(assignments=["data=5"])):
        with pytest.raises(UsageError, match="'data"):
            _ = wrong.spec
    # What is put over it leaves it as it was.
    assert asked.over({"data.spec": "p2", "negative.score": "paper"}).config().negative.score == "paper"
    assert asked.config().negative.score == "standardised"
    assert asked.config({"data": {"spec": "p3", "shots": 2}}).data.shots == 2
    assert asked.config({"data": {"spec": "p3"}}).data.spec == "p1"


def test_a_preset_of_stage_1_brings_its_weights_and_given_weights_win():
    default = load_config().positive
    assert (default.loss, default.anchor, default.forced, default.patches) == ("kgcoop", 0.3, 0, 0.0)
    presets = {"coop": (0.0, 0, 0.0), "fa": (0.0, 3, 0.0), "kgcoop": (0.3, 0, 0.0), "locoop": (0.0, 0, 0.25)}
    for name, weights in presets.items():
        made = load_config(assignments=[f"positive.loss={name}"]).positive
        assert (made.anchor, made.forced, made.patches) == weights
    assert load_config(assignments=["positive.loss=fa", "positive.forced=1"]).positive.forced == 1
    assert load_config("paper").positive.anchor == 0.0
    with pytest.raises(UsageError, match=r"positive\.loss"):
        load_config(assignments=["positive.loss=fab"])


@pytest.mark.parametrize("text", ["negative: {count: 3}\nnegative: {noise: 1}\n", "seed: 1\nseed: 2\n"])
def test_a_key_that_comes_twice_is_refused(text: str, tmp_path: Path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"c\.yaml: not readable as YAML: the key '(negative|seed)' occurs twice"):
        load_config(str(tmp_path / "c.yaml"))


def test_keys_in_a_file_may_be_dotted_as_those_of_assignments(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("negative.count: 3\nnegative: {noise: 0.5}\nnegative.loss.name: quoted\n")
    negative = load_config(str(tmp_path / "c.yaml")).negative
    assert (negative.count, negative.noise, negative.loss.name) == (3, 0.5, "quoted")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [("evaluate.scores=mcm", "a list, such as"), ("negative=", "keys below this one"), ("data.spec=2024", "in quotes")],
)
def test_what_a_value_should_be_is_said_in_words(assignment: str, says: str):
    with pytest.raises(UsageError, match=says):
        load_config(None, assignments=[assignment])
