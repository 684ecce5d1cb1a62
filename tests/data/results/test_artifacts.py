"""Prompt artifacts: what is written is read, the same bytes for the same content, and what does not fit is refused."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import (
    Parent,
    Prompts,
    TrainingSummary,
    check_model,
    load_prompts,
    save_prompts,
)
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.errors import NegPromptError, UsageError

MODEL = ModelIdentity("tiny", None, "a" * 64)


def make(names: list[str], *, negatives: int = 2, length: int = 3, specific: bool = False, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    own = (len(names),) if specific else ()
    return Prompts(
        kind="negative" if negatives else "positive",
        positive=torch.randn(1, *own, length, 8, generator=generator),
        negative=torch.randn(negatives, *own, length, 8, generator=generator) if negatives else None,
        classes=tuple(ClassLabel(key=f"n{i:08d}", name=name, wnid=f"n{i:08d}") for i, name in enumerate(names)),
        model=MODEL,
        config=Config(seed=seed),
        learned_on=len(names),
        parents=(Parent(kind="positive", sha256="b" * 64),),
        training=(
            TrainingSummary(
                stage="positive", images=4, files_sha256="c" * 64, epoch=1, terms={"loss": 0.5}, accuracy=1.0
            ),
        ),
    )


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4),
    negatives=st.integers(0, 3),
    specific=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_round_trip(tmp_path: Path, names: list[str], negatives: int, specific: bool, seed: int):
    prompts = make(names, negatives=negatives, specific=specific, seed=seed)
    path = tmp_path / "x.safetensors"
    written = save_prompts(prompts, path)
    read = load_prompts(path)
    assert torch.equal(read.positive, prompts.positive)
    assert (read.negative is None) == (negatives == 0)
    if read.negative is not None:
        assert torch.equal(read.negative, prompts.negative)
    for field in ("kind", "classes", "model", "config", "learned_on", "parents", "training"):
        assert getattr(read, field) == getattr(prompts, field), field
    assert read.sha256 == written.sha256
    assert read.parent().sha256 == written.sha256


def test_same_content_same_bytes(tmp_path: Path):
    save_prompts(make(["a", "b"]), tmp_path / "1.safetensors")
    save_prompts(make(["a", "b"]), tmp_path / "2.safetensors")
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_opens_with_plain_safetensors(tmp_path: Path):
    save_prompts(make(["red fox"]), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="np") as opened:
        assert sorted(opened.keys()) == ["negative", "positive"]
        metadata = opened.metadata()
    assert metadata["schema"] == "negprompt/prompts/1"
    assert json.loads(metadata["classes"])[0]["name"] == "red fox"


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep: float):
    path = tmp_path / "cut.safetensors"
    save_prompts(make(["a", "b"]), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UsageError, match=r"cut\.safetensors"):
        load_prompts(path)


def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(UsageError, match="does not begin"):
        load_prompts(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 4000), value=st.integers(0, 255))
def test_a_changed_byte_reads_or_is_refused_but_never_crashes(tmp_path: Path, place: int, value: int):
    path = tmp_path / "x.safetensors"
    save_prompts(make(["a", "b"]), path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        load_prompts(path)
    except NegPromptError as error:
        assert "x.safetensors" in str(error)


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    return {"positive": torch.zeros(1, 3, 8), "negative": torch.zeros(2, 3, 8), **changes}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tensors(positive=torch.zeros(2, 3, 8)), "not one"),
        (tensors(positive=torch.zeros(3, 8)), "shape"),
        (tensors(negative=torch.zeros(2, 3, 9)), "width"),
        (tensors(negative=torch.full((2, 3, 8), torch.nan)), "finite"),
        (tensors(negative=torch.zeros(2, 5, 3, 8)), "5 classes"),
        (tensors(positive=torch.zeros(1, 3, 8, dtype=torch.int32)), "int32"),
        ({"positive": torch.zeros(1, 3, 8)}, "negatives are missing"),
        ({"negative": torch.zeros(2, 3, 8)}, "another version.*positive is missing"),
        (tensors(id_mean=torch.zeros(8)), "another version.*id_.* is missing"),
    ],
)
def test_inconsistent_tensors_are_refused(tmp_path: Path, content: dict[str, torch.Tensor], says: str):
    path = tmp_path / "x.safetensors"
    save_prompts(make(["a", "b"]), path)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(content, path, metadata)
    with pytest.raises(UsageError, match=says):
        load_prompts(path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("schema", "negprompt/prompts/9", "another version.*its schema is negprompt/prompts/9"),
        ("schema", "negprompt/features/1", "not a prompt artifact"),
        ("classes", "[]", "no classes"),
        ("classes", '[{"key": "a", "name": "a", "wnid": null}, {"key": "a", "name": "b", "wnid": null}]', "twice"),
        ("kind", "neutral", "another version.*kind"),
        ("config", "seed: -1", "another version.*seed"),
        ("config", "negative: {floors: 1}", "another version.*Unknown configuration key 'negative.floors'.$"),
        ("learned_on", "many", "another version.*learned_on"),
        ("config", "!!python/object/apply:os.system ['true']", "YAML"),
        ("model", "[]", "another version.*model"),
    ],
)
def test_inconsistent_metadata_is_refused(tmp_path: Path, key: str, value: str, says: str):
    path = tmp_path / "x.safetensors"
    save_prompts(make(["a", "b"]), path)
    with safe_open(path, framework="pt") as opened:
        metadata = {**opened.metadata(), key: value}
    save_file(tensors(), path, metadata)
    with pytest.raises(UsageError, match=says):
        load_prompts(path)


def reversed_classes(metadata: dict[str, str], content: dict[str, torch.Tensor]) -> None:
    metadata["classes"] = json.dumps(json.loads(metadata["classes"])[::-1])


def flipped_bit(metadata: dict[str, str], content: dict[str, torch.Tensor]) -> None:
    content["negative"].view(torch.int32)[0, 0, 0] ^= 1


def noted(metadata: dict[str, str], content: dict[str, torch.Tensor]) -> None:
    metadata["note"] = "mine"


@pytest.mark.parametrize(("change", "refused"), [(reversed_classes, True), (flipped_bit, True), (noted, False)])
def test_a_file_that_was_edited_is_refused_though_its_parts_fit(
    tmp_path: Path, change: Callable[[dict[str, str], dict[str, torch.Tensor]], None], refused: bool
):
    path = tmp_path / "x.safetensors"
    save_prompts(make(["a", "b"]), path)
    with safe_open(path, framework="pt") as opened:
        metadata, content = opened.metadata(), {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    change(metadata, content)
    save_file(content, path, metadata)
    if refused:
        with pytest.raises(UsageError, match=r"x\.safetensors was changed after it was written"):
            load_prompts(path)
    else:
        assert load_prompts(path).names == ["a", "b"]


def test_other_weights_and_widths_are_refused():
    prompts = make(["a"])
    check_model(prompts, MODEL, 8, Path("x"))
    with pytest.raises(UsageError, match="learned for tiny"):
        check_model(prompts, replace(MODEL, weights_sha256="d" * 64), 8, Path("x"))
    with pytest.raises(UsageError, match="width 8"):
        check_model(prompts, MODEL, 9, Path("x"))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.safetensors"):
        load_prompts(tmp_path / "none.safetensors")


def test_scores_do_not_depend_on_how_long_the_rest_of_the_file_is(tmp_path: Path):
    addresses = set()
    rows = torch.nn.functional.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    negatives = rows[2:6].view(2, 2, 16)
    found = IdStatistics.measure(rows, torch.arange(8) % 2, rows[:2], negatives, lambda *_: negatives, seed=0)
    for extra in range(9):
        path = tmp_path / f"{extra}.safetensors"
        save_prompts(replace(make(["a" * (8 * extra + 1), "b"]), id_statistics=found), path)
        read = load_prompts(path)
        assert read.id_statistics is not None
        addresses |= {tensor.data_ptr() % 64 for tensor in (read.positive, read.id_statistics.covariance)}
    # A product with a vector that starts elsewhere is rounded another way.
    assert addresses == {0}
