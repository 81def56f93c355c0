"""Memory does not grow with the input."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importer_helpers import DRAWING, llava

from neo_lightning.importers import import_dataset, json_records, parquet
from neo_lightning.importers.columns import Reading
from neo_lightning.importers.task import Job

MEGABYTE = 1 << 20


@pytest.fixture
def peak() -> Iterator[list[int]]:
    """Bytes that Python held at most during the test, once it is over."""
    held: list[int] = []
    tracemalloc.start()
    yield held
    tracemalloc.stop()


def test_a_large_array_is_split_in_constant_memory(tmp_path: Path, peak: list[int]) -> None:
    """12 MB in each form: the window holds about a megabyte."""
    record = llava("What is it? " * 40, "A long answer. " * 40)
    forms = ((None, "[", ",\n", "]"), (1, "[", ",\n", "]"), (1, '{\n"data": [', ",\n", "]}"), (1, "", "\n", ""))
    for indent, head, between, end in forms:
        one = json.dumps(record, indent=indent)
        count = 12 * MEGABYTE // len(one)
        with (tmp_path / "f.json").open("w") as file:
            file.write(head + one)
            for _ in range(count - 1):
                file.write(between + one)
            file.write(end)
        tracemalloc.reset_peak()
        found = last = 0
        for task in json_records.split([tmp_path / "f.json"]):
            found, last = found + task.count, task.progress
        assert found == count
        assert last == (tmp_path / "f.json").stat().st_size
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGABYTE


def test_a_large_row_group_is_read_in_constant_memory(tmp_path: Path, peak: list[int]) -> None:
    """60 MB of pictures in one row group: some pages are held, by Python and by Arrow."""
    picture = DRAWING + bytes(300_000)  # what follows the picture's end is ignored
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption", pa.string())])
    options = {"use_dictionary": False, "compression": "none", "write_batch_size": 4}  # pages of 4 rows
    with pq.ParquetWriter(tmp_path / "f.parquet", schema, **options) as writer:
        rows = [{"image": {"bytes": picture, "path": "x.png"}, "caption": "a cat"}] * 200
        writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=200)
    del rows
    job = Job(format="parquet", media=None, reading=Reading(), partial=tmp_path)
    (task,) = parquet.split([tmp_path / "f.parquet"])
    tracemalloc.reset_peak()
    arrow = [pa.total_allocated_bytes() for _ in parquet.rows(task, job)]
    assert len(arrow) == 200
    assert max(arrow) < 20 * MEGABYTE
    assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE


def test_a_large_import_is_written_in_constant_memory(tmp_path: Path, peak: list[int]) -> None:
    """80 MB of media through a folder of pairs, in one process."""
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / "in" / f"{i:02d}.png").write_bytes(DRAWING + bytes(2 * MEGABYTE))
        (tmp_path / "in" / f"{i:02d}.txt").write_text("a cat")
    tracemalloc.reset_peak()
    assert import_dataset("folder", [tmp_path / "in"], tmp_path / "out", workers=1).samples == {"image": 40}
    assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
