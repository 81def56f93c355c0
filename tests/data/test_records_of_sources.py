"""Records in shards and classes of one's own: what a source says of its answers, what it ignores, how text is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_helpers import encoded, picture, write_tar
from record_helpers import answered

from neo_lightning.data.facts import SampleFacts, Turn
from neo_lightning.data.index import iterate_samples, open_source, sample_ids, scan
from neo_lightning.data.index.adapted import AdaptedSource
from neo_lightning.data.index.table import Columns, parse_content
from neo_lightning.data.manifest import ManifestError
from neo_lightning.data.text.answers import MARKS
from neo_lightning.data.text.serialize import make_outlines
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import Mark, Message, Sample


def source_file(folder: Path, text: str) -> Path:
    (folder / "m.yaml").write_text(f"sources: {{s: {{shards: 's.tar', {text}}}}}\n")
    return folder / "m.yaml"


def test_a_source_says_what_its_answers_may_use(tmp_path: Path, qwen: Tokenizer, tokenizer: Tokenizer) -> None:
    write_tar(tmp_path / "s.tar", {"a.json": json.dumps(answered("<think>x</think><box>1</box>")).encode()})
    lengths, files = {}, set()
    for text in ("", ", answer_tokens: []", ", answer_tokens: [box]", ", answer_tokens: [think, box]"):
        manifest = source_file(tmp_path, f"modality: text{text}")
        source = open_source(manifest, "s", tokenizer=qwen)
        facts, (message,) = (
            source.facts(0, 0),
            [m for m in next(iter(iterate_samples(source))).messages if m.role == "assistant"],
        )
        assert facts.turns[-1].parts == message.parts
        marks = tuple(part for part in message.parts if isinstance(part, Mark))
        (found,) = make_outlines([facts.turns], qwen)
        assert source.shard_part_facts(0).text_tokens.tolist() == [len(found.ids)], "planned length = real length"
        lengths[marks] = len(found.ids)
        files |= set((tmp_path / ".neo_index").glob("*tokens-*"))
    both, think, box = ("<think>", "</think>", "<box>", "</box>"), ("<think>", "</think>"), ("<box>", "</box>")
    assert lengths[both] < lengths[think] < lengths[()]
    assert lengths[box] < lengths[()]
    assert len(files) == 4, "counts are kept by what they depend on"
    open_source(source_file(tmp_path, "modality: text"), "s", tokenizer=tokenizer)  # the default asks for nothing
    with pytest.raises(
        ManifestError, match=r"asks for <think>, </think>, which the tokenizer lacks \(it knows ref, box"
    ):
        open_source(source_file(tmp_path, "modality: text, answer_tokens: [think, box]"), "s", tokenizer=tokenizer)
    with pytest.raises(ManifestError, match=r"answer_tokens: unknown 'thinking'.*did you mean 'think'"):
        open_source(source_file(tmp_path, "modality: text, answer_tokens: [thinking]"), "s")
    with pytest.raises(ManifestError, match="`answer_tokens` must be a list"):
        open_source(source_file(tmp_path, "modality: text, answer_tokens: think"), "s")


class Thinker:
    """A source of one's own, whose answers think."""

    modality = "text"

    def __len__(self) -> int:
        return 1

    def facts(self, index: int) -> SampleFacts:
        turns = (Turn(role="user", parts=("<think>",)), Turn(role="assistant", parts=("<think>a</think>b",)))
        return SampleFacts(key="a", modality="text", turns=turns)

    def read(self, index: int) -> Sample:
        messages = tuple(Message(role=turn.role, parts=turn.parts) for turn in self.facts(0).turns)  # type: ignore[arg-type]
        return Sample(key="a", modality="text", messages=messages)


def test_a_class_of_ones_own_says_it_too(qwen: Tokenizer) -> None:
    lengths = []
    for groups, wanted in ((("think",), [Mark, str, Mark, str]), ((), [str])):
        source = AdaptedSource("mine", Thinker(), qwen, groups)
        shown, said = source.facts(0, 0).turns[-1].parts, source.read(0, 0).messages
        assert [type(part) for part in shown] == [type(part) for part in said[-1].parts] == wanted
        assert said[0].parts == ("<think>",)
        (found,) = make_outlines([source.facts(0, 0).turns], qwen)
        assert source.shard_part_facts(0).text_tokens.tolist() == [len(found.ids)]
        lengths.append(len(found.ids))
    assert lengths[0] < lengths[1]


