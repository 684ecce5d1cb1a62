"""Read the tensors of a file that `torch.save` wrote, without executing anything in it.

Training code often saves optimisers, schedulers and settings together with its tensors. These are pickled objects of classes
that are not installed here and must not be executed. The pickle is therefore interpreted with a fixed list of names:
storages, and the functions that rebuild plain tensors from them. Dictionaries are read as dictionaries. Every other name
becomes an inert object that accepts any arguments, does nothing and stores nothing. Tensors are read from the zip archive
on demand.

The format is that of torch.save since version 1.6: an uncompressed zip archive with `data.pkl` and one file of raw bytes per
storage. torch's own weights-only reader reads older files; it refuses other objects. safetensors files are supported too.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor

from negprompt_cli.data.files.impostors import impostor
from negprompt_cli.errors import UsageError

MAX_PICKLE_BYTES = 4 << 20
"""Largest pickle. It has the names of tensors but not their values; that of a CLIP with its optimiser is below 1 MB."""
MAX_NAMES = 1000
"""Largest number of different classes and functions that a pickle may name."""
MAX_DEPTH = 8
_DTYPES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


class _Refused(Exception):
    """The pickle contains an operation that a file of tensors does not need."""


class _Fixed:
    """An object that a pickle may create but not change."""

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes a tensor after creating it")


@dataclass(frozen=True)
class StoredTensor(_Fixed):
    """A tensor in a file: its shape and a function that reads it. `load` raises UsageError if bytes are missing."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


@dataclass(frozen=True)
class TensorFile:
    """The content of a file: `tensors` by dotted path. `other` says what the root is if it is not a dictionary."""

    tensors: Mapping[str, StoredTensor]
    other: str = ""


class Inert:
    """A placeholder for an object of another program: accepts any arguments, does nothing, stores nothing."""

    origin = ""

    def __new__(cls, *_args: Any, **_more: Any) -> "Inert":
        """Ignore the arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_more: Any) -> None:
        pass

    def _ignore(self, *_args: Any, **_more: Any) -> "Inert":
        return self

    __call__ = __setitem__ = __setstate__ = append = extend = add = _ignore


class _Mapping(dict[Any, Any]):
    """A dictionary of any type; attributes that torch adds to it are ignored."""

    def __init__(self, items: Any = (), *_args: Any) -> None:
        super().__init__(items if isinstance(items, list | tuple | dict) else ())

    def __setstate__(self, state: Any) -> None:
        """Ignore them."""


@dataclass(frozen=True)
class _StorageKind(_Fixed):
    dtype: torch.dtype | None


@dataclass(frozen=True)
class _Storage(_Fixed):
    key: str
    dtype: torch.dtype | None
    numel: int


class _Rebuild(_Fixed):
    """Replaces torch's functions that rebuild plain tensors; it only records what is to be read."""

    def __init__(
        self, what: str, read: Callable[[_Storage, torch.dtype, int, tuple[int, ...], tuple[int, ...]], Tensor]
    ):
        self._what, self._read = what, read

    def __call__(self, *args: Any) -> Any:
        if self._what == "_rebuild_from_type_v2":
            rebuild, _, inner, *_ = args
            return rebuild(*inner) if isinstance(rebuild, _Rebuild) else Inert()
        if self._what.startswith("_rebuild_parameter"):
            return args[0]
        storage, offset, size, stride, *more = args
        dtype = more[2] if self._what == "_rebuild_tensor_v3" else None
        dtype = dtype if isinstance(dtype, torch.dtype) else storage.dtype if isinstance(storage, _Storage) else None
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or dtype is None or len(size) != len(stride):
            return Inert()
        if not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise _Refused("a tensor has a negative size")
        return StoredTensor(tuple(size), partial(self._read, storage, dtype, offset, tuple(size), tuple(stride)))


# The Python implementation is used, because the one in C allocates as much memory as a file claims to need.
class _Reader(pickle._Unpickler):
    """Interprets a pickle with the fixed list of names."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes, read: Callable[..., Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self._read, self._inert = read, dict[str, type[Inert]]()

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement for a name; only torch's number types are returned themselves."""
        if module == "torch" and name in _DTYPES:
            return _StorageKind(_DTYPES[name])
        if (module, name) in {("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage")}:
            return _StorageKind(None)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if module in ("torch._utils", "torch._tensor") and name in {
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_from_type_v2",
        }:
            return _Rebuild(name, self._read)
        if module == "collections" and name in ("OrderedDict", "defaultdict"):
            return _Mapping
        origin = f"{module}.{name}"
        if origin not in self._inert:
            if len(self._inert) >= MAX_NAMES:
                raise _Refused(f"it names more than {MAX_NAMES} classes and functions")
            self._inert[origin] = type("Inert", (Inert,), {"origin": origin})
        return self._inert[origin]

    def get_extension(self, code: int) -> None:
        """Refuse extension codes, which only the process that wrote the pickle could resolve."""
        raise _Refused(f"it uses pickle's extension code {code}")

    def _refuse_bytearray(self) -> None:
        raise _Refused("it would allocate memory without any data for it")

    dispatch[pickle.BYTEARRAY8[0]] = _refuse_bytearray

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage with a key."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageKind):
            raise _Refused("it refers to something that is not a storage of numbers")
        _, kind, key, _, numel, *_ = pid
        if not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
            raise _Refused("a storage has no size")
        return _Storage(key, kind.dtype, numel)


