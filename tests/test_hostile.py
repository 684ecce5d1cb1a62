"""Hostile input: every reader of foreign bytes gives a value or refuses, in bounded time and memory, and nothing escapes.

The readers are the targets of `fuzz/targets.py`, shared with the coverage-guided fuzzer. Here they meet damaged examples
(hypothesis), and input made to do harm: headers that lie, bombs, links out of the target, programs in place of images.
"""

import ast
import gzip
import io
import json
import os
import stat
import struct
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from data_trees import jpeg, write, write_catalogue
from fuzz.targets import TARGETS, YAML_TARGETS, archive_bytes, artifact_parts, safetensors_bytes
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.torch import save

import negprompt_cli
from negprompt_cli.config import load_config
from negprompt_cli.data.encoding.cache_folder import list_stores
from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.data.files import tars
from negprompt_cli.data.files.textfile import read_lines, read_text
from negprompt_cli.data.files.yamlfile import MAX_YAML_BYTES, MAX_YAML_DEPTH, parse_yaml
from negprompt_cli.data.prepare import archives
from negprompt_cli.data.prepare.archives import unpack
from negprompt_cli.data.prepare.check import check_data
from negprompt_cli.data.prepare.download import download_set
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.results.evaluations import load_evaluation
from negprompt_cli.data.sets.catalogue import load_catalogue
from negprompt_cli.data.sets.image_list import format_list, read_image_list
from negprompt_cli.data.sets.naming import read_class_names
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.coop import read_checkpoint

MEBI = 1 << 20


@contextmanager
def bounded(*, seconds: float = 10.0, mebibytes: int = 64) -> Iterator[None]:
    """Fails where the body takes more processor time, or where Python holds more memory at once."""
    started = time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mebibytes * MEBI, f"{peak / MEBI:.0f} MiB at once"
    assert time.process_time() - started < seconds


# Any bytes


@st.composite
def damaged(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """A sound input with pieces changed, cut out, doubled, or put in that have broken readers before."""
    data = bytearray(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 9))
        data[place : place + length] = draw(
            st.one_of(
                st.binary(max_size=9),
                st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes(8, "little")),
                st.just(bytes(data[place : place + 40])),
                st.sampled_from(
                    (b"9" * 5000, b"[" * 400, b"\0", b"\r", b".nan", b"!!int x", b"&a *a", b"/../", b"~\0")
                ),
                st.sampled_from(
                    ("²".encode(), b"A" * 300, b"1e999", b'"', b"{", b"0001-01-01T00:00:00+14:00", b"\xff")
                ),
            )
        )
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    examples = target.examples()

    @settings(max_examples=30, deadline=timedelta(seconds=30), suppress_health_check=list(HealthCheck))
    @given(st.one_of(damaged(examples), st.binary(max_size=300)))
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            target(data, Path(folder))

    run()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_the_examples_are_read(name: str, tmp_path: Path) -> None:
    for number, data in enumerate(TARGETS[name].examples()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert TARGETS[name](data, folder) is not None


# YAML

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.dates(), st.datetimes()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@pytest.mark.parametrize("name", YAML_TARGETS)
def test_any_yaml_is_a_value_or_refused(name: str) -> None:
    known = [yaml.safe_load(text) for text in TARGETS[name].examples()]
    keys = sorted({key for value in known for key in _keys(value)})

    @settings(max_examples=25, deadline=timedelta(seconds=30), suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(keys), VALUES, max_size=5), st.sampled_from(known), st.sampled_from(keys))
    def run(values: dict[str, Any], base: Any, key: str) -> None:
        document = {**base, key: values} if isinstance(base, dict) else values
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name](yaml.safe_dump(document).encode(), Path(folder))

    run()


