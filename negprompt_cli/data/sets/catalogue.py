"""The catalogue of known data sets: facts in `catalogue.yaml` and `protocols.yaml`, validated here.

An entry has the name of a data set, its number of images, its places below the data root in each convention, what can be
downloaded automatically and what only by hand, the licence, and the citation. A user's own catalogue has the same form: the
file of the setting `data.catalogue`, or `catalogue.yaml` in the data root. Its entries replace built-in ones. `sources`
finds which layout is on disk.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from negprompt_cli.data.files.textfile import read_text
from negprompt_cli.data.files.yamlfile import MAX_YAML_BYTES, package_yaml, parse_yaml
from negprompt_cli.data.sets.torchsets import READABLE
from negprompt_cli.errors import UsageError, did_you_mean, first_fault

MAX_CHAIN = 20
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(_Fact):
    """The places of a data set in one convention, relative to the data root (absolute paths stay absolute)."""

    by: str
    """Name of the convention, for messages."""
    images: str | None = None
    """A single folder in any form that `layouts` recognises."""
    train: str | None = None
    """The training folder, if training and evaluation images are separate."""
    eval: str | None = None
    """The evaluation folder."""
    imglist: str | None = None
    """A list of the images that belong to the set; paths are relative to `images`."""
    count: int | None = Field(default=None, gt=0)
    """Number of evaluation images in this layout, if it is not the whole set."""

    @model_validator(mode="after")
    def _some_place(self) -> "Layout":
        if not (self.images or self.train or self.eval):
            raise ValueError("a layout needs 'images', or 'train' and 'eval'")
        if self.images and (self.train or self.eval):
            raise ValueError("a layout has either 'images' or 'train' and 'eval'")
        if self.imglist and not self.images:
            raise ValueError("'imglist' needs 'images', the folder that its paths are relative to")
        return self


class Count(_Fact):
    """The expected number of images by role; `None` if a role has no images of its own or the number is unknown."""

    train: int | None = Field(default=None, gt=0)
    eval: int | None = Field(default=None, gt=0)


class Subset(_Fact):
    """Some classes of another data set, chosen by a protocol's part or by index ranges."""

    of: Name
    protocol: str | None = None
    part: str = "id"
    classes: str | None = None
    """Index ranges into the sorted class list, if there is no protocol."""

    @model_validator(mode="after")
    def _one_way(self) -> "Subset":
        if (self.protocol is None) == (self.classes is None):
            raise ValueError("a subset has either 'protocol' or 'classes'")
        if self.protocol is not None and self.protocol not in protocols():
            raise ValueError(f"no protocol {self.protocol!r}.{did_you_mean(self.protocol, protocols())}")
        return self

    @property
    def ranges(self) -> str:
        """The index ranges, from `classes` or from the protocol."""
        return self.classes or protocols()[self.protocol or ""].part(self.part)


class Download(_Fact):
    """An archive that may be downloaded without permission or login."""

    url: str
    md5: Md5 | None = None
    """Checks integrity, not security."""
    size: int | None = Field(default=None, gt=0)
    """Size in bytes, if known."""
    makes: str
    """Folder below the data root that unpacking creates."""

    @field_validator("makes")
    @classmethod
    def _below(cls, makes: str) -> str:
        path = PurePosixPath(makes)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in makes:
            raise ValueError("'makes' must be a folder below the data root")
        return makes


class Entry(_Fact):
    """One data set."""

    title: str
    layouts: tuple[Layout, ...] = ()
    torchvision: str | None = None
    """Name of the class in torchvision.datasets, for sets that torchvision reads."""
    subset: Subset | None = None
    class_list: str | None = None
    """"imagenet" if the sorted class list is always the 1000 wnids, independent of the files on disk."""
    images: Count = Count()
    classes: int | None = Field(default=None, gt=0)
    default_ood: str | None = None
    """The OOD sets used by default with this ID set."""
    download: Download | None = None
    comes_with: Name | None = None
    """The set whose archive contains this set too."""
    fetch: str | None = None
    """What to download by hand and from where, if automatic download is not possible."""
    licence: str | None = None
    citation: str | None = None
    notes: str | None = None

    @model_validator(mode="after")
    def _some_source(self) -> "Entry":
        if not (self.layouts or self.torchvision or self.subset):
            raise ValueError("an entry needs 'layouts', 'torchvision' or 'subset'")
        if self.class_list not in (None, "imagenet"):
            raise ValueError("'class_list' can only be 'imagenet'")
        if self.torchvision is not None and self.torchvision not in READABLE:
            raise ValueError(f"'torchvision' can be {', '.join(READABLE)}")
        return self


