"""Row files of Parquet: in two goes as in one, whatever the first one came to, and damage is refused."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negprompt_cli.data.results.rowfile import COLUMNS, KnownPaths, Row, check_row_file, part_of, row_file
from negprompt_cli.data.results.tables import GROUP
from negprompt_cli.errors import UsageError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def rows_of_images(draw: st.DrawFn) -> list[Row]:
    return [
        Row(
            name,
            prediction=draw(st.none() | TEXT),
            probability=draw(st.none() | NUMBER),
            score=draw(st.none() | NUMBER),
            is_ood=draw(st.none() | st.booleans()),
            negative_similarity=draw(st.none() | NUMBER),
            error=draw(st.none() | TEXT),
        )
        for name in draw(st.lists(TEXT, min_size=1, max_size=6, unique=True))
    ]


def write(path: Path, rows: list[Row], *, append: bool = False) -> None:
    """Write the rows that the file lacks."""
    check_row_file(path, "parquet", append=append, overwrite=not append)
    with row_file(path, "parquet", append=append) as file:
        file.sink.write([row for row in rows if not file.known.take(row.path)])


def numbered(first: int, last: int) -> list[Row]:
    return [Row(f"{i:06d}.png", prediction="cat", score=i / 7, is_ood=bool(i % 2)) for i in range(first, last)]


@given(rows_of_images(), st.data())
@settings(max_examples=30)
def test_two_goes_equal_one(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], data: st.DataObject):
    folder = tmp_path_factory.mktemp("rows")
    whole, out = folder / "whole.parquet", folder / "rows.parquet"
    write(whole, rows)
    # pyarrow alone is the oracle of what a file holds.
    assert parquet.read_table(whole).to_pylist() == [vars(row) for row in rows]
    write(out, rows[: data.draw(st.integers(0, len(rows)))])
    write(out, rows, append=True)
    assert out.read_bytes() == whole.read_bytes()
    write(out, rows, append=True)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["rows.parquet", "whole.parquet"]


@given(rows_of_images(), st.data())
@settings(max_examples=30)
def test_a_run_killed_at_any_byte_goes_on(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], data: st.DataObject
):
    folder = tmp_path_factory.mktemp("rows")
    whole, out = folder / "whole.parquet", folder / "rows.parquet"
    write(whole, rows)
    before = data.draw(st.integers(0, len(rows)))
    write(out, rows[:before])
    with pytest.raises(KeyboardInterrupt), row_file(out, "parquet", append=True) as file:
        file.sink.write(rows[before:])
        raise KeyboardInterrupt
    # The file of before is untouched, and the part can lose its end.
    assert parquet.read_table(out).to_pylist() == [vars(row) for row in rows[:before]]
    grown = part_of(out).read_bytes()
    kept = sum(len(line) for line in grown.splitlines(keepends=True)[:before])
    part_of(out).write_bytes(grown[: data.draw(st.integers(kept, len(grown)))])
    write(out, rows, append=True)
    assert out.read_bytes() == whole.read_bytes()
    assert not part_of(out).exists()


def test_a_first_run_that_was_interrupted_is_kept_or_replaced(tmp_path: Path):
    out = tmp_path / "rows.parquet"
    with pytest.raises(KeyboardInterrupt), row_file(out, "parquet", append=False) as file:
        file.sink.write(numbered(0, 3))
        raise KeyboardInterrupt
    assert not out.exists()
    with pytest.raises(UsageError, match="rows of an interrupted run"):
        check_row_file(out, "parquet", append=False, overwrite=False)
    check_row_file(out, "parquet", append=True, overwrite=False)
    with row_file(out, "parquet", append=True) as file:
        assert len(file.known) == 3
    assert parquet.read_table(out).num_rows == 3
    write(out, numbered(5, 6))
    assert parquet.read_table(out)["path"].to_pylist() == ["000005.png"]


def test_row_groups_stay_of_one_size_and_have_checksums(tmp_path: Path):
    out = tmp_path / "rows.parquet"
    write(out, numbered(0, GROUP + 3))
    write(out, numbered(0, 2 * GROUP + 1), append=True)
    with parquet.ParquetFile(out, page_checksum_verification=True) as opened:
        groups = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
        assert groups == [GROUP, GROUP, 1]
        assert opened.read()["path"].to_pylist() == [row.path for row in numbered(0, 2 * GROUP + 1)]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX systems only")
def test_names_that_are_not_utf8_are_known_again(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    out = tmp_path / "rows.parquet"
    write(out, [Row(name, error="x")])
    assert parquet.read_table(out)["path"].to_pylist() == ["caf\\udce9.png"]
    write(out, [Row(name, error="x"), Row("b.png")], append=True)
    assert parquet.read_table(out)["path"].to_pylist() == ["caf\\udce9.png", "b.png"]


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path):
    out = tmp_path / "rows.parquet"
    write(out, numbered(0, 40))
    sound = out.read_bytes()
    for place in (0, 10, 200, len(sound) // 2, len(sound) - 20, len(sound) - 2):
        out.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        try:
            table = parquet.read_table(out, page_checksum_verification=True).to_pylist()
        except (pyarrow.ArrowException, OSError):
            with pytest.raises(UsageError, match=r"rows\.parquet cannot be read"):
                check_row_file(out, "parquet", append=True, overwrite=False)
        else:
            # Bytes that carry nothing, such as the name of the writing library.
            assert table == [vars(row) for row in numbered(0, 40)]
    for cut in (0, 3, 100, len(sound) - 1):
        out.write_bytes(sound[:cut])
        with pytest.raises(UsageError, match=r"rows\.parquet cannot be read"):
            check_row_file(out, "parquet", append=True, overwrite=False)


def test_damage_behind_the_first_rows_is_refused_before_anything_is_written(tmp_path: Path):
    out = tmp_path / "rows.parquet"
    write(out, numbered(0, 2 * GROUP))
    with parquet.ParquetFile(out) as opened:
        place = opened.metadata.row_group(1).column(0).data_page_offset + 100
    damaged = bytearray(out.read_bytes())
    damaged[place] ^= 0xFF
    out.write_bytes(damaged)
    with pytest.raises(UsageError, match="cannot be read"), row_file(out, "parquet", append=True):
        pytest.fail("there is nothing to append to")
    assert out.read_bytes() == damaged
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(
    "columns",
    [{"name": ["me"]}, {name: [None] for name in COLUMNS}, {"path": ["a"], **{name: ["b"] for name in COLUMNS[1:]}}],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, list[object]]):
    out = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="does not contain rows of scores: its columns are"):
        check_row_file(out, "parquet", append=True, overwrite=False)
    assert out.read_bytes() == before


def test_a_part_that_is_something_else_is_refused(tmp_path: Path):
    out = tmp_path / "rows.parquet"
    part_of(out).write_text('{"path": "a.png", "score": "high"}\n')
    with pytest.raises(UsageError, match=r"rows\.parquet\.part"), row_file(out, "parquet", append=True):
        pass
    part_of(out).write_text("PAR1\n")
    with pytest.raises(UsageError, match=r"rows\.parquet\.part"), row_file(out, "parquet", append=True):
        pass
    assert not out.exists()


def test_csv_is_never_half_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "rows.csv"
    out.write_text(",".join(COLUMNS) + "\n")

    def stop(source: Path, to: Path) -> None:
        Path(to).write_text(",".join(COLUMNS)[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr("negprompt_cli.data.results.rowfile.shutil.copyfile", stop)
    with pytest.raises(KeyboardInterrupt), row_file(out, "csv", append=True):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    group = 512
    monkeypatch.setattr("negprompt_cli.data.results.tables.GROUP", group)

    def peak(count: int) -> int:
        out = tmp_path / f"{count}.parquet"
        with row_file(out, "parquet", append=False) as file:
            for start in range(0, count, group):
                file.sink.write(numbered(start, start + group))
        arrow = pyarrow.default_memory_pool()
        before = arrow.bytes_allocated()
        tracemalloc.start()
        with row_file(out, "parquet", append=True) as file:
            assert len(file.known) == count
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert arrow.bytes_allocated() - before < 1 << 20
        return python

    # Eight bytes a row are the digests of known paths, and sorting makes a second copy of them.
    assert peak(16 * group) - peak(4 * group) < 12 * group * 8 * 4


def test_known_paths_are_compared_as_they_are_written():
    known = KnownPaths(["A.png"], written=str.upper)
    assert known.take("a.png")
    assert not known.take("a.png")
    assert not known.take("b.png")


def test_lines_of_a_part_are_those_of_json_lines(tmp_path: Path):
    out = tmp_path / "rows.parquet"
    with pytest.raises(KeyboardInterrupt), row_file(out, "parquet", append=False) as file:
        file.sink.write(numbered(0, 2))
        raise KeyboardInterrupt
    assert [json.loads(line) for line in part_of(out).read_text().splitlines()] == [vars(r) for r in numbered(0, 2)]
