"""Downloads from a server on this machine that is whole, cut, slow, wrong, lying or malicious."""

import hashlib
import http.server
import io
import json
import stat
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_trees import write, write_catalogue

from negprompt_cli.data.prepare.archives import unpack
from negprompt_cli.data.prepare.download import Downloaded, download_set
from negprompt_cli.data.sets.catalogue import Catalogue, load_catalogue
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Silent


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, and misbehaves as told. Remembers the Range of each request."""

    content = b""
    ranges = True
    statuses: list[int]
    cut: list[int]
    stall: float = 0.0
    lie = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.statuses, self.cut = [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.tar.gz?download=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        size = len(server.content)
        if start >= size and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.lie}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cut:
            body = body[: server.cut.pop(0)]
        if server.stall:
            self.wfile.write(body[:100])
            self.wfile.flush()
            time.sleep(server.stall)
        else:
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


# Large enough for several blocks, and not compressible.
FILES = {f"set/images/{i}.jpg": hashlib.shake_256(bytes([i])).digest(60_000) for i in range(10)}


def catalogue(root: Path, url: str, content: bytes, **changes: object) -> Catalogue:
    download = {"url": url, "md5": hashlib.md5(content).hexdigest(), "makes": "Set", **changes}
    entry = {"title": "A set", "layouts": [{"by": "me", "images": "Set"}], "download": download}
    return load_catalogue(root, write_catalogue(root / "own.yaml", {"set": entry}))


def get(root: Path, sets: Catalogue, **options: object) -> Downloaded | None:
    options = {"timeout": 5.0, "pause": lambda _: None, "progress": Silent(), **options}
    return download_set("set", data_root=root / "data", sets=sets, **options)  # type: ignore[arg-type]


def left(root: Path) -> list[str]:
    """Everything in the data root, by relative path; folders end in a slash."""
    data = root / "data"
    return sorted(p.relative_to(data).as_posix() + "/" * p.is_dir() for p in data.rglob("*")) if data.is_dir() else []


def test_a_good_download(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    sets = catalogue(tmp_path, server.url, server.content)
    done = get(tmp_path, sets)
    assert done is not None
    assert done.folder == tmp_path / "data" / "Set"
    assert done.sha256 == hashlib.sha256(server.content).hexdigest()
    assert (done.folder / "images" / "3.jpg").read_bytes() == FILES["set/images/3.jpg"]
    assert left(tmp_path)[:3] == ["Set/", "Set/images/", "Set/images/0.jpg"]
    assert not [name for name in left(tmp_path) if name.endswith((".part", ".gz"))]
    record = json.loads((tmp_path / "data" / "downloads.json").read_text())
    assert record["set"] == {"url": server.url, "bytes": done.size, "md5": done.md5, "sha256": done.sha256}
    images = load_image_set("set", role="ood", data_root=tmp_path / "data", catalogue=tmp_path / "own.yaml")
    assert len(images) == 10
    assert get(tmp_path, sets) is None
    assert len(server.asked) == 1


def test_the_archive_can_be_kept(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    get(tmp_path, catalogue(tmp_path, server.url, server.content), keep_archive=True)
    assert (tmp_path / "data" / "set.tar.gz").read_bytes() == server.content


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed_or_begun_again(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.content = tar_of(FILES)
    server.ranges = ranges
    server.cut = [100_000, 50_000]
    assert get(tmp_path, catalogue(tmp_path, server.url, server.content)) is not None
    assert server.asked == [None, "bytes=100000-", "bytes=150000-" if ranges else "bytes=50000-"]


def test_a_connection_that_is_always_cut_keeps_the_part_for_the_next_run(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    server.cut = [50_000] * 4
    sets = catalogue(tmp_path, server.url, server.content)
    with pytest.raises(NegPromptError, match="200000 of 6") as raised:
        get(tmp_path, sets)
    assert "Run the command again" in str(raised.value)
    assert left(tmp_path) == ["set.tar.gz.part"]
    assert (tmp_path / "data" / "set.tar.gz.part").read_bytes() == server.content[:200_000]
    assert get(tmp_path, sets) is not None
    assert server.asked[-1] == "bytes=200000-"


def test_a_server_that_stalls_counts_as_cut(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    server.stall = 0.6
    with pytest.raises(NegPromptError, match="again"):
        get(tmp_path, catalogue(tmp_path, server.url, server.content), timeout=0.15)
    assert left(tmp_path) == ["set.tar.gz.part"]


def test_a_part_that_is_complete_is_used(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    write(tmp_path / "data" / "set.tar.gz.part", server.content)
    assert get(tmp_path, catalogue(tmp_path, server.url, server.content)) is not None


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    write(tmp_path / "data" / "set.tar.gz.part", server.content + b"more")
    assert get(tmp_path, catalogue(tmp_path, server.url, server.content)) is not None
    assert server.asked[-1] is None


def test_another_range_than_asked_for_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    server.lie = 1
    server.cut = [100_000]
    with pytest.raises(NegPromptError):
        get(tmp_path, catalogue(tmp_path, server.url, server.content))
    assert not (tmp_path / "data" / "Set").exists()


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    with pytest.raises(NegPromptError, match="but 00000000000000000000000000000000 is expected"):
        get(tmp_path, catalogue(tmp_path, server.url, server.content, md5="0" * 32))
    assert left(tmp_path) == []


def test_a_file_that_changed_since_the_first_download_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    sets = catalogue(tmp_path, server.url, b"", md5=None)
    assert get(tmp_path, sets) is not None
    (tmp_path / "data" / "Set").rename(tmp_path / "old")
    server.content = tar_of({**FILES, "set/images/new.jpg": b"new"})
    with pytest.raises(NegPromptError, match="earlier download"):
        get(tmp_path, sets)
    assert left(tmp_path) == ["downloads.json"]


@pytest.mark.parametrize(("statuses", "attempts"), [([404], 1), ([403], 1), ([500, 503], 3), ([500] * 4, 4)])
def test_server_errors(server: Server, tmp_path: Path, statuses: list[int], attempts: int) -> None:
    server.content = tar_of(FILES)
    fails = attempts == len(statuses)
    first = str(statuses[0])
    server.statuses = list(statuses)
    sets = catalogue(tmp_path, server.url, server.content)
    if fails:
        with pytest.raises(NegPromptError, match=first):
            get(tmp_path, sets)
    else:
        assert get(tmp_path, sets) is not None
    assert len(server.asked) == attempts


def test_no_server_at_all(tmp_path: Path) -> None:
    sets = catalogue(tmp_path, "http://127.0.0.1:9/set.tar.gz", b"")
    with pytest.raises(NegPromptError, match="refused"):
        get(tmp_path, sets)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.tar.gz", "/etc/passwd"])
def test_only_http_is_followed(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="http"):
        get(tmp_path, catalogue(tmp_path, url, b""))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MALICIOUS = {
    "parent": tar_of({**FILES, "set/../../evil.jpg": b"x"}),
    "symlink": tar_of(FILES, special("set/link", tarfile.SYMTYPE, "/etc")),
    "hard link": tar_of(FILES, special("set/link", tarfile.LNKTYPE, "../../secret")),
    "device": tar_of(FILES, special("set/dev", tarfile.CHRTYPE)),
    "pipe": tar_of(FILES, special("set/pipe", tarfile.FIFOTYPE)),
    "zip parent": zip_of({"set/1.jpg": b"x", "../evil.jpg": b"x"}),
    "zip absolute": zip_of({"/evil.jpg": b"x"}),
    "zip backslash": zip_of({"set\\..\\..\\evil.jpg": b"x"}),
    "zip drive": zip_of({"C:/evil.jpg": b"x"}),
    "zip link": zip_of({"set/1.jpg": b"x"}, link="set/link"),
}


@pytest.mark.parametrize("kind", [*MALICIOUS, "absolute"])
def test_malicious_archives_are_refused_before_anything_is_written(server: Server, tmp_path: Path, kind: str) -> None:
    absolute = {**FILES, f"{tmp_path}/evil.jpg": b"x"}
    server.content = tar_of(absolute) if kind == "absolute" else MALICIOUS[kind]
    with pytest.raises(NegPromptError, match="is refused"):
        get(tmp_path, catalogue(tmp_path, server.url, server.content))
    assert left(tmp_path) == ["set.tar.gz"]
    assert not list(tmp_path.rglob("*evil*"))


def damaged_gzip() -> bytes:
    content = bytearray(tar_of(FILES))
    content[300_000:300_050] = b"\x00" * 50
    return bytes(content)


def damaged_zip() -> bytes:
    content = bytearray(zip_of(FILES))
    content[50_000:50_050] = b"\x00" * 50
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>moved</html>",
        tar_of(FILES)[:300_000],
        tar_of(FILES, mode="w")[:300_000],
        damaged_gzip(),
        damaged_zip(),
    ],
    ids=["empty", "html", "cut gzip", "cut tar", "damaged gzip", "damaged zip"],
)
def test_damaged_archives_leave_no_folder(tmp_path: Path, content: bytes) -> None:
    archive = write(tmp_path / "a" / "set.archive", content)
    with pytest.raises(NegPromptError, match=r"set\.archive"):
        unpack(archive, tmp_path / "a" / "Set", progress=Silent())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["set.archive"]


@pytest.mark.parametrize(
    ("content", "files"),
    [
        (tar_of({"top/a/1.jpg": b"1", "top/2.jpg": b"2"}), ["2.jpg", "a/1.jpg"]),
        (tar_of({"a/1.jpg": b"1", "b/2.jpg": b"2"}), ["a/1.jpg", "b/2.jpg"]),
        (tar_of({"1.jpg": b"1", "a/2.jpg": b"2"}, mode="w"), ["1.jpg", "a/2.jpg"]),
        (tar_of({"./top/1.jpg": b"1"}, special("./", tarfile.DIRTYPE)), ["1.jpg"]),
        (zip_of({"top/": b"", "top/a/1.jpg": b"1", "top/b/": b""}), ["a/1.jpg"]),
        (zip_of({"1.jpg": b"1"}), ["1.jpg"]),
    ],
    # Archives hold the time they were made, which differs between the processes of a test run.
    ids=["top folder", "two folders", "file and folder", "dot before it", "zip", "zip without a folder"],
)
def test_a_single_top_folder_becomes_the_target(tmp_path: Path, content: bytes, files: list[str]) -> None:
    unpack(write(tmp_path / "x.archive", content), tmp_path / "Set", progress=Silent())
    assert sorted(p.relative_to(tmp_path / "Set").as_posix() for p in (tmp_path / "Set").rglob("*.jpg")) == files


@pytest.mark.parametrize("free", [1 << 20, (64 << 20) + 700_000])
def test_disk_space_is_asked_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """First too little for the archive, then enough for it but not for what is in it."""
    server.content = tar_of({f"set/{i}.jpg": b"\0" * 1_000_000 for i in range(3)})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12 - free, free))
    with pytest.raises(NegPromptError, match="GiB are free"):
        get(tmp_path, catalogue(tmp_path, server.url, server.content))
    assert left(tmp_path) in ([], ["set.tar.gz"])


def test_a_data_root_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(FILES)
    write(tmp_path / "data", b"a file")
    with pytest.raises(NegPromptError, match="Cannot write"):
        get(tmp_path, catalogue(tmp_path, server.url, server.content))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"set": 1}'])
def test_a_damaged_record_is_said_and_kept(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = tar_of(FILES)
    write(tmp_path / "data" / "downloads.json", content)
    with pytest.raises(NegPromptError, match=r"downloads\.json"):
        get(tmp_path, catalogue(tmp_path, server.url, server.content))
    assert (tmp_path / "data" / "downloads.json").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "said"),
    [("imagenet", "login"), ("ssb-hard", "images_largescale"), ("p1", "imagenet"), ("svhn", "torchvision")],
)
def test_what_must_be_fetched_by_hand_is_explained(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        download_set(name, data_root=tmp_path, sets=load_catalogue(tmp_path), progress=Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_here_in_another_layout_is_not_fetched(tmp_path: Path) -> None:
    write(tmp_path / "ImageNet_OOD_dataset" / "SUN" / "a.jpg")
    assert download_set("sun", data_root=tmp_path, sets=load_catalogue(tmp_path), progress=Silent()) is None


def test_progress_reaches_the_end(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told adds up to the size in MiB and to the number of files, over a resumed connection too."""
    tasks: list[tuple[str, int, list[int]]] = []

    class Listener(Silent):
        def task(self, title: str, total: int, unit: str, *, at_most: bool = False):  # type: ignore[no-untyped-def]
            steps: list[int] = []
            tasks.append((title, total, steps))

            class Task:
                def __enter__(self) -> "Task":
                    return self

                def __exit__(self, *_: object) -> None:
                    pass

                def advance(self, count: int = 1, note: str = "") -> None:
                    steps.append(count)

            return Task()

    server.content = tar_of({f"set/{i}.jpg": hashlib.shake_256(bytes([i])).digest(3 << 20) for i in range(2)})
    server.cut = [2_500_000]
    get(tmp_path, catalogue(tmp_path, server.url, server.content), progress=Listener())
    assert [(title.split()[0], total) for title, total, _ in tasks] == [
        ("Downloading", 6),
        ("Downloading", 6),
        ("Unpacking", 2),
    ]
    assert sum(tasks[1][2]) == 6
    assert sum(tasks[2][2]) == 2
