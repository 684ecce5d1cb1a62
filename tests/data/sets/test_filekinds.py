"""What is an image and what never is, against Pillow itself and against the names that systems are known to make."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_trees import class_tree, jpeg, relatives, write
from PIL import Image

from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.data.prepare.archives import unpack
from negprompt_cli.data.prepare.check import check_data
from negprompt_cli.data.results.sorting import folder_name
from negprompt_cli.data.sets.filekinds import LeftOut, image_suffixes, is_image_name, reason_for
from negprompt_cli.data.sets.imagesets import EmptyClasses, load_image_set
from negprompt_cli.data.sets.pathlist import check_paths, list_paths
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))

SYSTEM_FOLDERS = [
    "@eaDir", "#recycle", ".@__thumb", "@Recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found",
    ".Trash-1000", ".Trashes", ".AppleDouble", ".Spotlight-V100", ".thumbnails", ".picasaoriginals", ".git", ".svn", ".hg",
    ".ipynb_checkpoints", "__pycache__", "node_modules", "Holiday.photoslibrary", "Catalog Previews.lrdata", ".stversions",
]  # fmt: skip
SYSTEM_FILES = [
    ".DS_Store",
    "._photo.jpg",
    "Thumbs.db",
    "THUMBS.DB",
    "ehthumbs.db",
    "Desktop.ini",
    ".picasa.ini",
    "Icon\r",
]
UNFINISHED = [
    "a.jpg.part",
    "a.jpg.crdownload",
    "a.png.tmp",
    "a.jpg~",
    "~$a.jpg.docx",
    "#a.jpg#",
    "a.jpg.bak",
    "a.jpg.!qB",
]


def saved(suffix: str) -> bytes | None:
    """A picture in the format of `suffix`, in the first mode that Pillow writes there."""
    for mode in ("RGB", "P", "L", "1", "RGBA"):
        buffer = io.BytesIO()
        try:
            PICTURE.convert(mode).save(buffer, Image.registered_extensions()[suffix])
        except Exception:
            continue
        return buffer.getvalue()
    return None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_pillow_writes_and_reads_is_an_image_and_read(tmp_path: Path) -> None:
    Image.init()
    made = {suffix: data for suffix in Image.registered_extensions() if (data := saved(suffix))}
    readable = set()
    for suffix, data in made.items():
        path = write(tmp_path / f"picture{suffix}", data)
        try:
            with Image.open(path) as image:
                image.load()
        except Exception:
            continue
        readable.add(suffix)
    named_otherwise = {".msp", ".bw", ".im", ".vst", ".ps", ".eps"}
    assert len(readable) > 30
    assert readable - image_suffixes() <= named_otherwise
    for suffix in readable & image_suffixes():
        size = open_rgb(tmp_path / f"picture{suffix}").size
        assert size == (16, 16) or suffix == ".icns", suffix  # Apple's icons hold the picture in many sizes


def test_what_pillow_only_recognises_is_no_image() -> None:
    assert not image_suffixes() & {
        ".pdf",
        ".eps",
        ".ps",
        ".wmf",
        ".emf",
        ".mpg",
        ".h5",
        ".grib",
        ".bufr",
        ".mp4",
        ".svg",
    }
    for name in (
        "a.JPG",
        "a.JPEG",
        "b.jpe",
        "c.pjpeg",
        "d.mpo",
        "e.jp2",
        "f.J2K",
        "g.tga",
        "h.PNM",
        "i.apng",
        "j.webp",
    ):
        assert is_image_name(name), name


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_a_systems_folder_is_no_class_and_its_images_are_none(name: str, tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    for above in (root, root / "cat", root / "cat" / "deeper"):
        write(above / name / "photo.jpg", b"x")
    images = load_image_set(str(root), role="ood", data_root=tmp_path)
    assert [c.key for c in images.classes] == ["cat", "dog"]
    assert len(images) == 4
    assert [sum(whats.values()) for whats in images.left_out.by_reason().values()] == [3]
    left_out = LeftOut()
    assert len(list(list_paths([str(root)], [], left_out))) == 4
    assert left_out == images.left_out and set(left_out.by_reason()) == {"system"}


@pytest.mark.parametrize(("names", "reason"), [(SYSTEM_FILES, "system"), (UNFINISHED, "unfinished")])
def test_files_that_are_never_data(names: list[str], reason: str, tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    for name in names:
        assert reason_for(name, folder=False)[0] == reason, name  # type: ignore[index]
        write(root / "cat" / name)
    images = load_image_set(str(root), role="ood", data_root=tmp_path)
    assert len(images) == 4
    assert sum(images.left_out.by_reason()[reason].values()) == len(names)


@pytest.mark.parametrize(
    "name",
    ["cat", "10", "café", "recycle", "Recycled", "car.part", "thumbs", "temporary", "CVS", "a.b", "@home", "#1", "~x"],
)
def test_ordinary_folders_are_classes(name: str) -> None:
    assert reason_for(name, folder=True) is None


def test_every_reason_is_counted_and_told_in_decisions_and_check(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2}, decodable=True)
    others = {
        "a.heic": "unreadable", "b.HEIC": "unreadable", "c.nef": "unreadable", ".d.jpg.icloud": "unreadable",
        "e.jpg_large": "other", "f": "no-suffix", "g.txt": "beside", "j.mp4": "container", "k.zip": "container",
        "l.svg": "unreadable", ".h.jpg": "hidden", "i.jpg.part": "unfinished",
        "Thumbs.db": "system",
    }  # fmt: skip
    for name in others:
        write(root / "dog" / name)
    images = load_image_set(str(root), role="train", data_root=tmp_path)
    counted = {reason: sum(whats.values()) for reason, whats in images.left_out.by_reason().items()}
    assert counted == {reason: list(others.values()).count(reason) for reason in set(others.values())}
    [decision] = [d for d in images.decisions if d.kind == "files-left-out"]
    assert decision.facts["reasons"] == images.left_out.by_reason()
    for said in (
        "2 of kind HEIC (.heic: install pillow-heif",
        "camera raw (.nef: convert such",
        ".jpg_large",
        "Thumbs.db",
    ):
        assert said in decision.message
    report = check_data(str(root), data_root=tmp_path, progress=Silent())
    assert report.parts[0].left_out == images.left_out.by_reason()
    assert report.problems == ()
    assert any("pillow-heif" in f.message for f in report.findings if f.kind == "other-file")


def test_labels_beside_images_are_counted_without_a_word(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    write(root / "cat" / "000.xml")
    write(root / "classes.json")
    images = load_image_set(str(root), role="ood", data_root=tmp_path)
    assert images.left_out.by_reason() == {"beside": {".json": 1, ".xml": 1}}
    assert not [d for d in images.decisions if d.kind == "files-left-out"]


def test_a_class_of_unreadable_kinds_says_what_to_do(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    for i in range(7):
        write(root / "fox" / f"{i}.HEIC")
    with pytest.raises(EmptyClasses, match=r"fox \(has 7 of kind HEIC \(\.heic: install pillow-heif, or convert"):
        load_image_set(str(root), role="train", data_root=tmp_path)
    images = load_image_set(str(root), role="eval", data_root=tmp_path)
    assert any("fox (has 7 of kind HEIC" in d.message for d in images.decisions if d.kind == "classes-left-out")


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_of_unreadable_kinds_says_what_to_do(nested: bool, tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "set" / ("a" if nested else "") / f"{i}.cr3")
    message = r"No images .*3 of kind camera raw \(\.cr3: convert such files"
    with pytest.raises(UsageError, match=message):
        load_image_set(str(tmp_path / "set"), role="train", data_root=tmp_path)
    with pytest.raises(UsageError, match=message):
        check_paths([str(tmp_path / "set")])


def test_images_without_a_suffix_are_left_out_with_a_word_on_what_they_are(tmp_path: Path) -> None:
    for name in ("a1b2", "c3d4"):
        write(tmp_path / "set" / "cat" / name, jpeg())
    with pytest.raises(UsageError, match=r"2 without a suffix.*cat/\w+ has the content of a JPEG image.*\.jpg"):
        load_image_set(str(tmp_path / "set"), role="ood", data_root=tmp_path)
    # Named itself, such a file is read.
    assert list(list_paths([str(tmp_path / "set" / "cat" / "a1b2")], [], LeftOut())) == [
        tmp_path / "set" / "cat" / "a1b2"
    ]
    assert open_rgb(tmp_path / "set" / "cat" / "a1b2").size == (8, 8)


def test_check_finds_images_under_other_names(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2}, decodable=True)
    write(root / "cat" / "IMG_1.heic", jpeg(77))  # phones call JPEGs so
    write(root / "cat" / "x.jpg_large", jpeg(78))
    write(root / "cat" / "notes.docx", b"PK\x03\x04")
    report = check_data(str(root), data_root=tmp_path, progress=Silent())
    [finding] = [f for f in report.findings if f.kind == "misnamed"]
    assert len(finding.items) == 2
    assert all("JPEG" in item for item in finding.items)


def test_lists_and_several_arguments_leave_out_what_systems_make(tmp_path: Path) -> None:
    photos = class_tree(tmp_path, {"photos": 2}) / "photos"
    junk = [
        photos / "@eaDir" / "000.jpg",
        photos / "._000.jpg",
        photos / "Thumbs.db",
        photos / "__MACOSX" / "x" / "1.jpg",
    ]
    for path in junk:
        write(path)
    good = [photos / "000.jpg", photos / "001.jpg"]
    listed = [*(f"{path}\n" for path in [*good, *junk])]
    for arguments in (
        ["-"],
        [str(photos)],
        [*map(str, [*good, photos / "@eaDir", photos / "Thumbs.db"])],
        [f"{photos}/**/*.*"],
    ):
        left_out = LeftOut()
        assert list(list_paths(arguments, listed, left_out)) == good, arguments
        assert set(left_out.by_reason()) == {"system"}
    # One name is meant as it is given.
    assert list(list_paths([str(photos / "@eaDir")], [], LeftOut())) == junk[:1]
    assert list(list_paths([str(photos / "Thumbs.db")], [], LeftOut())) == [photos / "Thumbs.db"]


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_what_macos_puts_into_archives_is_not_unpacked(form: str, tmp_path: Path) -> None:
    names = ["set/cat/a.jpg", "__MACOSX/set/cat/._a.jpg", "set/.DS_Store", "set/cat/._a.jpg", "set/@eaDir/a.jpg"]
    archive = tmp_path / f"set.{form}"
    if form == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            for name in names:
                made.writestr(name, jpeg())
    else:
        with tarfile.open(archive, "w") as made:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(jpeg())
                made.addfile(member, io.BytesIO(jpeg()))
    unpack(archive, tmp_path / "made", progress=Silent())
    files = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert relatives(files, tmp_path / "made") == ["cat/a.jpg"]


@pytest.mark.parametrize("key", ["@eaDir", ".hidden", "lost+found", "x.part", "cat", "a/b", ""])
def test_sorted_folders_are_data_again(key: str) -> None:
    name = folder_name(key)
    assert "/" not in name and reason_for(name, folder=True) is None
    assert name == key or key != "cat"


HEIF_PLUGIN = """
from PIL import Image, ImageFile

