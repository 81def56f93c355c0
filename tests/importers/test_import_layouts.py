"""Every layout that peers write: what the shard holds of it, or the reason why it is left out.

The records are our own, in the layouts of LLaMA-Factory's, ms-swift's and Qwen3-VL's demo data and documentation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from importer_helpers import CLIP, PHOTO, lines, log, members

from neo_lightning.importers import Reading, import_dataset

Turns = list[dict[str, Any]]


def talk(question: Any = "Ask", answer: Any = "Say", **more: Any) -> Turns:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]


def system(text: str = "Rule") -> dict[str, Any]:
    return {"role": "system", "content": text}


def call(name: str = "look", arguments: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {"at": 1} if arguments is None else arguments}}


CALL = json.dumps({"name": "look", "arguments": {"at": 1}})
TOOL = {"name": "look", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": TOOL}
HUMAN, GPT = {"from": "human", "value": "Ask"}, {"from": "gpt", "value": "Say"}
LOOKED: Turns = [
    {"role": "user", "content": "Ask"},
    {"role": "assistant", "content": "", "tool_calls": [call()]},
    {"role": "tool", "content": "Seen"},
    {"role": "assistant", "content": "Say"},
]

TEXTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sharegpt": ({"conversations": [HUMAN, GPT]}, {"messages": talk()}),
    "sharegpt, other roles": (
        {"conversations": [{"from": "user", "value": "Ask"}, {"from": "assistant", "value": "Say"}]},
        {"messages": talk()},
    ),
    "sharegpt, role and content": ({"conversations": talk()}, {"messages": talk()}),
    "messages, from and value": ({"messages": [HUMAN, GPT]}, {"messages": talk()}),
    "system beside sharegpt": (
        {"conversations": [HUMAN, GPT], "system": "Rule", "tools": "[]"},
        {"messages": [system(), *talk()]},
    ),
    "system beside messages": ({"messages": talk(), "system": "Rule"}, {"messages": [system(), *talk()]}),
    "system among sharegpt": (
        {"conversations": [{"from": "system", "value": "Rule"}, HUMAN, GPT]},
        {"messages": [system(), *talk()]},
    ),
    "tools as JSON": (
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": CALL},
                {"from": "observation", "value": "Seen"},
                GPT,
            ],
            "tools": json.dumps([TOOL]),
        },
        {"messages": LOOKED, "tools": [WRAPPED]},
    ),
    "tools and calls of OpenAI": (
        {
            "messages": [
                talk()[0],
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **call(arguments='{"at": 1}')}]},
                {"role": "tool", "tool_call_id": "c1", "content": "Seen"},
                talk()[1],
            ],
            "tools": [WRAPPED],
        },
        {
            "messages": [
                talk()[0],
                {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **call(arguments='{"at": 1}')}]},
                {"role": "tool", "content": "Seen", "tool_call_id": "c1"},
                talk()[1],
            ],
            "tools": [WRAPPED],
        },
    ),
    "calls that follow each other": (
        {
            "messages": [
                talk()[0],
                {"role": "tool_call", "content": CALL},
                {"role": "tool_call", "content": CALL},
                {"role": "tool_response", "content": "Seen"},
                {"role": "tool_response", "content": "Seen"},
                talk()[1],
            ]
        },
        {
            "messages": [
                talk()[0],
                {"role": "assistant", "content": "", "tool_calls": [call(), call()]},
                {"role": "tool", "content": "Seen"},
                {"role": "tool", "content": "Seen"},
                talk()[1],
            ]
        },
    ),
    "parts with a value, reasoning and calls": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Ask"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "reasoning", "value": "Hm"}, {"type": "tool_call", "value": CALL}],
                },
                {"role": "tool", "content": [{"type": "text", "value": "Seen"}]},
                {"role": "assistant", "content": [{"type": "text", "value": "Say"}]},
            ]
        },
        {"messages": [LOOKED[0], {**LOOKED[1], "reasoning_content": "Hm"}, *LOOKED[2:]]},
    ),
    "parts of Anthropic": (
        {
            "messages": [
                talk()[0],
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {"at": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "Seen"}]},
                talk()[1],
            ]
        },
        {
            "messages": [
                talk()[0],
                {"role": "assistant", "content": "", "tool_calls": [{"id": "c", **call()}]},
                {"role": "tool", "content": "Seen", "tool_call_id": "c"},
                talk()[1],
            ]
        },
    ),
    "weights of turns": (
        {
            "messages": [
                *talk(loss_weight=0.0),
                *talk(loss=False),
                *talk(weight=0),
                *talk(loss_scale=0),
                *talk(loss=True),
            ]
        },
        {"messages": [*talk(loss=False), *talk(loss=False), *talk(loss=False), *talk(loss=False), *talk()]},
    ),
    "weights of questions": (
        {"messages": [{**talk()[0], "loss_weight": 0.0}, {**talk()[1], "loss_weight": 1.0}]},
        {"messages": talk()},
    ),
    "pairs of human and assistant": (
        {
            "system": "Rule",
            "conversation": [{"human": "Ask", "assistant": "Say"}, {"human": "And?", "assistant": "No"}],
        },
        {"messages": [system(), *talk(), *talk("And?", "No")]},
    ),
    "pairs of input and output": (
        {"conversation": [{"system": "Rule", "input": "Ask", "output": "Say"}]},
        {"messages": [system(), *talk()]},
    ),
    "query and response": (
        {"system": "Rule", "query": "Ask", "response": "Say", "history": [["One", "Two"]]},
        {"messages": [system(), *talk("One", "Two"), *talk()]},
    ),
    "alpaca": ({"instruction": "Ask", "input": "", "output": "Say"}, {"messages": talk()}),
    "alpaca with input": (
        {"instruction": "Ask", "input": "this", "output": "Say", "history": [["One", "Two"]], "system": "Rule"},
        {"messages": [system(), *talk("One", "Two"), *talk("Ask\nthis")]},
    ),
    "prompt and completion": ({"prompt": "Ask", "completion": "Say"}, {"messages": talk()}),
    "prompt and completion as messages": (
        {"prompt": talk()[:1], "completion": talk()[1:]},
        {"messages": talk()},
    ),
    "a number as answer": ({"question": "1 + 1", "answer": 2}, {"messages": talk("1 + 1", "2")}),
    "document": ({"text": "Words."}, {"text": "Words."}),
    "answer alone": ({"response": "Words."}, {"text": "Words."}),
    "KTO, good, as a number": ({"messages": talk(), "label": 1}, {"messages": talk()}),
    "KTO, good": ({"messages": talk(), "label": True}, {"messages": talk()}),
}

MEDIA: dict[str, tuple[dict[str, Any], Turns]] = {
    "image and placeholder": (
        {"image": "x.jpg", "conversations": [{"from": "human", "value": "<image>\nAsk"}, GPT]},
        talk("<image>\nAsk"),
    ),
    "image without placeholder": ({"image": "x.jpg", "conversations": [HUMAN, GPT]}, talk()),
    "images of a query": (
        {"query": "Ask", "response": "Say", "images": ["x.jpg", "x.jpg"]},
        talk("<image><image>\nAsk"),
    ),
    "address in the text": ({"query": "<img>x.jpg</img>Ask", "response": "Say"}, talk("<image>Ask")),
    "places in text parts": (
        {"messages": talk([{"type": "text", "text": "<image>Ask"}]), "images": ["x.jpg"]},
        talk("<image>Ask"),
    ),
    "another family's places": (
        {"messages": talk("<|vision_start|><|image_pad|><|vision_end|>Ask"), "images": ["x.jpg"]},
        talk("<image>Ask"),
    ),
    "numbered places": (
        {"messages": talk("<image_1> or <image_2>"), "images": ["x.jpg", "x.jpg"]},
        talk("<image> or <image>"),
    ),
    "boxes": (
        {
            "messages": talk("<image>Find the <ref-object>", "<bbox> and <bbox>"),
            "images": ["x.jpg"],
            "objects": {"ref": ["ball"], "bbox": [[4, 3, 40, 30], [20, 15]]},
        },
        talk("<image>Find the <ref>ball</ref>", "<box>[[100, 100, 1000, 1000]]</box> and <box>[[500, 500]]</box>"),
    ),
    "boxes in parts of 1": (
        {
            "messages": talk("<image>Find", "<bbox>"),
            "images": ["x.jpg"],
            "objects": {"ref": [], "bbox": [[0.1, 0.25, 0.5, 1]], "bbox_type": "norm1"},
        },
        talk("<image>Find", "<box>[[100, 250, 500, 1000]]</box>"),
    ),
    "clip where the text says image": (
        {"video": "x.mp4", "conversations": [{"from": "human", "value": "<image>\nAsk"}, GPT]},
        talk("<video>\nAsk"),
    ),
    "image where the text says video": (
        {"image": "x.jpg", "conversations": [{"from": "human", "value": "<video>\nAsk"}, GPT]},
        talk("<image>\nAsk"),
    ),
    "sound beside a clip": (
        {"messages": talk("<video>Ask"), "videos": ["x.mp4"], "audios": ["x.mp3"]},
        talk("<video>Ask"),
    ),
}

PARTS: dict[str, dict[str, Any]] = {
    "image": {"type": "image", "image": "x.jpg"},
    "url": {"type": "image", "url": "x.jpg"},
    "path": {"type": "image", "path": "x.jpg"},
    "image_path": {"type": "image", "image_path": "x.jpg"},
    "input_image": {"type": "input_image", "image_url": "x.jpg"},
    "image_url": {"type": "image_url", "image_url": {"url": "x.jpg"}},
    "value": {"type": "image_url", "value": "x.jpg"},
    "no type": {"image": "x.jpg"},
    "an object of bytes and path": {"type": "image", "image": {"bytes": None, "path": "x.jpg"}},
    "a file URL with escapes": {"type": "image", "url": "file://FOLDER/two%20words.jpg"},
}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "KTO, bad": ({"messages": talk(), "label": False}, "`label` is false: a bad answer"),
    "KTO, bad, as a number": ({"messages": talk(), "label": 0}, "`label` is false"),
    "KTO, bad, as a number beside ShareGPT": ({"conversations": [HUMAN, GPT], "label": "0"}, "`label` is false"),
    "a question of null": ({"messages": talk(None)}, "`messages[0]`: the user's content is null"),
    "a question of null, ShareGPT": ({"conversations": [{"from": "human", "value": None}, GPT]}, "content is null"),
    "KTO, bad, as text": ({"prompt": "Ask", "completion": "Say", "kto_tag": "false"}, "`kto_tag` is false"),
    "chosen and rejected": (
        {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT},
        "`chosen` and `rejected`) is not learned here; --preference chosen",
    ),
    "chosen and rejected conversations": (
        {"chosen_messages": talk(), "rejected_messages": talk()},
        "`chosen_messages` and `rejected_messages`",
    ),
    "rejected alone": ({"messages": talk(), "rejected_response": "No"}, "`rejected_response`"),
    "rejected images": ({"messages": talk(), "rejected_images": ["x.jpg"]}, "`rejected_images`"),
    "audio": ({"messages": talk("<audio>Ask"), "audios": ["x.mp3"]}, "needs its audio (`<audio>` in the text)"),
    "audio and clip": (
        {"messages": talk("<video><audio>Ask"), "videos": ["x.mp4"], "audios": ["x.mp3"]},
        "needs its audio",
    ),
    "audio and its words": ({"audio": "x.mp3", "text": "Words."}, "needs its audio"),
    "audio part": ({"messages": talk([{"type": "input_audio", "input_audio": "x"}])}, "needs its audio"),
    "empty answer": ({"messages": talk(answer="")}, "empty"),
    "empty column": ({"instruction": "Ask", "output": ""}, "the answer (`output`) is empty"),
    "no answer": ({"instruction": "Ask"}, "--columns response="),
    "unknown keys": ({"prose": "Words."}, "found prose); --columns messages="),
    "unknown role": ({"messages": [{"role": "customer", "content": "Ask"}]}, "--roles ROLE=customer"),
    "unknown part": ({"messages": talk([{"type": "hologram"}])}, "`messages[0]`: unknown part of type 'hologram'"),
    "two conversations": ({"messages": talk(), "conversations": [HUMAN, GPT]}, "--columns messages=KEY"),
    "boxes without objects": ({"messages": talk("<image>", "<bbox>"), "images": ["x.jpg"]}, "no `objects`"),
    "fewer boxes than places": (
        {"messages": talk("<image>", "<bbox><bbox>"), "images": ["x.jpg"], "objects": {"ref": [], "bbox": [[1, 1]]}},
        "text has 2 `<bbox>`, `objects.bbox` holds 1",
    ),
    "box outside": (
        {"messages": talk("<image>", "<bbox>"), "images": ["x.jpg"], "objects": {"ref": [], "bbox": [[0, 0, 400, 3]]}},
        "outside of an image of 40 x 30",
    ),
    "calls that are no JSON": ({"conversations": [HUMAN, {"from": "function_call", "value": "look"}]}, "not JSON"),
    "a clip as frames": ({"messages": talk("<video>"), "videos": [["x.jpg", "x.jpg"]]}, "list of frames"),
    "a place of another order": ({"messages": talk("<image_2><image_1>"), "images": ["x.jpg"] * 2}, "order"),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    """All records of this file in one: what the shards hold by `id`, and the reasons by line."""
    folder = tmp_path_factory.mktemp("layouts")
    for name, data in (("x.jpg", PHOTO), ("x.mp4", CLIP), ("two words.jpg", PHOTO)):
        (folder / name).write_bytes(data)
    good: dict[str, dict[str, Any]] = {name: record for name, (record, _) in {**TEXTS, **MEDIA}.items()}
    good |= {
        f"part {name}": {"messages": talk([part, {"type": "text", "text": "Ask"}])} for name, part in PARTS.items()
    }
    records = [{"id": name, **record} for name, record in good.items()] + [record for record, _ in BAD.values()]
    file = lines(folder / "f.jsonl", json.loads(json.dumps(records).replace("FOLDER", str(folder))))
    import_dataset("auto", [file], folder / "out", media=folder, workers=1)
    samples = [s for kind in ("text", "image", "multi_image", "video") for s in members(folder / "out", kind)]
    trees = [json.loads(sample["json"]) for sample in samples]
    reasons = dict(log(folder / "out"))
    return {tree["meta"]["id"]: tree for tree in trees}, {
        name: reasons.get(f"f.jsonl, line {len(good) + number}", "it was imported")
        for number, name in enumerate(BAD, start=1)
    }


@pytest.mark.parametrize("name", TEXTS)
def test_text_records(imported: Any, name: str) -> None:
    assert imported[0][name] == {**TEXTS[name][1], "meta": {"id": name}}


@pytest.mark.parametrize("name", MEDIA)
def test_records_with_media(imported: Any, name: str) -> None:
    assert imported[0][name] == {"messages": MEDIA[name][1], "meta": {"id": name}}


@pytest.mark.parametrize("name", PARTS)
def test_spellings_of_a_part(imported: Any, name: str) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "Ask"}]
    assert imported[0][f"part {name}"] == {"messages": talk(parts), "meta": {"id": f"part {name}"}}


@pytest.mark.parametrize("name", BAD)
def test_what_is_left_out(imported: Any, name: str) -> None:
    assert BAD[name][1] in imported[1][name]


CHOSEN: dict[str, dict[str, Any]] = {
    "turns": {"conversations": [HUMAN], "chosen": GPT, "rejected": HUMAN},
    "text": {"prompt": "Ask", "chosen": "Say", "rejected": "No"},
    "lists of turns": {"prompt": talk()[:1], "chosen": talk()[1:], "rejected": talk()[1:]},
    "conversations": {"prompt": "Ask", "chosen": talk(), "rejected": talk(answer="No")},
    "conversations alone": {"chosen_messages": talk(), "rejected_messages": talk(answer="No")},
    "beside messages": {"messages": talk(), "rejected_response": "No", "rejected_images": ["x.jpg"]},
    "beside columns": {"query": "Ask", "response": "Say", "rejected_response": "No"},
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_chosen_side(tmp_path: Path, name: str) -> None:
    file, reading = lines(tmp_path / "f.jsonl", [CHOSEN[name]]), Reading(preference="chosen")
    import_dataset("auto", [file], tmp_path / "out", reading=reading, strict=True)
    (sample,) = members(tmp_path / "out", "text")
    assert json.loads(sample["json"])["messages"] == talk()


def test_columns_and_roles_of_ones_own(tmp_path: Path) -> None:
    """A dialogue in nobody's words, and a key of a known name that means something else."""
    turns = [{"speaker": "customer", "utterance": "<image>Ask"}, {"speaker": "agent", "utterance": "Say"}]
    (tmp_path / "x.jpg").write_bytes(PHOTO)
    file = lines(tmp_path / "f.jsonl", [{"dialog": turns, "pics": ["x.jpg"], "messages": "7 unread"}])
    columns = {"messages": "dialog", "role": "speaker", "content": "utterance", "images": "pics"}
    reading = Reading(columns=columns, roles={"customer": "user", "agent": "assistant"})
    report = import_dataset("auto", [file], tmp_path / "out", media=tmp_path, reading=reading)
    (sample,) = members(tmp_path / "out", "image")
    assert json.loads(sample["json"])["messages"] == talk("<image>Ask")
    assert report.unused == {"messages": 1}