def _keys(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {str(key) for key in (value if isinstance(value, dict) else ())} | {k for v in inner for k in _keys(v)}


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize("name", YAML_TARGETS)
@pytest.mark.parametrize(
    "text", [LAUGHS, "{a: " * 50_000, "a: !!python/object/apply:os.system [touch harmed]"], ids=range(3)
)
def test_every_reader_of_yaml_refuses_bombs(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with bounded():
        assert TARGETS[name](text.encode(), tmp_path) is None
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30_000,
        "[\n" * 30_000,
        "- " * 30_000,
        "? " * 30_000,
        "a: " + "1:" * 20_000 + "1",
        "seed: 0x" + "f" * 30_000,
        "seed: " + "9" * 30_000,
        "# " + "x" * MAX_YAML_BYTES,
        "a: '" + "x" * MAX_YAML_BYTES,
        "!!python/name:os.system",
        "seed: !!int x",
        "a: !!timestamp x",
        "? [a]\n: b",
        "a: 0001-01-01T00:00:00+14:00",
        "a: 2001-99-99",
        "<<: 3",
        "- \0",
    ],
    ids=lambda text: text[:12],
)
def test_yaml_bombs_are_refused(text: str, tmp_path: Path) -> None:
    with bounded():
        assert TARGETS["config"](text.encode(), tmp_path) is None


def test_yaml_within_the_bounds_is_read() -> None:
    deep = "[" * (MAX_YAML_DEPTH) + "]" * MAX_YAML_DEPTH
    value = parse_yaml(deep, "text")
    for _ in range(MAX_YAML_DEPTH - 1):
        (value,) = value
    assert value == []
    with pytest.raises(UsageError, match=f"text, line 1: .*more than {MAX_YAML_DEPTH} deep"):
        parse_yaml(f"[{deep}]", "text")
    assert parse_yaml("# x\n" + "a: [1, 2.5, null, 'x']", "text") == {"a": [1, 2.5, None, "x"]}
    assert parse_yaml("a: &x [1, &y 2]\nb: *x\nc: *y", "text") == {"a": [1, 2], "b": [1, 2], "c": 2}
    with pytest.raises(UsageError, match="refers to the value that contains it"):
        parse_yaml("a: &x [*x]", "text")
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, MAX_YAML_DEPTH))
    with pytest.raises(UsageError, match=f"more than {MAX_YAML_DEPTH} deep"):
        parse_yaml(chain, "text")
    with pytest.raises(UsageError, match="aliases expanded"):
        parse_yaml(LAUGHS, "text")


@settings(max_examples=60)
@given(VALUES)
def test_plain_yaml_means_what_pyyaml_says(value: object) -> None:
    text = yaml.dump(value, Dumper=_Plain)
    try:
        expected = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return
    assert repr(parse_yaml(text, "text")) == repr(expected)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@pytest.mark.parametrize(
    "assignment",
    [
        "seed=99999999999999999999999",
        "seed=-1",
        "negative.schedule.sgd.lr=.inf",
        "positive.anchor=.nan",
        "seed=0x" + "f" * 9999,
    ],
    ids=lambda text: text[:24],
)
def test_numbers_that_no_run_can_use_are_refused(assignment: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(assignments=[assignment])
    assert len(str(caught.value)) < 600


def test_thousands_of_wrong_keys_are_not_all_listed(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "".join(f"key{i}: 1\n" for i in range(1000)).encode())
    with bounded(), pytest.raises(UsageError) as caught:
        load_config(str(file))
    assert len(str(caught.value).splitlines()) < 30
    assert "980 more" in str(caught.value)


# Lists


def test_files_that_are_no_text_or_never_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NUL"):
        read_lines(write(tmp_path / "a", b"cat\n\0dog\n"))
    with bounded(mebibytes=16), pytest.raises(UsageError, match="NUL"):
        read_lines(Path("/dev/zero"))
    long = write(tmp_path / "long", b"no end\n" * 800_000)
    with bounded(mebibytes=16), pytest.raises(UsageError, match="larger than 4 MiB, so it is not a list"):
        read_text(long, most=4 * MEBI, what="a list")


def test_millions_of_class_names(tmp_path: Path) -> None:
    many = write(tmp_path / "many.txt", b"cat\n" * 100_000)
    with bounded(), pytest.raises(UsageError, match="100000 classes"):
        read_class_names(many, ["cat_1", "dog"])
    more = write(tmp_path / "more.txt", b"a cat with a very long name, and no other\n" * 500_000)
    with bounded(mebibytes=64), pytest.raises(UsageError, match="larger than 16 MiB"):
        read_class_names(more, ["cat", "dog"])


def test_one_endless_line_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    for name in ("list.csv", "classnames.txt"):
        file = write(tmp_path / name, b"x" * 3_000_000)
        with bounded(mebibytes=64), pytest.raises(UsageError) as caught:
            _ = read_image_list(file) if name.endswith(".csv") else read_class_names(file, ["cat", "dog"])
        assert len(str(caught.value)) < 2000


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12), st.integers(-1, 99)),
        min_size=1,
        max_size=5,
    )
)
@example([("a\nb.jpg", 0)])
@example([("a\rb.jpg", 0)])
@example([("a\u2028b\x85.jpg", 0)])
@example([("# a.jpg", 0)])
@example([("caf\udce9.jpg", 0)])
def test_a_written_list_reads_back_or_is_not_written(rows: list[tuple[str, int]]) -> None:
    paths, labels = [path for path, _ in rows], [label for _, label in rows]
    try:
        text = format_list(paths, labels)
    except UsageError as error:
        assert "cannot contain" in str(error)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.txt"
        file.write_bytes(text.encode("utf-8"))
        assert [(line.path, line.label) for line in read_image_list(file).lines] == rows


