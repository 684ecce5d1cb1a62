"""What every reader of foreign bytes must do with any bytes: give a value, or refuse with the package's own error.

A target takes bytes and a folder to work in, feeds them to one reader as its input, and returns what that made of them
(None where it refused). Anything but `NegPromptError` escapes and is a finding. `examples` are sound inputs to begin from.
The same targets serve the property tests (`test_hostile.py`) and the coverage-guided fuzzer (`fuzz/run.py`).
"""

import io
import json
import shutil
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation_documents import evaluation, evaluation_row
from packed_world import picture, write_tar
from PIL import Image
from safetensors.torch import save

from negprompt_cli.config import Config, PixelsConfig, load_config
from negprompt_cli.data.encoding.feature_cache import FeatureStore, StoreKey
from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.data.prepare.archives import unpack
from negprompt_cli.data.results.artifacts import DIGEST, load_prompts
from negprompt_cli.data.results.checkpoints import content_digest
from negprompt_cli.data.results.evaluations import load_evaluation
from negprompt_cli.data.results.rowfile import COLUMNS, row_file
from negprompt_cli.data.sets.catalogue import load_catalogue
from negprompt_cli.data.sets.class_list import (
    ClassList,
    novel_names,
    ordered_classes,
    read_class_list,
)
from negprompt_cli.data.sets.flatlabels import find_flat_labels
from negprompt_cli.data.sets.imglist import list_source
from negprompt_cli.data.sets.naming import read_class_names
from negprompt_cli.data.sets.packed_source import packed_source
from negprompt_cli.data.sets.spec import select_indices, split_specs
from negprompt_cli.data.studies.experiments import load_experiment
from negprompt_cli.data.studies.grids import load_grid
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.coop import read_checkpoint

KEY = StoreKey("model", "0" * 64, "preprocessing", "float32")
KEYS = tuple(f"class {i}" for i in range(12))


@dataclass(frozen=True)
class Target:
    """One reader: `feed` gives it bytes in a folder, `examples` makes sound inputs."""

    feed: Callable[[bytes, Path], object]
    examples: Callable[[], list[bytes]]

    def __call__(self, data: bytes, folder: Path) -> object:
        """What the reader made of `data`, or None where it refused."""
        try:
            return self.feed(data, folder)
        except NegPromptError as error:
            assert str(error).strip(), "a refusal says why"
            assert len(str(error)) < 20_000 + 20 * min(len(data), 10_000), "a refusal can be read"
            return None


def written(data: bytes, folder: Path, name: str) -> Path:
    """A file with the bytes."""
    path = folder / name
    path.write_bytes(data)
    return path


def _artifact(data: bytes, folder: Path) -> object:
    prompts = load_prompts(written(data, folder, "prompts.safetensors"))
    assert torch.isfinite(prompts.positive).all()
    assert prompts.classes
    return prompts


