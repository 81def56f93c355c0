"""Nothing of a record vanishes: it is learned, kept in `meta`, or counted by name and refused with `strict`."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importer_helpers import PHOTO, lines, log, members

from neo_lightning.importers import Reading, RecordError, import_dataset
from neo_lightning.importers.columns import COLUMNS, META, TURN_COLUMNS
from neo_lightning.importers.layouts import read_record

TALK = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Say"}]


def with_turn(**more: Any) -> dict[str, Any]:
    return {"messages": [TALK[0], {**TALK[1], **more}]}


UNUSED: dict[str, dict[str, Any]] = {
    "score": {"messages": TALK, "score": 7},
    "label": {"messages": TALK, "label": 3},
    "objects": {"messages": TALK, "objects": {"ref": ["a"], "bbox": []}},
    "audio": {"messages": TALK, "images": ["x.jpg"], "audios": ["x.mp3"]},
    "chat_template_kwargs": {"messages": TALK, "chat_template_kwargs": {"max_pixels": 9}},
    "system": {"messages": [{"role": "system", "content": "One"}, *TALK], "system": "Two"},
    "text": {"instruction": "Ask", "output": "Say", "text": "Ask Say"},
    "messages[].mood": with_turn(mood="fine"),
    "messages[].content[].detail": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "x.jpg", "detail": "high"}]},
            TALK[1],
        ]
    },
    "messages[].weight": {"messages": [{**TALK[0], "weight": 1}, TALK[1]]},
    "text: <|image_pad|>": {
        "messages": [{"role": "user", "content": "<image><|image_pad|>"}, TALK[1]],
        "image": "x.jpg",
    },
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_nothing_uses_is_counted_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.jpg").write_bytes(PHOTO)
    file = lines(tmp_path / "f.jsonl", [{"messages": TALK}, UNUSED[name], UNUSED[name]])
    report = import_dataset("auto", [file], tmp_path / "out", media=tmp_path, workers=1)
    assert report.unused == {name: 2}
    assert sum(report.samples.values()) == 3
    assert f"  2 x {name}" in str(report)
    assert json.loads((tmp_path / "out" / "import.json").read_text())["unused"] == {name: 2}
    noted = [json.loads(line) for line in (tmp_path / "out" / "import.log").read_text().splitlines()]
    assert noted == [{"record": "f.jsonl, line 2", "not used": name}]
    with pytest.raises(RecordError) as refused:
        import_dataset("auto", [file], tmp_path / "strict", media=tmp_path, workers=1, strict=True)
    assert str(refused.value).startswith(f"f.jsonl, line 2: {name} is neither learned nor kept; --keep KEY")


def test_what_tells_the_origin_is_kept_and_more_on_demand(tmp_path: Path) -> None:
    record = {"messages": [TALK[0], {**TALK[1], "mood": "fine"}], "id": 3, "sample_id": "s", "score": {"a": 1}}
    file = lines(tmp_path / "f.jsonl", [record])
    reading = Reading(keep=("score", "messages[].mood"))
    report = import_dataset("auto", [file], tmp_path / "out", reading=reading, strict=True)
    assert report.unused == {}
    (sample,) = members(tmp_path / "out", "text")
    meta = json.loads(sample["json"])["meta"]
    assert meta == {"id": 3, "sample_id": "s", "score": {"a": 1}, "messages[].mood": ["fine"]}


def test_an_unknown_column_or_role_is_refused_with_the_known_ones() -> None:
    for wrong in ({"columns": {"mesages": "x"}}, {"roles": {"x": "usr"}}, {"preference": "best"}):
        with pytest.raises(RecordError, match="known: "):
            Reading(**wrong)  # type: ignore[arg-type]


def test_a_record_that_breaks_its_reader_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neo_lightning.importers import turns

    def broken(value: Any, key: str) -> Any:
        return 1 // 0 if value == "boom" else value

    monkeypatch.setattr(turns, "parsed", broken)
    file = lines(tmp_path / "f.jsonl", [{"messages": TALK}, {"messages": "boom"}, {"messages": TALK}])
    assert import_dataset("auto", [file], tmp_path / "out", workers=1).samples == {"text": 2}
    ((where, reason),) = log(tmp_path / "out")
    assert where == "f.jsonl, line 2"
    assert "ZeroDivisionError" in reason


WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=6).map(lambda word: f"word {word}")
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False), WORDS)
KEYS = st.sampled_from([key for keys in (*COLUMNS.values(), *TURN_COLUMNS.values()) for key in keys] + [*META, "odd"])
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS | WORDS, TREES, max_size=4), st.booleans())
def test_every_word_is_learned_kept_or_counted(more: dict[str, Any], chosen: bool) -> None:
    """Any tree under any keys beside a conversation: a reason, or a place for each key that says something."""
    item = {"messages": TALK, **more}
    try:
        record = read_record(item, Reading(preference="chosen" if chosen else "refuse"))
    except RecordError:
        return
    dropped = [key for key in item if key.startswith("rejected")] if chosen else []
    told = {*record.used, *record.unused, *record.meta, *dropped, "meta"}
    audio = ["audio"] if "audio" in record.unused else []
    assert {key for key, value in item.items() if says(value)} <= told | set(audio)
    written = json.dumps([record.tree, record.meta, record.boxes and record.boxes.refs, record.images, record.videos])
    for key in record.used:
        if key not in COLUMNS["audios"] and not record.unused:
            for word in words(item[key]):
                assert word in written, f"{word!r} of `{key}` is used and nowhere"


def says(value: Any) -> bool:
    """Whether there is anything in a value: null, as Parquet fills its structs, is nothing."""
    if isinstance(value, dict):
        return any(inner is not None for inner in value.values())
    return value not in (None, "", [])


def words(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [word for inner in value.values() for word in words(inner)]
    if isinstance(value, list):
        return [word for inner in value for word in words(inner)]
    return [value] if isinstance(value, str) and value.startswith("word ") else []


def test_numbers_that_json_has_no_form_for(tmp_path: Path) -> None:
    """Python's JSON reads and writes NaN, which other readers of the shards and of Hugging Face's refuse."""
    meta = {"score": float("nan"), "scores": [1.5, float("inf"), {"a": float("-inf")}, float("nan")]}
    file = lines(tmp_path / "f.jsonl", [{"messages": TALK, "meta": meta}])
    assert "NaN" in file.read_text()
    import_dataset("auto", [file], tmp_path / "out", workers=1)
    (sample,) = members(tmp_path / "out", "text")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    read = json.loads(sample["json"], parse_constant=refuse)["meta"]
    assert read["scores"] == [1.5, "inf", {"a": "-inf"}, None]
    assert read.get("score") is None