@pytest.mark.parametrize("name", ["a\u2028b.jpg", "a\x85b.jpg", "a b.jpg", "é.jpg", "a\x1cb.jpg"])
def test_other_line_separators_may_stand_in_a_listed_name(name: str) -> None:
    assert format_list([name], [3]) == f"{name} 3\n"


# safetensors


def lies() -> dict[str, bytes]:
    """Headers that claim what is not so, each over eight honest bytes."""
    body = bytes(8)
    two = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "length 2^63": safetensors_bytes({"positive": two}, body, length=2**63),
        "length 2^64-1": safetensors_bytes({"positive": two}, body, length=2**64 - 1),
        "length beyond the file": safetensors_bytes({"positive": two}, body, length=4000),
        "length 0": safetensors_bytes({"positive": two}, body, length=0),
        "offsets beyond the file": safetensors_bytes(
            {"positive": {**two, "shape": [9], "data_offsets": [0, 36]}}, body
        ),
        "offsets backwards": safetensors_bytes({"positive": {**two, "data_offsets": [8, 0]}}, body),
        "offsets negative": safetensors_bytes({"positive": {**two, "data_offsets": [-8, 0]}}, body),
        "offsets huge": safetensors_bytes({"positive": {**two, "data_offsets": [2**63, 2**63 + 8]}}, body),
        "overlapping": safetensors_bytes({"positive": two, "negative": two}, body),
        "a hole": safetensors_bytes({"positive": {**two, "shape": [1], "data_offsets": [4, 8]}}, body),
        "more bytes than tensors": safetensors_bytes({"positive": two}, body * 9),
        "unknown type": safetensors_bytes({"positive": {**two, "dtype": "F7"}}, body),
        "no type": safetensors_bytes({"positive": {"shape": [2], "data_offsets": [0, 8]}}, body),
        "shape overflows": safetensors_bytes({"positive": {**two, "shape": [2**62, 2**62, 2**62]}}, body),
        "shape wraps to the size": safetensors_bytes({"positive": {**two, "shape": [2**63, 4]}}, body),
        "shape negative": safetensors_bytes({"positive": {**two, "shape": [-1, -2]}}, body),
        "shape of nothing, huge": safetensors_bytes({"positive": {**two, "shape": [0, 2**60], "data_offsets": [0, 0]}}),
        "shape of many ones": safetensors_bytes({"positive": {**two, "shape": [2] + [1] * 4000}}, body),
        "not JSON": safetensors_bytes(b"{'positive': 1}", body),
        "nested": safetensors_bytes(b'{"a":' * 200_000 + b"1" + b"}" * 200_000, body),
        "nested lists": safetensors_bytes(b"[" * 500_000, body),
        "not UTF-8": safetensors_bytes(b'{"\xff": 1}', body),
        "a number": safetensors_bytes(b"1", body),
        "metadata of numbers": safetensors_bytes({"__metadata__": {"schema": 1}, "positive": two}, body),
        "metadata nested": safetensors_bytes({"__metadata__": {"schema": {"a": "b"}}, "positive": two}, body),
        "names twice": safetensors_bytes(b'{"positive":%b,"positive":%b}' % ((json.dumps(two).encode(),) * 2), body),
        "no tensors": safetensors_bytes({"__metadata__": artifact_parts()[1]}),
        "another type": save({"positive": torch.zeros(1, 2, 4, dtype=torch.float8_e4m3fn)}, artifact_parts()[1]),
        "integers": save({"positive": torch.zeros(1, 2, 4, dtype=torch.int64)}, artifact_parts()[1]),
        "complex": safetensors_bytes(
            {
                "__metadata__": artifact_parts()[1],
                "positive": {"dtype": "C64", "shape": [1, 2, 4], "data_offsets": [0, 64]},
            },
            bytes(64),
        ),
        "booleans": save({"positive": torch.zeros(1, 2, 4, dtype=torch.bool)}, artifact_parts()[1]),
    }


