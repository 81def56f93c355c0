"""Any bytes in a tar, a sample's text, a sidecar or a root file: the documented errors, nothing else, and no hang."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import pytest
from data_helpers import chat, encoded, picture, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neo_lightning.data.facts import RetryError, SampleError, ShardError
from neo_lightning.data.index import ShardSource, iterate_samples, sidecar
from neo_lightning.data.index.scan import index_shard, sample_facts, samples_of
from neo_lightning.data.index.sidecar import IndexDamaged
from neo_lightning.data.index.table import FACTS, MEMBERS, FactsTable, parse_content, usable
from neo_lightning.data.index.tar import Buffered, Member, TarSample, walk
from neo_lightning.data.store import Store, StoreOptions

fuzz = functools.partial(settings, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@functools.cache
def shard() -> bytes:
    members = {}
    for i in range(3):
        members[f"folder/{'long' * 40 if i else ''}s{i}.json"] = chat("<image>What?", f"number {i}", meta={"n": i})
        members[f"folder/{'long' * 40 if i else ''}s{i}.png"] = encoded(picture(32, 32, i))
    with tempfile.TemporaryDirectory() as folder:
        return write_tar(Path(folder) / "a.tar", members).read_bytes()


@functools.cache
def index() -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(shard())
        summary = index_shard(path, "image")
        return sidecar.sidecar_of(str(path), "image", Path(folder)).read_bytes(), summary.digest


def mutations(size: int) -> st.SearchStrategy[list[tuple[int, bytes, int]]]:
    """Splices: at a place, so many bytes are replaced by others."""
    return st.lists(
        st.tuples(st.integers(0, size), st.binary(max_size=24), st.integers(0, 700)), min_size=1, max_size=4
    )


def mutated(data: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    for place, new, gone in changes:
        data = data[:place] + new + data[place + (len(new) if gone % 2 else gone) :]
    return data


def walk_all(data: bytes) -> list[TarSample]:
    read = Buffered(lambda offset, length: data[offset : offset + length], len(data), chunk=1000)
    return list(walk(read, len(data), "a.tar"))


@fuzz(max_examples=400)
@given(changes=mutations(len(shard())))
def test_tar_with_mutated_bytes(changes: list[tuple[int, bytes, int]]) -> None:
    data = mutated(shard(), changes)
    try:
        samples = walk_all(data)
    except ShardError:
        return
    for sample in samples:
        for member in sample.members:
            assert data[member.offset : member.offset + member.size] == member.data


@fuzz(max_examples=150)
@given(data=st.binary(max_size=3000))
def test_any_bytes_as_a_tar(data: bytes) -> None:
    with pytest.raises(ShardError):
        walk_all(data)


@fuzz(max_examples=150)
@given(
    text=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "conversations", "role", "content", "from", "value", "type", "text", "meta", "image"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda tree: json.dumps(tree).encode())
)
def test_any_text_in_a_sample(text: bytes) -> None:
    members = (Member("a.json", "json", None, 0, len(text), True, text),)
    try:
        facts, _ = sample_facts(TarSample("a", members), "text")
    except SampleError:
        return
    assert all(turn.role in ("system", "user", "assistant") for turn in facts.turns)


@fuzz(max_examples=250)
@given(changes=mutations(len(index()[0])))
def test_sidecar_with_mutated_bytes(changes: list[tuple[int, bytes, int]], tmp_path: Path) -> None:
    whole, digest = index()
    file = tmp_path / "a.parquet"
    file.write_bytes(mutated(whole, changes))
    try:
        sidecar.read_summary(file)
        table = usable(sidecar.read_rows(file, 0, [*FACTS, *MEMBERS, "content"], digest))
        facts = FactsTable.from_arrow(table)
        for row in range(len(facts)):
            parse_content(table.column("content")[row].as_py(), len(facts.media(row)))
    except (IndexDamaged, ValueError, TypeError):
        return
    assert [facts.key(row) for row in range(len(facts))] == [f"folder/{'long' * 40 if i else ''}s{i}" for i in range(3)]


@fuzz(max_examples=60)
@given(spoilt=st.tuples(mutations(4000), mutations(1000)))
def test_a_source_over_mutated_index_files_is_whole_or_refused(
    spoilt: tuple[list[tuple[int, bytes, int]], ...], tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    if not path.exists():
        path.write_bytes(shard())
    open_one = functools.partial(ShardSource, "a", "image", (path,), store=Store(StoreOptions(deadline=0)))
    open_one()
    for pattern, changes in zip(("*.parquet", "*.json"), spoilt, strict=True):
        (file,) = (tmp_path / ".neo_index").glob(pattern)
        file.write_bytes(mutated(file.read_bytes(), changes))
    try:
        samples = list(iterate_samples(open_one()))
    except (ShardError, RetryError):
        return
    assert [sample.messages[1].parts for sample in samples] == [(f"number {i}",) for i in range(3)]


def test_a_tar_bomb_of_headers_and_a_deep_json_end_soon(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(shard()[:512] * 20000)
    store = Store(StoreOptions(deadline=0))
    with pytest.raises(ShardError):
        list(samples_of(str(tmp_path / "a.tar"), store, store.stat(str(tmp_path / "a.tar"))))
    deep = b'{"messages":' + b"[" * 200_000
    with pytest.raises(SampleError, match="not JSON"):
        sample_facts(TarSample("a", (Member("a.json", "json", None, 0, len(deep), True, deep),)), "text")
