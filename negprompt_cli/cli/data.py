"""`negprompt data ls|check|classes|download|sample|leave-out`: data sets of the catalogue and a person's own."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli import schemas
from negprompt_cli.cli.options import Common, argument, command, flag, group, only, option
from negprompt_cli.errors import UsageError

if TYPE_CHECKING:
    from negprompt_cli.cli.console import Talk
    from negprompt_cli.config import Config
    from negprompt_cli.data.prepare.check import Report
    from negprompt_cli.data.sets.imagesets import ImageSet
    from negprompt_cli.data.sets.layouts import Role
    from negprompt_cli.steps.data_check import FeatureReport

data_app = group("data")

SPEC = argument("SPEC", "Name or path of a data set; #classes selects some.")
VALUES = option(
    "White in images of more than 8 bits: auto (default), type (its largest value), range (the image's) or a number.",
    metavar="WHITE",
    default="auto",
)

SHOWN = 10
"""Number of files printed for one problem; --json has all."""
NAMES_SHOWN = 20
"""Number of class names printed; --json has all."""
PLACES = ("data_root", "catalogue", "class_names")
"""Fields of `Common` for the places of data sets and the names of their classes."""


@command(data_app, "ls", shown=("negprompt data ls", "negprompt data ls --count --data-root /data"))
def ls(
    common: Annotated[Common, only("data_root", "catalogue", "json", "quiet")],
    count: bool = flag("Count the images on disk instead of showing published numbers."),
) -> None:
    """List the data sets of the catalogue and which are on disk."""
    from negprompt_cli.data.prepare.listing import list_sets
    from negprompt_cli.data.sets.catalogue import load_catalogue

    talk, places = common.talk(), _places(common.asked().config())
    data_root, catalogue = places["data_root"], places["catalogue"]
    rows = list_sets(load_catalogue(data_root, catalogue), data_root, catalogue=catalogue, count=count)
    if common.json:
        document = {"schema": schemas.DATA, "data_root": str(data_root), "sets": [asdict(row) for row in rows]}
        typer.echo(json.dumps(document, indent=1))
        return
    if common.quiet:
        for row in rows:
            if row.here:
                typer.echo(row.name)
        return

    def number(value: int | None) -> str:
        return "-" if value is None else str(value)

    cells = [
        [row.name, "yes" if row.here else row.how, number(row.train), number(row.eval), number(row.classes), row.title]
        for row in rows
    ]
    counted = "counted on disk" if count else "as published"
    talk.table(f"Data sets in {data_root} (images {counted})", ["name", "here", "train", "eval", "classes", ""], cells)


@command(
    data_app,
    "check",
    shown=(
        "negprompt data check photos",
        "negprompt data check photos --ood noise --json",
        "negprompt data check photos --near-duplicates --label-errors --listing doubts.csv",
    ),
)
def check(
    common: Annotated[Common, only(*PLACES, "model", "pretrained", "device", "image_batch", "cache", "json", "quiet")],
    spec: str = SPEC,
    ood: str | None = option("OOD sets to compare with, separated by commas.", metavar="SPECS"),
    limit: int | None = option("Decode at most N images of each part.", min=1),
    no_decode: bool = flag("Check only counts, sizes and names; do not decode images."),
    near_duplicates: bool = flag("Also find almost equal images by their features."),
    similarity: float = option("Lowest cosine similarity of near-duplicates (default 0.9).", default=0.9),
    label_errors: bool = flag("Also find images that look mislabelled by their features."),
    listing: Path | None = option("CSV file to write with all such images.", metavar="FILE"),
    workers: int = option("Threads that read images (default 4).", default=4, min=1),
    values: str = VALUES,
) -> None:
    """Check counts, files, class names and ID/OOD overlap.

    The exit code is 1 if there is a problem. --near-duplicates and --label-errors need a model; their findings are only
    warnings.
    """
    if listing and not (near_duplicates or label_errors):
        raise UsageError(
            "--listing needs --near-duplicates or --label-errors, whose findings it lists. Pass one of them."
        )
    if listing and listing.exists():
        raise UsageError(f"{listing} exists. Choose another file with --listing.")
    from negprompt_cli.data.prepare.check import check_data, image_parts
    from negprompt_cli.data.sets.imagesets import load_image_set
    from negprompt_cli.data.sets.spec import split_specs

    talk = common.talk()
    # The check of files reports broken images.
    config = common.asked({"data.on_error": "skip", "model.pixels.values": values}).config()
    places, ood_specs = _places(config), split_specs(ood) if ood else []
    report = check_data(
        spec,
        **places,
        ood=ood_specs,
        limit=limit,
        decode=not no_decode,
        workers=workers,
        pixels=config.model.pixels,
        progress=talk,
    )
    more: FeatureReport | None = None
    if near_duplicates or label_errors:
        from negprompt_cli.steps.data_check import check_features, write_listing
        from negprompt_cli.steps.shared.workbench import Workbench

        own = {name: place for name, place in places.items() if name != "class_names"}
        more = check_features(
            Workbench(config, talk),
            image_parts(spec, limit=limit, **places),
            [load_image_set(other, role="ood", **own).limited(limit, seed=0) for other in ood_specs],
            similarity=similarity if near_duplicates else None,
            labels=label_errors,
        )
        if listing:
            write_listing(more, listing)
            talk.say(f"{listing} lists all of them.")
        report = replace(report, findings=(*report.findings, *more.findings))
    if common.json:
        document = {"schema": schemas.DATA_CHECK, "clean": not report.problems, **asdict(report)}
        document |= {
            "near_duplicates": [asdict(pair) for pair in more.pairs] if more and more.pairs is not None else None,
            "label_errors": [asdict(one) for one in more.labels] if more and more.labels is not None else None,
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        _print_report(talk, report, quiet=common.quiet)
    if report.problems:
        raise typer.Exit(1)


def _print_report(talk: "Talk", report: "Report", *, quiet: bool) -> None:
    """Print a check for people; with -q only problems, as warnings."""
    parts = [
        [p.role, str(p.images), "-" if p.expected_images is None else str(p.expected_images), str(p.classes)]
        for p in report.parts
    ]
    talk.line(report.layout)
    talk.table(report.spec, ["part", "images", "expected", "classes"], parts)
    for text in _names(report):
        talk.line(text)
    for finding in report.findings:
        text = f"{finding.level}: {finding.kind}: {finding.message}"
        if quiet and finding.level == "problem":
            talk.warn(text)
        talk.line(text)
        for item in finding.items[:SHOWN]:
            talk.line(f"  {item}")
        if len(finding.items) > SHOWN:
            talk.line(f"  and {len(finding.items) - SHOWN} more (--json lists all)")
    verdict = f"{len(report.problems)} problems" if report.problems else "no problems"
    talk.line(f"{report.spec}: {verdict}, {report.decoded} images decoded")


def _names(report: "Report") -> list[str]:
    """The classes and their names if these differ from the names of the folders."""
    from negprompt_cli.data.sets.classnames import words

    named = [c for c in report.classes if c.name != words(c.key)]
    if not named:
        return ["class names: those of the folders"] if report.classes else []
    more = len(report.classes) - NAMES_SHOWN
    shown = [f"  {c.key} = {c.name}" for c in report.classes[:NAMES_SHOWN]]
    return ["class names:", *shown, *([f"  and {more} more (--json lists all)"] if more > 0 else [])]


@command(data_app, "download", shown=("negprompt data download dtd places --data-root /data",))
def download(
    common: Annotated[Common, only("data_root", "catalogue", "json", "quiet")],
    names: list[str] = argument("NAME...", "Names from the catalogue."),
    keep_archive: bool = flag("Keep the archive after unpacking."),
) -> None:
    """Download, check and unpack data sets of the catalogue.

    Only data sets whose address is known can be downloaded. They are unpacked into the data root.
    """
    from negprompt_cli.data.prepare.download import download_set
    from negprompt_cli.data.sets.catalogue import load_catalogue

    talk, places = common.talk(), _places(common.asked().config())
    data_root = places["data_root"]
    sets = load_catalogue(data_root, places["catalogue"])
    for name in names:
        sets.named(name)
    made = []
    for name in names:
        entry = sets.named(name)[1]
        for title, text in (("", entry.title), ("licence: ", entry.licence), ("cite: ", entry.citation)):
            if text:
                talk.say(f"{title}{text}")
        if entry.notes:
            talk.say(entry.notes)
        done = download_set(name, data_root=data_root, sets=sets, progress=talk, keep_archive=keep_archive)
        if done is None:
            talk.say(f"{name} is already there. `negprompt data check {name}` checks it.")
            continue
        made.append(done)
        talk.say(f"{done.folder}: md5 {done.md5}, sha256 {done.sha256}")
        if not common.json:
            talk.made(done.folder)
    if common.json:
        facts = [{**asdict(done), "folder": str(done.folder)} for done in made]
        typer.echo(json.dumps({"schema": schemas.DATA_DOWNLOAD, "downloaded": facts}, indent=1))


@command(data_app, "classes", shown=("negprompt data classes photos", "negprompt data classes p1 --out p1.txt"))
def classes(
    common: Annotated[Common, only(*PLACES, "overwrite", "json", "quiet")],
    spec: str = SPEC,
    out: Path | None = option("File to write instead of stdout.", metavar="FILE"),
) -> None:
    """Print the class names of a data set in label order.

    The output is a file for --classes.
    """
    from negprompt_cli.data.prepare.class_file import class_lines, write_classes

    talk, config = common.talk(), common.asked().config()
    # The class list is the same for both roles, but one of them may have no images.
    try:
        images = _images(talk, config, spec, "eval")
    except UsageError:
        images = _images(talk, config, spec, "train")
    if out:
        write_classes(images.classes, out, overwrite=common.overwrite)
        listed = [asdict(label) for label in images.classes]
        talk.result(out, {"schema": schemas.DATA_CLASSES, "path": str(out), "classes": listed})
    elif common.json:
        listed = [asdict(label) for label in images.classes]
        typer.echo(json.dumps({"schema": schemas.DATA_CLASSES, "classes": listed}, indent=1, ensure_ascii=False))
    else:
        typer.echo(class_lines(images.classes), nl=False)


@command(data_app, "sample", shown=("negprompt data sample photos --shots 16 --out photos-train.txt",))
def sample(
    common: Annotated[Common, only(*PLACES, "overwrite", "json", "quiet")],
    spec: str = SPEC,
    out: Path = option("The imglist to write.", metavar="FILE", default=...),
    shots: int = option("Images per class (default 16).", default=16, min=1),
    seed: int = option("Random seed of the sample (default 0).", default=0, min=0),
) -> None:
    """Write a list with a few training images per class.

    The list is an imglist, which --data accepts.
    """
    from negprompt_cli.data.prepare.sample_file import write_sample
    from negprompt_cli.data.sets.imglist import list_part

    talk, config = common.talk(), common.asked().config()
    if out.exists() and not common.overwrite:
        raise UsageError(f"{out} exists. Choose another --out, or replace it with --overwrite.")
    images = _images(talk, config, spec, "train")
    written = write_sample(images, shots=shots, seed=seed, out=out, data_root=Path(config.data.root))
    for key, count in written.short.items():
        talk.warn(f"Class {key} has only {count} images; all are used.")
    talk.say(f"{written.images} images of {written.classes} classes. The class names are in {written.names}.")
    if list_part(out) != "train":
        talk.warn(
            f"A training uses only half of {out}, because its name does not mark it as training images. To use all of it, "
            f"name it {out.stem}-train{out.suffix}, for example."
        )
    document = {
        "schema": schemas.DATA_SAMPLE,
        "path": str(written.path),
        "names": str(written.names),
        "images": written.images,
        "classes": written.classes,
        "shots": shots,
        "seed": seed,
        "short": written.short,
    }
    talk.result(written.path, document)


@command(
    data_app,
    "leave-out",
    shown=(
        "negprompt data leave-out photos --into problem",
        "negprompt data leave-out photos --into problem --share 0.5",
    ),
)
def leave_out(
    common: Annotated[Common, only(*PLACES, "overwrite", "json", "quiet")],
    spec: str = SPEC,
    into: Path = option("The folder to make.", metavar="DIR", default=...),
    share: float = option("Share of the classes to leave out (default 0.3).", default=0.3),
    held_out: float = option("Share of the other classes' images to keep for val/ (default 0.25).", default=0.25),
    kinds: str = option(
        "OOD sets to make, separated by commas (default near,down,shuffle,corner,drawn).",
        metavar="KINDS",
        default="near,down,shuffle,corner,drawn",
    ),
    seed: int = option("Random seed of all choices (default 0).", default=0, min=0),
    copy: bool = flag("Copy images instead of linking them."),
    values: str = VALUES,
) -> None:
    """Make an OOD problem from the training images alone.

    Some classes are left out and become OOD sets, so that settings can be chosen without real OOD data. DIR/id has the other
    classes, with train/ and val/. The other folders in DIR are OOD sets: near (the classes that were left out), down (the
    same images shrunk to 32 pixels), shuffle (images with their patches in random order, from held-out images too), corner
    (images cut to a corner) and drawn (generated textures). Evaluation images are never read.
    """
    from negprompt_cli.data.prepare.leave_out import leave_out as make
    from negprompt_cli.data.prepare.leave_out import parse_kinds

    talk, config = common.talk(), common.asked({"model.pixels.values": values}).config()
    wanted = parse_kinds(kinds)
    images = _images(talk, config, spec, "train")
    made = make(
        images,
        into,
        share=share,
        held_out=held_out,
        seed=seed,
        kinds=wanted,
        copy=copy,
        overwrite=common.overwrite,
        pixels=config.model.pixels,
        progress=talk,
    )
    classes, counts = made.document["classes"], made.document["images"]
    talk.say(
        f"{len(classes['kept'])} classes are kept and {len(classes['left_out'])} are left out. Images: "
        + ", ".join(f"{part} {count}" for part, count in counts.items())
        + "."
    )
    problem = json.dumps({"id": made.id_spec, "ood": made.ood_specs}, ensure_ascii=False)
    talk.say(f"Add this line to the YAML file of `negprompt sweep`, under `problems:`\n  {into.name}: {problem}")
    talk.result(into, {**made.document, "path": str(into)})


def _places(config: "Config") -> dict[str, Any]:
    """Where data sets are, and the file that names their classes, as `load_image_set` takes them."""
    data = config.data
    files = {"catalogue": data.catalogue, "class_names": data.class_names}
    return {"data_root": Path(data.root), **{key: Path(file) if file else None for key, file in files.items()}}


def _images(talk: "Talk", config: "Config", spec: str, role: "Role") -> "ImageSet":
    """The images of a SPEC; prints the decisions about them."""
    from negprompt_cli.data.sets.imagesets import load_image_set

    images = load_image_set(spec, role=role, **_places(config))
    for decision in images.decisions:
        talk.decide(decision)
    return images