@pytest.mark.parametrize("lie", lies())
@pytest.mark.parametrize("name", ["artifact", "cache-shard"])
def test_safetensors_headers_that_lie_are_refused(name: str, lie: str, tmp_path: Path) -> None:
    with bounded():
        assert TARGETS[name](lies()[lie], tmp_path) is None


DEEP = "[" * 100_000


@pytest.mark.parametrize("key", [key for key in artifact_parts()[1] if key not in ("seed", "kind")])
@pytest.mark.parametrize("value", [DEEP, '{"a":' * 100_000, "null", "9" * 5000, '"\\ud800"', LAUGHS, ""], ids=range(7))
def test_metadata_of_an_artifact_that_makes_no_sense(key: str, value: str, tmp_path: Path) -> None:
    tensors, metadata = artifact_parts()
    with bounded():
        assert TARGETS["artifact"](save(tensors, {**metadata, key: value}), tmp_path) is None or key == "config"


def test_an_artifact_larger_than_any_is_not_read(tmp_path: Path) -> None:
    tensors, metadata = artifact_parts()
    file = write(tmp_path / "large.safetensors", save(tensors, metadata))
    with file.open("rb+") as opened:
        opened.truncate(40 << 30)
    with bounded(seconds=2), pytest.raises(UsageError, match="is not a prompt artifact: it has 42949672960 bytes"):
        load_prompts(file)


@pytest.mark.parametrize("width", [8, 17])
def test_a_forged_shard_with_a_right_checksum_is_dropped(width: int, tmp_path: Path) -> None:
    import hashlib

    table, features = torch.zeros(2, width, dtype=torch.uint8), torch.ones(2, 3)
    digest = hashlib.sha256(table.numpy().tobytes() + features.numpy().tobytes()).hexdigest()
    data = save({"keys": table, "features": features}, {"schema": "negprompt/features/1", "sha256": digest})
    assert TARGETS["cache-shard"](data, tmp_path) is None