def safetensors_bytes(header: dict[str, Any] | bytes, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with this header, which may lie about everything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@cache
def artifact_parts() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a sound artifact."""
    classes = [{"key": "cat", "name": "cat", "wnid": None}, {"key": "dog", "name": "dog", "wnid": None}]
    metadata = {
        "schema": "negprompt/prompts/1",
        "versions": "{}",
        "kind": "negative",
        "classes": json.dumps(classes),
        "model": json.dumps({"name": "tiny", "pretrained": None, "weights_sha256": "0" * 64}),
        "config": Config().to_yaml(),
        "seed": "0",
        "learned_on": "2",
        "parents": "[]",
        "training": "[]",
    }
    generator = torch.Generator().manual_seed(0)
    shapes = {"positive": (1, 3, 4), "negative": (2, 3, 4)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors, metadata | {DIGEST: content_digest(metadata, tensors)}


def _shard(data: bytes, folder: Path) -> object:
    store = folder / "features" / KEY.folder
    store.mkdir(parents=True, exist_ok=True)
    shard = written(data, store, "shard.safetensors")
    features, known = FeatureStore(KEY, progress=Silent(), root=folder).get([b"\0" * 16])
    assert shard.exists() or not known.any(), "a dropped shard is not used"
    shard.unlink(missing_ok=True)
    return features


@cache
def _shards() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(KEY, progress=Silent(), root=Path(folder))
        store.add([b"\0" * 16, b"\1" * 16], torch.ones(2, 3))
        (shard,) = Path(folder).rglob("*.safetensors")
        return [shard.read_bytes()]


def _imglist(suffix: str) -> Callable[[bytes, Path], object]:
    def feed(data: bytes, folder: Path) -> object:
        for name in ("cat", "dog"):
            (folder / name).mkdir(exist_ok=True)
            written(b"x", folder / name, "a.jpg")
        file = written(data, folder, f"list{suffix}")
        made = None
        for role in ("train", "eval", "ood"):
            try:
                source = list_source(file, role, data_root=folder)
                made = [source.list_class(key) for key in source.keys or ("",)]
            except UsageError:
                continue
        return made

    return feed


def _class_names(data: bytes, folder: Path) -> object:
    names = read_class_names(written(data, folder, "classnames.txt"), KEYS).names
    assert set(names) <= set(KEYS)
    return names


def _class_list(suffix: str) -> Callable[[bytes, Path], object]:
    def feed(data: bytes, folder: Path) -> ClassList:
        listed = read_class_list(written(data, folder, f"classes{suffix}"))
        assert all(entry.name == " ".join(entry.name.split()) for entry in listed.entries)
        assert listed.entries and all(entry.name for entry in listed.entries)
        assert listed.decisions[0].kind == "class-names-form"
        classes = ordered_classes(listed)
        assert len({c.key for c in classes}) == len(classes) == len(listed)
        assert 0 < len(novel_names(listed).classes) <= len(listed)
        return listed

    return feed


def _flat_labels(data: bytes, folder: Path) -> object:
    images = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in range(1, 4)]
    made = []
    for name in ("LOC_val_solution.csv", "val_annotations.txt", "data/ILSVRC2012_validation_ground_truth.txt"):
        place = folder / name.replace("/", "_")
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        written(data, place, name)
        if name.startswith("data/"):
            written(data, place / "data", "meta.mat")
        try:
            made.append(find_flat_labels(images, [place]))
        except UsageError:
            continue
    return made or None


def _selector(data: bytes, folder: Path) -> object:
    text = data.decode("utf-8", "replace")
    return [select_indices(spec, KEYS, folders=[folder]) for spec in split_specs(text)]


def _archive(data: bytes, folder: Path) -> object:
    inner = folder / "inner"
    inner.mkdir(exist_ok=True)
    path = written(data, inner, "a.archive")
    target = inner / "made"
    try:
        unpack(path, target, progress=Silent())
    finally:
        path.unlink()
        left = sorted(p.name for p in inner.iterdir())
        outside = sorted(p.name for p in folder.iterdir())
        assert left in ([], ["made"]), f"left beside the target: {left}"
        assert outside == ["inner"], f"written outside: {outside}"
    files = list(target.rglob("*"))
    assert all(p.is_file() or p.is_dir() for p in files)
    assert not any(p.is_symlink() for p in files)
    shutil.rmtree(target)
    return files


def archive_bytes(kind: str) -> bytes:
    """A small sound archive: "zip", "tar", "gz", "bz2" or "xz"."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("set/a.jpg", b"a" * 500)
            archive.writestr("set/b/c.jpg", b"c")
    else:
        mode: Any = "w" if kind == "tar" else f"w:{kind}"
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for name, content in (("set/a.jpg", b"a" * 500), ("set/" + "long" * 40 + ".jpg", b"c")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _tar_images(data: bytes, folder: Path) -> object:
    shard = written(data, folder, "shard.tar")
    source = packed_source(str(shard), [shard], "ood")
    paths = [source.root / name for key in source.keys or ("",) for name in source.list_class(key)]
    for path in paths:
        with suppress(BrokenImage):
            open_rgb(path)
    return paths


def _tars() -> list[bytes]:
    members = [("a/1.png", picture(1)), ("a/1.cls", b"0"), ("a/1.json", b'{"label": 0, "class_name": "cat"}')]
    with tempfile.TemporaryDirectory() as folder:
        return [write_tar(Path(folder) / "a.tar", members, mode=mode).read_bytes() for mode in ("w", "w:gz")]


def _image(data: bytes, folder: Path) -> object:
    image = open_rgb(
        written(data, folder, "image.jpg"), PixelsConfig(values="type", alpha="white", orientation="apply")
    )
    assert image.mode == "RGB"
    return image


@cache
def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    made = []
    for form, mode in (
        *((f, "RGB") for f in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")),
        ("JPEG", "CMYK"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("PNG", "1"),
        ("PNG", "RGBA"),
        ("TIFF", "F"),
    ):
        buffer = io.BytesIO()
        source = image.convert("L").convert("I") if mode == "I;16" else image
        exif = Image.Exif()
        exif[0x0112] = 6
        source.convert(mode).save(buffer, form, **({"exif": exif} if form in ("JPEG", "WEBP") else {}))
        made.append(buffer.getvalue())
    return made


def _evaluation(data: bytes, folder: Path) -> object:
    return load_evaluation(written(data, folder, "evaluation.json"))


def _evaluations() -> list[bytes]:
    return [json.dumps(evaluation([evaluation_row()]).document()).encode()]


def _rows(form: str) -> Callable[[bytes, Path], object]:
    def feed(data: bytes, folder: Path) -> object:
        path = folder / f"rows.{form}"
        part = folder / f"rows.{form}.part"
        written(data, folder, part.name)
        try:
            with row_file(path, form, append=True) as file:
                return len(file.known)
        finally:
            path.unlink(missing_ok=True)
            part.unlink(missing_ok=True)

    return feed


def _checkpoint(data: bytes, folder: Path) -> object:
    return read_checkpoint(written(data, folder, "model.pth.tar-1"))


def _checkpoints() -> list[bytes]:
    made = []
    scheduler = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1), [1])
    for more in ({}, {"scheduler": scheduler, "val_result": Path("x")}):
        buffer = io.BytesIO()
        torch.save({"state_dict": {"ctx": torch.ones(2, 4)}, **more}, buffer)
        made.append(buffer.getvalue())
    return made


def _texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


_CATALOGUE = "sets:\n  mine: {title: Mine, layouts: [{by: me, images: mine}], images: {eval: 3}}\n"
_GRID = "problems:\n  near: {id: a#0-9, ood: [b]}\nseeds: [0, 1]\ngrid: {negative.count: [1, 2]}\n"
_EXPERIMENT = "mine: {title: x, benchmarks: [{name: y, tasks: [{id: a, ood: [b]}]}]}\n"

TARGETS = {
    "artifact": Target(_artifact, lambda: [save(*artifact_parts())]),
    "cache-shard": Target(_shard, _shards),
    "class-names": Target(_class_names, _texts("class 1 cat\nclass 2\tdog\n", "\n".join("abcdefghijkl"))),
    "class-list": Target(
        _class_list(""),
        _texts(
            "cat\n# no\ndog\n",
            "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
            "1 cat\n2 dog\n",
            "cat\t0\ndog\t1\n",
            "1. cat\n2. dog\n",
            "names:\n  0: cat\n  1: dog\n",
            "{0: 'cat', 1: 'dog'}",
        ),
    ),
    "class-json": Target(
        _class_list(".json"),
        _texts(
            '["cat", "dog"]',
            '{"0": ["n01440764", "tench"], "1": "dog"}',
            '{"cat": 0, "dog": 1}',
            '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}',
            '{"id": 0, "name": "cat"}\n{"id": 1, "name": "dog"}\n',
        ),
    ),
    "class-table": Target(_class_list(".csv"), _texts("id,name\n0,cat\n1,dog\n", 'sep=;\nname;id\n"a; b";1\nc;0\n')),
    "class-yaml": Target(_class_list(".yaml"), _texts("names: [cat, 'no']\nnc: 2\n", "- cat\n- dog\n")),
    "imglist": Target(
        _imglist(".txt"),
        _texts(
            "cat/a.jpg 0\ndog/a.jpg 1\nb c.jpg -1\n",
            "cat/a.jpg\ndog/b.png\n",
            "cat/a.jpg a cat\ndog/a.jpg dog\n",
            '"cat/a.jpg",0\n"dog/a.jpg",1\n',
            "cat\\a.jpg\tcat\ndog\\a.jpg\tdog\n",
            "cat/a.jpg\0dog/a.jpg\0",
        ),
    ),
    "image-table": Target(
        _imglist(".csv"),
        _texts(
            "path,label,split\ncat/a.jpg,cat,train\ndog/a.jpg,dog,val\n", "image;cat\ncat/a.jpg;1.0\ndog/a.jpg;0.0\n"
        ),
    ),
    "image-json": Target(
        _imglist(".json"),
        _texts(
            '{"train": [["cat/a.jpg", 0, "cat"]], "test": [["dog/a.jpg", 1, "dog"]]}',
            '[{"file_name": "cat/a.jpg", "label": 0}, {"file_name": "dog/a.jpg", "label": {"label": 1}}]',
            '{"classes": ["cat", "dog"], "labels": {"cat/a": 0, "dog/a": 1}}',
            '{"cat/a.jpg": "cat", "dog/a.jpg": "dog"}',
            '{"cat": ["cat/a.jpg"], "dog": ["dog/a.jpg"]}',
        ),
    ),
    "image-lines": Target(
        _imglist(".jsonl"), _texts('{"image": "cat/a.jpg", "class": "cat"}\n{"image": "dog/a.jpg", "class": "dog"}\n')
    ),
    "protocol-csv": Target(_imglist(".csv"), _texts("cat/a.jpg,0\ndog/a.jpg,1\nb.jpg,-1\nc.jpg,-2\n")),
    "flat-labels": Target(
        _flat_labels,
        _texts("ILSVRC2012_val_00000001,n01440764 1 2\n", "ILSVRC2012_val_00000001.JPEG\tn01440764\t1\n", "1\n2\n3\n"),
    ),
    "selector": Target(_selector, _texts("a#0-4,7,b", "x#1 - 3")),
    "config": Target(
        lambda data, folder: load_config(str(written(data, folder, "config.yaml"))),
        _texts(Config().to_yaml(), "seed: 3\nnegative: {loss: {name: quoted}, score: paper}\n"),
    ),
    "set": Target(lambda data, _: load_config(assignments=[data.decode("utf-8", "replace")]), _texts("seed=3")),
    "catalogue": Target(
        lambda data, folder: load_catalogue(folder, written(data, folder, "mine.yaml")), _texts(_CATALOGUE)
    ),
    "grid": Target(
        lambda data, folder: load_grid(written(data, folder, "grid.yaml")).settings_by_variant(), _texts(_GRID)
    ),
    "experiments": Target(
        lambda data, folder: load_experiment("mine", written(data, folder, "experiments.yaml")), _texts(_EXPERIMENT)
    ),
    "evaluation": Target(_evaluation, _evaluations),
    "rows-csv": Target(_rows("csv"), _texts(",".join(COLUMNS) + "\na.jpg,cat,cat,0.5,0.5,,,,,\n")),
    "rows-jsonl": Target(
        _rows("jsonl"), _texts(json.dumps({**dict.fromkeys(COLUMNS), "path": "a.jpg", "score": 1.0}) + "\n")
    ),
    "archive": Target(_archive, lambda: [archive_bytes(kind) for kind in ("zip", "tar", "gz", "bz2", "xz")]),
    "tar-images": Target(_tar_images, _tars),
    "image": Target(_image, _images),
    "checkpoint": Target(_checkpoint, _checkpoints),
}
"""Every reader of foreign bytes, by name."""

YAML_TARGETS = ("config", "catalogue", "grid", "experiments")