def test_the_index_counts_what_is_unused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [{**answered("a"), "objects": {"b": 1}}, {**answered("a"), "objects": {"b": 1}, "url": "c"}, answered("a")]
    write_tar(tmp_path / "s.tar", {f"{i}.json": json.dumps(tree).encode() for i, tree in enumerate(trees)})
    source = open_source(source_file(tmp_path, "modality: text"), "s")
    assert source.unused == {"objects": 2, "url": 1}
    assert len(list(sample_ids(source))) == 3
    assert open_source(source_file(tmp_path, "modality: text"), "s").unused == {"objects": 2, "url": 1}, "read back"
    (root,) = (tmp_path / ".neo_index").glob("root-*.json")
    assert json.loads(root.read_text())["unused"] == {"objects": 2, "url": 1}
    write_tar(tmp_path / "t.tar", {"b.json": json.dumps(trees[1]).encode()})
    (tmp_path / "m.yaml").write_text("sources: {s: {modality: text, shards: [s.tar, t.tar]}}\n")
    assert open_source(tmp_path / "m.yaml", "s").unused == {"objects": 3, "url": 2}, "of all shards"
    monkeypatch.setattr(scan, "NAMES_KEPT", 1)
    again = open_source(source_file(tmp_path, "modality: text, ignore: [cls]"), "s")
    assert again.unused == {"objects": 2, "others than these 1": 1}


def test_further_members_are_passed_over_where_the_source_says_so(tmp_path: Path) -> None:
    data = encoded(picture(32, 32))
    members = {"a.jpg": data, "a.cls": b"3", "a.txt": b"A ball.", "a.detail.json": b"{", "b.cls": b"4"}
    write_tar(tmp_path / "s.tar", members)
    with pytest.raises(ValueError, match=r"'a.cls'.*pass such members over by the source's `ignore: \[cls\]`"):
        open_source(source_file(tmp_path, "modality: image"), "s")
    with pytest.raises(ValueError, match=r"'a.detail.json'.*source's `ignore: \[detail.json\]`"):
        open_source(source_file(tmp_path, "modality: image, ignore: [cls]"), "s")
    source = open_source(source_file(tmp_path, "modality: image, ignore: [cls, detail.json]"), "s")
    assert [sample.key for sample in iterate_samples(source)] == ["a"]
    without_text = open_source(source_file(tmp_path, "modality: image, ignore: [cls, txt, detail.json]"), "s")
    assert [key for key, _ in without_text.skipped] == ["a"], "another list, another index"
    with pytest.raises(ValueError, match="'a\\.cls'"):  # and no index of another mind answers for it
        open_source(source_file(tmp_path, "modality: image"), "s")


@pytest.mark.parametrize("text", ["\ufeffTwo\r\nlines\r", "Two\nlines\n", "Two\rlines\r\n"])
@pytest.mark.parametrize("form", ["txt", "json", "inside"])
def test_one_rule_for_byte_order_marks_and_line_ends(tmp_path: Path, text: str, form: str) -> None:
    """Case r09, and the same caption in each place that can hold it."""
    if form == "txt":
        members = {"a.txt": text.encode()}
    elif form == "json":
        head = "\ufeff" if text.startswith("\ufeff") else ""
        members = {"a.json": (head + '{"text":\r\n "Two\\r\\nlines\\n"}').encode()}
    else:
        members = {"a.json": json.dumps(answered(text)).encode()}
    write_tar(tmp_path / "s.tar", members)
    facts = open_source(source_file(tmp_path, "modality: text"), "s").facts(0, 0)
    assert facts.turns[-1].parts == ("Two\nlines" if form == "txt" else "Two\nlines\n",)


def test_marks_come_back_from_the_index_and_no_others() -> None:
    turns = (
        Turn(role="user", parts=(Mark("<tool_response>"), "\na")),
        Turn(role="assistant", parts=("b",), learnt=False),
        Turn(role="assistant", parts=("<think>", Mark("</think>"))),
    )
    content = Columns().add(SampleFacts(key="a", modality="text", turns=turns))
    found, _ = parse_content(content, 0)
    assert found == turns
    assert [[type(part) for part in turn.parts] for turn in found] == [[Mark, str], [str], [str, Mark]]
    assert {"<|im_end|>", "<img>"}.isdisjoint(MARKS)
    with pytest.raises(ValueError, match="do not exist"):
        parse_content(content.replace("</think>", "<|im_end|>"), 0)