# JSON


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "9" * 5000, "\ud800".encode("utf-8", "surrogatepass")], ids=range(4)
)
def test_json_bombs(text: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    with bounded(), pytest.raises(UsageError):
        load_evaluation(write(tmp_path / "evaluation.json", content))
    monkeypatch.setenv("NEGPROMPT_CACHE", str(tmp_path))
    write(tmp_path / "features" / "x" / "store.json", content)
    assert [store.model for store in list_stores()] == ["unknown"]
    write(tmp_path / "downloads.json", content)
    write(tmp_path / "set.zip", archive_bytes("zip"))
    sets = load_catalogue(
        tmp_path,
        write_catalogue(
            tmp_path / "mine.yaml",
            {
                "mine": {
                    "title": "x",
                    "layouts": [{"by": "me", "images": "m"}],
                    "download": {"url": "http://x/set.zip", "makes": "m"},
                }
            },
        ),
    )
    with bounded(), pytest.raises(NegPromptError, match=r"downloads\.json"):
        download_set("mine", data_root=tmp_path, sets=sets, progress=Silent())
    assert not (tmp_path / "m").exists()


# Catalogues


@pytest.mark.parametrize("makes", ["../out", "/tmp/out", "a/../../out", ".", "", "..", "a\\..\\b"])
def test_a_catalogue_cannot_unpack_outside_the_data_root(makes: str, tmp_path: Path) -> None:
    entry = {
        "title": "x",
        "layouts": [{"by": "me", "images": "m"}],
        "download": {"url": "http://x/a.zip", "makes": makes},
    }
    with pytest.raises(UsageError, match="makes"):
        load_catalogue(tmp_path, write_catalogue(tmp_path / "mine.yaml", {"mine": entry}))


def test_subsets_of_subsets_without_end_are_refused(tmp_path: Path) -> None:
    sets: dict[str, object] = {"s0": {"title": "x", "layouts": [{"by": "me", "images": "m"}]}}
    sets |= {f"s{i}": {"title": "x", "subset": {"of": f"s{i - 1}", "classes": "0-1"}} for i in range(1, 100)}
    with bounded(seconds=20), pytest.raises(UsageError, match="more than 20 steps"):
        load_catalogue(tmp_path, write_catalogue(tmp_path / "mine.yaml", sets))


# Archives


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An uncompressed tar of hand-made members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def claimed(kind: bytes, size: int) -> bytes:
    """A tar header of this kind that claims a body of `size` bytes, and the beginning of that body."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(MEBI)


def refused(content: bytes, folder: Path, says: str, **bounds: Any) -> None:
    path = write(folder / "a.archive", content)
    with bounded(**bounds), pytest.raises(NegPromptError, match=says):
        unpack(path, folder / "made", progress=Silent())
    assert sorted(p.name for p in folder.iterdir()) == ["a.archive"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_longer_than_any_is_not_read_into_memory(kind: bytes, tmp_path: Path) -> None:
    with (tmp_path / "bomb").open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as stream:
        stream.write(claimed(kind, 150 * MEBI))
        for _ in range(150):
            stream.write(bytes(MEBI))
    content = (tmp_path / "bomb").read_bytes()
    (tmp_path / "bomb").unlink()
    assert len(content) < 4 * MEBI
    refused(content, tmp_path, "neither a tar nor|damaged", mebibytes=48)


@pytest.mark.parametrize("kind", ["zip", "tar", "behind the end", "sparse"])
def test_bombs_are_refused_before_anything_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "HARMLESS", 8 * MEBI)
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(20):
                archive.writestr(f"{i}.jpg", bytes(MEBI))
    elif kind == "sparse":
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40)}
        member.pax_headers["GNU.sparse.map"] = "0,1"
        buffer.write(tar_of((member, b"x")))
    else:
        with gzip.GzipFile(fileobj=buffer, mode="wb") as stream:
            stream.write(
                tar_of(*((tarfile.TarInfo(f"{i}.jpg"), bytes(MEBI)) for i in range(20 if kind == "tar" else 1)))
            )
            stream.write(bytes(20 * MEBI))
    refused(buffer.getvalue(), tmp_path, "decompresses to more than", mebibytes=48)


def test_more_files_than_any_set_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    refused(tar_of(*((tarfile.TarInfo(f"{i}.jpg"), b"") for i in range(51))), tmp_path, "more than 50 files")


@pytest.mark.parametrize("name", ["a\0b.jpg", "a/" * 3000 + "b.jpg"])
def test_names_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.pax_headers = {"path": name}
    refused(tar_of((member, b"x")), tmp_path, "is not a valid file name")


def test_a_file_in_place_of_a_folder_leaves_nothing(tmp_path: Path) -> None:
    members = [(tarfile.TarInfo("set/a"), b"x"), (tarfile.TarInfo("set/a/b.jpg"), b"x")]
    refused(tar_of(*members), tmp_path, "Temporary files were removed")


def test_sizes_that_lie_in_a_zip_leave_nothing(tmp_path: Path) -> None:
    content = bytearray(archive_bytes("zip"))
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    content[place + 24 : place + 28] = struct.pack("<I", 7)
    refused(bytes(content), tmp_path, "damaged")


def test_permissions_of_an_archive_are_ignored(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.jpg")
    member.mode, member.uid = 0o6777, 4321
    path = write(tmp_path / "a.tar", tar_of((member, b"x"), (tarfile.TarInfo("b/c.jpg"), b"y")))
    unpack(path, tmp_path / "made", progress=Silent())
    status = (tmp_path / "made" / "a.jpg").stat()
    assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)
    assert status.st_uid == os.getuid()


# Images


def test_a_postscript_file_is_not_handed_to_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harmed = tmp_path / "harmed"
    for name in ("gs", "gswin32c"):
        program = write(tmp_path / "bin" / name, f"#!/bin/sh\ntouch '{harmed}'\n".encode())
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    path = write(tmp_path / "photo.jpg", text)
    with pytest.raises(BrokenImage, match="not an image of a known format"):
        open_rgb(path)
    assert not harmed.exists()
    # PIL itself would have called the program, or the test shows nothing.
    with Image.open(path) as image, pytest.raises(Exception):  # noqa: B017
        image.load()
    assert harmed.exists()


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with bounded(seconds=2), pytest.raises(BrokenImage, match="not a regular file"):
            open_rgb(tmp_path / name)
    with pytest.raises(BrokenImage, match="too long"):
        open_rgb(tmp_path / ("x" * 300 + ".jpg"))
    with pytest.raises(BrokenImage, match="Cannot read"):
        open_rgb(tmp_path / "a\0b.jpg")


def bomb(form: str) -> bytes:
    """A few hundred bytes that claim an image of 10^10 pixels."""
    side = 100_000
    if form == "png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        buffer = io.BytesIO(b"\x89PNG\r\n\x1a\n")
        buffer.seek(8)
        PngImagePlugin.putchunk(buffer, b"IHDR", header)
        PngImagePlugin.putchunk(buffer, b"IDAT", b"x")
        return buffer.getvalue()
    if form == "bmp":
        return (
            b"BM"
            + struct.pack("<IHHI", 54, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        )
    if form == "ppm":
        return b"P6 100000 100000 255\n"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\2\0;"
    )


@pytest.mark.parametrize("form", ["png", "bmp", "ppm", "gif"])
def test_images_that_claim_to_be_huge_are_refused_before_they_are_decoded(form: str, tmp_path: Path) -> None:
    with bounded(seconds=2, mebibytes=8), pytest.raises(BrokenImage, match=r"exceeds limit.*Scale the image down"):
        open_rgb(write(tmp_path / f"a.{form}", bomb(form)))


def test_text_in_an_image_does_not_unfold_without_bound(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 100_000_000, zip=True)
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    assert path.stat().st_size < MEBI
    with bounded(mebibytes=32), pytest.raises(BrokenImage, match=r"(?i)too large"):
        open_rgb(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content", [b"\xff" * 60_000, b"II*\0\x08\0\0\0\x01\0" + b"\xff" * 12, b"MM\0*\0\0\0\x08", b"x"], ids=range(4)
)
def test_exif_data_that_make_no_sense_do_not_end_a_check(content: bytes, tmp_path: Path) -> None:
    plain = jpeg(1)
    segment = b"Exif\0\0" + content
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    for i, key in enumerate(("cat", "dog")):
        write(tmp_path / "set" / key / "good.jpg", jpeg(i))
        write(tmp_path / "set" / key / f"odd{i}.jpg", data + bytes(i))
    assert open_rgb(tmp_path / "set" / "cat" / "odd0.jpg").size == (8, 8)
    report = check_data(str(tmp_path / "set"), data_root=tmp_path, progress=Silent())
    assert report.decoded == 4
    assert report.problems == ()


def test_more_frames_than_anyone_looks_at_cost_nothing(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((200, 200), i % 256, dtype=np.uint8)) for i in range(400)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with bounded(seconds=2, mebibytes=8):
        assert open_rgb(tmp_path / "a.gif").getpixel((0, 0)) == (0, 0, 0)


# Checkpoints and the code itself


def test_a_compressed_checkpoint_is_not_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(64 * MEBI))
    with bounded(mebibytes=16), pytest.raises(UsageError, match="compressed"):
        read_checkpoint(path)


def test_nothing_in_the_package_loads_what_could_be_executed() -> None:
    seen = 0
    for file in Path(negprompt_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            where = f"{file.name}:{node.lineno}: {ast.unparse(node)}"
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads"), where
            assert not called.startswith(("marshal.", "shelve.", "dill.", "joblib.", "cloudpickle.")), where
            assert options.get("shell", "False") == "False", where
            assert options.get("allow_pickle", "False") == "False", where
            assert options.get("trust_remote_code", "False") == "False", where
            if called == "torch.load":
                seen += 1
                assert options.get("weights_only") == "True", where
            if called in ("yaml.load", "yaml.load_all"):
                seen += 1
                safe = ("_Loader", "_TextLoader", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)")
                assert options.get("Loader") in safe, where
            assert called not in ("yaml.unsafe_load", "yaml.full_load"), where
            assert not called.endswith((".extractall", ".extract")), where
    assert seen >= 2