def read_tensors(path: Path) -> TensorFile:
    """Find the tensors in a file without executing anything in it.

    Raises:
        UsageError: the file is unreadable, damaged or compressed, or an old file with more than tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            return _from_zip(path)
        with path.open("rb") as file:
            start = file.read(9)
        if path.suffix == ".safetensors" or start[8:] == b"{":
            return _from_safetensors(path)
        return _found(torch.load(path, map_location="cpu", weights_only=True))
    except (UsageError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "Unsupported class" not in str(error):
            raise _unreadable(path) from None
        raise UsageError(
            f"{path} is refused: torch before 1.6 saved it, and it contains more than tensors, so reading it could execute "
            "code. If you trust it, load it and save only its tensors: "
            "torch.save({'state_dict': checkpoint['state_dict']}, FILE)."
        ) from None
    except Exception:  # For a damaged file, readers raise errors of any type with unhelpful texts.
        raise _unreadable(path) from None


def _unreadable(path: Path) -> UsageError:
    known = impostor(path)
    return UsageError(
        f"{path} is not a readable checkpoint: "
        + (known or "it is damaged, or it is neither a torch.save nor a safetensors file. Copy it again.")
    )


def _from_zip(path: Path) -> TensorFile:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any("/code/" in member.filename for member in members):
            return TensorFile({}, "a TorchScript program")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise UsageError(f"{path} is refused: it is a compressed archive, which torch.save never writes.")
        names = [member.filename for member in members]
        pickles = [
            member for member in members if member.filename.count("/") == 1 and member.filename.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise UsageError(f"{path} is a zip archive, but torch.save did not write it: it has no data.pkl.")
        folder = pickles[0].filename.removesuffix("data.pkl")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise UsageError(f"{path} is refused: its pickle has {pickles[0].file_size} bytes, more than tensors need.")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"
        if order.strip() != b"little":
            raise UsageError(f"{path} was written on a machine with another byte order. Save it again on this machine.")
        data = archive.read(pickles[0])
    return _found(_Reader(data, partial(_read_storage, path, folder)).load())


def _from_safetensors(path: Path) -> TensorFile:
    with safe_open(path, framework="pt") as opened:
        if (opened.metadata() or {}).get("schema", "").startswith("negprompt/"):
            return TensorFile({}, "an artifact of negprompt already")
        return _found({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 - not a dict


def _read_storage(
    path: Path,
    folder: str,
    storage: _Storage,
    dtype: torch.dtype,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
) -> Tensor:
    """Read one tensor.

    Raises:
        UsageError: the archive has fewer bytes than the tensor needs.
    """
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if 0 not in size else 0
    with zipfile.ZipFile(path) as archive:
        try:
            data = bytearray(archive.read(f"{folder}data/{storage.key}"))
        except KeyError:
            data = bytearray()
    # A view must stay within its storage, and repeated elements (stride 0) must not make it larger than the storage.
    if reach * dtype.itemsize > len(data) or torch.Size(size).numel() * dtype.itemsize > len(data):
        raise UsageError(f"{path} is damaged: a tensor of shape {size} has only {len(data)} bytes. Copy it again.")
    if not data:
        return torch.empty(size, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
    return flat.as_strided(size, stride, offset).clone()


def _found(root: Any) -> TensorFile:
    """Collect the tensors below a root by dotted path."""
    if isinstance(root, Mapping):
        found: dict[str, StoredTensor] = {}
        _collect(root, "", found, 0)
        return TensorFile(found)
    if isinstance(root, Inert):
        return TensorFile({}, f"an object of {root.origin}")
    shape = getattr(root, "shape", None)
    return TensorFile({}, f"a {type(root).__name__}" if shape is None else f"one tensor of shape {tuple(shape)}")


def _collect(values: Mapping[Any, Any], prefix: str, found: dict[str, StoredTensor], depth: int) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Tensor):
            found[path] = StoredTensor(tuple(value.shape), partial(_itself, value))
        elif isinstance(value, StoredTensor):
            found[path] = value
        elif isinstance(value, Mapping) and depth < MAX_DEPTH:
            _collect(value, f"{path}.", found, depth + 1)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
