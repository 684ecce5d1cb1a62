"""The feature cache: what goes in comes out, and nothing damaged does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Recorder
from torch import Tensor

from negprompt_cli.data.encoding.feature_cache import FeatureStore, StoreKey, image_keys

KEY = StoreKey("model", "0" * 64, "preprocessing", "float32")


def keys_of(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def rows_of(*numbers: int) -> Tensor:
    return torch.tensor([[float(n), n + 0.5, -n] for n in numbers])


def store_in(root: Path, listener: Recorder | None = None, key: StoreKey = KEY) -> FeatureStore:
    return FeatureStore(key, progress=listener or Recorder(), root=root)


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def test_an_empty_store_knows_nothing(tmp_path: Path) -> None:
    features, known = store_in(tmp_path).get(keys_of(1, 2))
    assert features is None
    assert known.tolist() == [False, False]


def test_what_was_added_is_found_now_and_by_others(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add(keys_of(1, 2, 3), rows_of(1, 2, 3))
    store.add(keys_of(7, 5), rows_of(7, 5))
    for reader in (store, store_in(tmp_path)):
        features, known = reader.get(keys_of(5, 4, 1, 5, 3))
        assert known.tolist() == [True, False, True, True, True]
        assert features is not None
        assert torch.equal(features[np.flatnonzero(known)], rows_of(5, 1, 5, 3))
        assert not features[1].any()


@settings(max_examples=30)
@given(
    parts=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True), max_size=5),
    asked=st.lists(st.integers(0, 40), min_size=1, max_size=30),
)
def test_any_history_of_overlapping_lists(
    parts: list[list[int]], asked: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    for part in parts:
        store_in(root).add(keys_of(*part), rows_of(*part))
    everything = {n for part in parts for n in part}
    features, known = store_in(root).get(keys_of(*asked))
    assert known.tolist() == [n in everything for n in asked]
    for row, n in enumerate(asked):
        if n in everything:
            assert features is not None
            assert torch.equal(features[row], rows_of(n)[0])


@pytest.mark.parametrize("damage", ["truncated", "bit in a feature", "bit in a key", "empty", "not safetensors"])
def test_a_damaged_shard_is_dropped_with_a_notice(damage: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add(keys_of(1, 2), rows_of(1, 2))
    (first,) = shards(tmp_path)
    store.add(keys_of(3), rows_of(3))
    data = bytearray(first.read_bytes())
    if damage == "truncated":
        data = data[:-5]
    elif damage == "bit in a feature":
        # The features' bytes stand where 0.5 of the first row does.
        place = data.find(rows_of(1).numpy().tobytes())
        assert place > 0
        data[place + 4] ^= 1
    elif damage == "bit in a key":
        place = data.find(b"".join(keys_of(1, 2)))
        assert place > 0
        data[place] ^= 1
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(b"\xff" * 100)
    first.write_bytes(data)
    listener = Recorder()
    reader = store_in(tmp_path, listener)
    assert reader.get(keys_of(1, 2, 3))[1].tolist() == [False, False, True]
    assert len(listener.warned) == 1
    assert str(first) in listener.warned[0]
    assert not first.exists()
    reader.add(keys_of(1, 2), rows_of(1, 2))
    quiet = Recorder()
    assert store_in(tmp_path, quiet).get(keys_of(1, 2, 3))[1].all()
    assert quiet.warned == []


@pytest.mark.parametrize("field", ["model", "weights_sha256", "preprocessing", "precision"])
def test_features_of_another_kind_are_apart(field: str, tmp_path: Path) -> None:
    store_in(tmp_path).add(keys_of(1), rows_of(1))
    other = StoreKey(**{**KEY.__dict__, field: "other"})
    assert store_in(tmp_path, key=other).get(keys_of(1))[0] is None


def test_keys_change_with_place_size_and_time(tmp_path: Path) -> None:
    import os

    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.write_bytes(b"12")
        os.utime(path, ns=(10**18, 10**18))
    first, second = image_keys([a, b])
    assert first != second
    assert image_keys([a]) == [first]
    os.utime(a, ns=(10**18, 10**18 + 1))
    touched = image_keys([a])[0]
    a.write_bytes(b"123")
    os.utime(a, ns=(10**18, 10**18))
    assert len({first, touched, image_keys([a])[0]}) == 3


def test_keys_do_not_depend_on_how_a_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert image_keys([Path("a")]) == image_keys([tmp_path / "a"])


def test_a_missing_file_has_no_key(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        image_keys([tmp_path / "gone"])


def test_a_shard_damaged_or_gone_after_it_was_opened_gives_no_features(tmp_path: Path) -> None:
    store_in(tmp_path).add(keys_of(1, 2), rows_of(1, 2))
    (first,) = shards(tmp_path)
    store_in(tmp_path).add(keys_of(2, 3), rows_of(2, 3))
    listener = Recorder()
    reader = store_in(tmp_path, listener)
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    # What the damaged shard held as well is found in the other one.
    features, known = reader.get(keys_of(1, 2, 3))
    assert known.tolist() == [False, True, True]
    assert features is not None
    assert torch.equal(features[1:], rows_of(2, 3))
    assert len(listener.warned) == 1
    (second,) = shards(tmp_path)
    second.unlink()
    assert reader.get(keys_of(2, 3))[0] is None
    assert len(listener.warned) == 1


@settings(max_examples=50)
@given(keys=st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=8, unique=True))
def test_keys_of_any_bytes_are_told_apart(keys: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    store = store_in(tmp_path_factory.mktemp("store"))
    half = keys[: (len(keys) + 1) // 2]
    store.add(half, rows_of(*range(len(half))))
    features, known = store.get(keys)
    assert known.tolist() == [key in half for key in keys]
    assert features is not None
    assert torch.equal(features[: len(half)], rows_of(*range(len(half))))