class Heif(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self):
        self._size, self._mode, self.tile = (3, 2), "RGB", []

    def load(self):
        pixels = Image.new("RGB", (3, 2), (1, 2, 3)).im
        setattr(self, "_im" if isinstance(getattr(Image.Image, "im", None), property) else "im", pixels)

def register_heif_opener():
    Image.register_open("HEIF", Heif, lambda start: start[4:12] == b"ftypheic")
    Image.register_extensions("HEIF", [".heic"])
"""
ASK = """
import sys
from pathlib import Path
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.data.sets.filekinds import reason_for
print(reason_for("a.heic", folder=False), open_rgb(Path(sys.argv[1])).getpixel((0, 0)))
"""


def test_an_installed_plugin_makes_its_kind_readable(tmp_path: Path) -> None:
    """A stand-in for pillow-heif, whose files begin as HEIF files do."""
    path = write(tmp_path / "a.heic", b"\0\0\0\x18ftypheic" + b"\0" * 40)
    if importlib.util.find_spec("pillow_heif") is None:
        assert reason_for("a.heic", folder=False) == ("unreadable", ".heic")
        with pytest.raises(BrokenImage, match="install pillow-heif"):
            open_rgb(path)
    write(tmp_path / "plugin" / "pillow_heif.py", HEIF_PLUGIN.encode())
    places = os.pathsep.join([str(tmp_path / "plugin"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", ASK, path],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None (1, 2, 3)\n"


def test_a_list_of_everything_in_a_folder(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    junk = ["cat/@eaDir/000.jpg", "cat/._000.jpg", ".git/a.jpg", "__MACOSX/dog/._1.jpg", "Thumbs.db"]
    for name in junk:
        write(root / name)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    (tmp_path / "all.txt").write_text("".join(f"{path}\n" for path in files))
    images = load_image_set(str(tmp_path / "all.txt"), role="ood", data_root=tmp_path)
    assert [c.key for c in images.classes] == ["cat", "dog"]
    assert len(images) == 4
    assert sum(images.left_out.by_reason()["system"].values()) == len(junk)


def test_a_class_of_arrays_says_what_it_has(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    write(root / "fox" / "all.npy")
    with pytest.raises(EmptyClasses, match=r"fox \(has 1 labels, notes or arrays \(\.npy\)\)"):
        load_image_set(str(root), role="train", data_root=tmp_path)


def test_names_without_end_are_counted_as_few(tmp_path: Path) -> None:
    """Numbered frames, streams of NTFS, hidden files with random names: the counts in JSON stay small."""
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    for i in range(200):
        for name in (f"frame.{i:04d}", f"a{i}.jpg:Zone.Identifier", f".{i}abc", f"@eaDir/{i}.jpg"):
            write(root / "cat" / name)
    (tmp_path / "all.txt").write_text("".join(f"{path}\n" for path in sorted(root.rglob("*")) if path.is_file()))
    images = load_image_set(str(root), role="ood", data_root=tmp_path)
    assert images.left_out.by_reason() == {
        "hidden": {"*": 200}, "other": {"*": 200}, "system": {"*Zone.Identifier": 200, "@eaDir": 1}
    }  # fmt: skip
    left_out = LeftOut()
    listed = [f"{path}\n" for path in root.rglob("*") if path.is_file()]
    list(list_paths(["-"], listed, left_out))
    assert left_out.by_reason() == {"system": {"*Zone.Identifier": 200, "@eaDir": 200}}


def test_a_class_that_is_a_dead_link_is_told_of(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    (root / "fox").symlink_to(tmp_path / "unmounted" / "fox")
    images = load_image_set(str(root), role="ood", data_root=tmp_path)
    assert images.left_out.by_reason() == {"dead-link": {"": 1}}
    assert any("1 links whose target does not exist" in d.message for d in images.decisions)


def test_a_raw_file_beside_its_jpeg_is_no_image_that_was_missed(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "set", {"cat": 2, "dog": 2})
    for name in ("cat/000.CR2", "cat/001.heic", "cat/002.nef", "dog/002.nef"):
        write(root / name)
    write(root / "dog" / "002.JPG")
    images = load_image_set(str(root), role="ood", data_root=tmp_path)
    assert images.left_out.by_reason() == {
        "twin": {".cr2": 1, ".heic": 1, ".nef": 1}, "unreadable": {".nef": 1}
    }  # fmt: skip