class Protocol(_Fact):
    """Class indices into the sorted wnids of ImageNet-1k, as ranges with both ends included."""

    source: str
    id: str
    """In-distribution classes."""
    ood: str | None = None
    """Unknown classes."""
    ignored: str | None = None
    """The "known unknowns" of the original protocol, which NegPrompt's evaluation does not use."""

    def part(self, name: str) -> str:
        """Return the ranges of part `name`.

        Raises:
            UsageError: the protocol does not have that part.
        """
        ranges = {"id": self.id, "ood": self.ood, "ignored": self.ignored}.get(name)
        if ranges is None:
            raise UsageError(f"The protocol has no part {name!r}. Possible parts are id, ood and ignored.")
        return ranges


class Catalogue(_Fact):
    """All known data sets by name."""

    list_prefixes: tuple[str, ...] = ()
    """Folders below the data root that the paths of an imglist may be relative to."""
    sets: dict[Name, Entry]

    def named(self, name: str) -> tuple[str, Entry]:
        """Return the entry `name` (upper and lower case are equal) and its name as written in the catalogue.

        Raises:
            UsageError: there is no such entry; the message suggests the nearest name.
        """
        proper = name if name in self.sets else name.lower()
        if proper not in self.sets:
            raise UsageError(f"No data set {name!r} in the catalogue.{self.suggestion(name)}")
        return proper, self.sets[proper]

    def suggestion(self, name: str) -> str:
        """Return a suggestion of the nearest catalogue name, or nothing."""
        return did_you_mean(name, self.sets)


class _Protocols(RootModel[dict[str, Protocol]]):
    model_config = ConfigDict(frozen=True)


@lru_cache(maxsize=1)
def built_in() -> Catalogue:
    """Return the catalogue that is part of the package."""
    return Catalogue.model_validate(package_yaml(__package__, "catalogue.yaml"))


@lru_cache(maxsize=1)
def protocols() -> Mapping[str, Protocol]:
    """Return the ImageNet-1k subsets and hard-OOD protocols by name."""
    return _Protocols.model_validate(package_yaml(__package__, "protocols.yaml")).root


def load_catalogue(data_root: Path, file: Path | None = None) -> Catalogue:
    """Return the built-in catalogue with the user's own entries, which replace built-in ones.

    Args:
        data_root: its `catalogue.yaml` is read if it exists.
        file: another catalogue file; its entries have the highest priority.

    Raises:
        UsageError: a file cannot be read, is not YAML, or has a wrong field (the message names it).
    """
    catalogue = built_in()
    own = [data_root / "catalogue.yaml"] if (data_root / "catalogue.yaml").is_file() else []
    for path in [*own, *([file] if file else [])]:
        text, where = read_text(path, most=MAX_YAML_BYTES, what="a catalogue"), f"The catalogue {path}"
        try:
            extra = Catalogue.model_validate(parse_yaml(text, where))
        except ValidationError as error:
            raise UsageError(f"{where}: {first_fault(error)}.") from error
        catalogue = Catalogue(
            list_prefixes=tuple(dict.fromkeys([*catalogue.list_prefixes, *extra.list_prefixes])),
            sets={**catalogue.sets, **extra.sets},
        )
    _check_subsets(catalogue)
    return catalogue


def _check_subsets(catalogue: Catalogue) -> None:
    """Check that the wholes of subsets exist, and that no set is a subset of itself, directly or indirectly.

    Raises:
        UsageError: an entry is wrong.
    """
    for name, entry in catalogue.sets.items():
        if entry.comes_with is not None and entry.comes_with not in catalogue.sets:
            raise UsageError(f"Catalogue: {name} comes with {entry.comes_with!r}, which does not exist.")
        chain = [name]
        while entry.subset is not None:
            if entry.subset.of not in catalogue.sets:
                raise UsageError(f"Catalogue: {chain[-1]} is a subset of {entry.subset.of!r}, which does not exist.")
            if entry.subset.of in chain:
                raise UsageError(f"Catalogue: {' of '.join([*chain, entry.subset.of])} is a subset of itself.")
            chain.append(entry.subset.of)
            if len(chain) > MAX_CHAIN:
                raise UsageError(f"Catalogue: {name} is a subset of a subset over more than {MAX_CHAIN} steps.")
            entry = catalogue.sets[entry.subset.of]
