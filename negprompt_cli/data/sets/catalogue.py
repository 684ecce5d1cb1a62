"""The catalogue of known data sets: facts in `catalogue.yaml` and `protocols.yaml`, validated here.

An entry says what a data set is called, how many images it has, where each convention keeps it below the data root,
what may be downloaded and what must be fetched by hand, under which licence, and whom to cite. A person's own
catalogue has the same form: the file of the setting `data.catalogue`, or `catalogue.yaml` in the data root; its entries win.
Which layout is actually on disk is found out in `imagesets`.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

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
from negprompt_cli.data.files.yamlfile import MAX_YAML_BYTES, parse_yaml
from negprompt_cli.data.sets.torchsets import READABLE
from negprompt_cli.errors import UsageError, did_you_mean, first_fault

MAX_CHAIN = 20
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(_Fact):
    """Where one convention keeps a data set, relative to the data root (an absolute path is taken as it is)."""

    by: str
    """Whose convention, for people."""
    images: str | None = None
    """One folder, of whatever form `layouts` recognises."""
    train: str | None = None
    """The training folder, where training and evaluation images are kept apart."""
    eval: str | None = None
    """The evaluation folder."""
    imglist: str | None = None
    """A list of the images that belong to the set; their paths start from `images`."""
    count: int | None = Field(default=None, gt=0)
    """How many evaluation images there are in this layout, where it is not the whole set."""

    @model_validator(mode="after")
    def _some_place(self) -> "Layout":
        if not (self.images or self.train or self.eval):
            raise ValueError("a layout needs 'images', or 'train' and 'eval'")
        if self.images and (self.train or self.eval):
            raise ValueError("a layout has either 'images' or 'train' and 'eval'")
        if self.imglist and not self.images:
            raise ValueError("'imglist' needs 'images', the folder its paths start from")
        return self


class Count(_Fact):
    """How many images there should be, by role; `None` where a role has none of its own or the number is unknown."""

    train: int | None = Field(default=None, gt=0)
    eval: int | None = Field(default=None, gt=0)


class Subset(_Fact):
    """Some classes of another data set: the part of a protocol, or a selector."""

    of: Name
    protocol: str | None = None
    part: str = "id"
    classes: str | None = None
    """Index ranges into the sorted class list, where there is no protocol."""

    @model_validator(mode="after")
    def _one_way(self) -> "Subset":
        if (self.protocol is None) == (self.classes is None):
            raise ValueError("a subset has either 'protocol' or 'classes'")
        if self.protocol is not None and self.protocol not in protocols():
            raise ValueError(f"no protocol {self.protocol!r}.{did_you_mean(self.protocol, protocols())}")
        return self

    @property
    def ranges(self) -> str:
        """The index ranges, wherever they come from."""
        return self.classes or protocols()[self.protocol or ""].part(self.part)


class Download(_Fact):
    """An archive that may be fetched without asking anybody."""

    url: str
    md5: Md5 | None = None
    """Integrity, not security."""
    size: int | None = Field(default=None, gt=0)
    """Bytes, where known."""
    makes: str
    """Folder below the data root that the archive is unpacked as."""

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
    """"imagenet" where the sorted class list is the 1000 wnids whatever is on disk."""
    images: Count = Count()
    classes: int | None = Field(default=None, gt=0)
    default_ood: str | None = None
    """The OOD list this set brings along."""
    download: Download | None = None
    comes_with: Name | None = None
    """The set whose archive holds this one as well."""
    fetch: str | None = None
    """What to fetch by hand and where from, where a login or a shared drive is in the way."""
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
    """Class indices into the sorted-wnid order of ImageNet-1k, as ranges with both ends included."""

    source: str
    id: str
    """In-distribution classes."""
    ood: str | None = None
    """Unknown classes."""
    ignored: str | None = None
    """"Known unknowns" of the original protocol, which NegPrompt's evaluation drops."""

    def part(self, name: str) -> str:
        """The ranges of part `name`; raises UsageError where the protocol has none."""
        ranges = {"id": self.id, "ood": self.ood, "ignored": self.ignored}.get(name)
        if ranges is None:
            raise UsageError(f"The protocol has no part {name!r}; it can be id, ood or ignored.")
        return ranges


class Catalogue(_Fact):
    """All known data sets by name."""

    list_prefixes: tuple[str, ...] = ()
    """Folders below the data root that the paths of an imglist may start from."""
    sets: dict[Name, Entry]

    def named(self, name: str) -> tuple[str, Entry]:
        """The entry called `name`, in any case, with its name as the catalogue writes it.

        Raises:
            UsageError: there is none; offers the nearest names.
        """
        proper = name if name in self.sets else name.lower()
        if proper not in self.sets:
            raise UsageError(f"No data set {name!r} in the catalogue.{self.suggestion(name)}")
        return proper, self.sets[proper]

    def suggestion(self, name: str) -> str:
        """A did-you-mean over the names."""
        return did_you_mean(name, self.sets)


class _Protocols(RootModel[dict[str, Protocol]]):
    model_config = ConfigDict(frozen=True)


T = TypeVar("T", bound=BaseModel)


def _parse(model: type[T], text: str, where: str) -> T:
    values = parse_yaml(text, where)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error)}.") from error


@lru_cache(maxsize=1)
def built_in() -> Catalogue:
    """The catalogue that comes with the package."""
    file = resources.files(__package__) / "catalogue.yaml"
    return _parse(Catalogue, file.read_text(encoding="utf-8"), "The built-in catalogue")


@lru_cache(maxsize=1)
def protocols() -> Mapping[str, Protocol]:
    """ImageNet-1k subsets and hard-OOD protocols by name."""
    file = resources.files(__package__) / "protocols.yaml"
    return _parse(_Protocols, file.read_text(encoding="utf-8"), "The built-in protocols").root


def load_catalogue(data_root: Path, file: Path | None = None) -> Catalogue:
    """The built-in catalogue with a person's own entries over it.

    Args:
        data_root: its `catalogue.yaml` is read where it exists.
        file: another catalogue file, whose entries win over all.

    Raises:
        UsageError: a file that cannot be read, is not YAML, or has a field that is wrong (names the field).
    """
    catalogue = built_in()
    own = [data_root / "catalogue.yaml"] if (data_root / "catalogue.yaml").is_file() else []
    for path in [*own, *([file] if file else [])]:
        text = read_text(path, most=MAX_YAML_BYTES, what="a catalogue")
        extra = _parse(Catalogue, text, f"The catalogue {path}")
        catalogue = Catalogue(
            list_prefixes=tuple(dict.fromkeys([*catalogue.list_prefixes, *extra.list_prefixes])),
            sets={**catalogue.sets, **extra.sets},
        )
    _check_subsets(catalogue)
    return catalogue


def _check_subsets(catalogue: Catalogue) -> None:
    """Refuse subsets of sets that do not exist, and of themselves over however many steps."""
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
                raise UsageError(f"Catalogue: {name} is cut out of sets over more than {MAX_CHAIN} steps.")
            entry = catalogue.sets[entry.subset.of]
