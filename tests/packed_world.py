"""Images in tar files, Parquet files and Hugging Face datasets, for tests."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def picture(number: int, form: str = "PNG") -> bytes:
    """An image file; each number has a colour of its own."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (37 * number % 256, 91 * number % 256, 151 * number % 256)).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, mode: str = "w") -> Path:
    """A tar file with plain files, in this order; `mode` "w:gz" compresses it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder: Path, counts: Sequence[int], *, classes: int = 2, name: str = "{:03d}.tar") -> list[Path]:
    """WebDataset's shards with `counts` samples each: .png, .cls and .json; classes in turn."""
    paths, number = [], 0
    for i, count in enumerate(counts):
        members: list[tuple[str, bytes]] = []
        for _ in range(count):
            label, key = number % classes, f"{number:06d}"
            members += [
                (f"{key}.png", picture(number)),
                (f"{key}.cls", str(label).encode()),
                (f"{key}.json", json.dumps({"label": label, "class_name": f"class {label}", "width": 40}).encode()),
            ]
            number += 1
        paths.append(write_tar(folder / name.format(i), members))
    return paths


def write_parquet(path: Path, numbers: Sequence[int], *, names: Sequence[str] = (), group: int = 3) -> Path:
    """A Parquet file as `datasets` writes it: structs of bytes and path, labels in turn, their names in the schema."""
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers]
    labels = [n % 2 for n in numbers]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": pyarrow.array(labels, pyarrow.int64())})
    if names:
        features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        document = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": document})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)
    return path
