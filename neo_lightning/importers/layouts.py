"""A record of any layout -> its common form. The keys decide which layout it is (see `columns`).

    a list of turns or pairs        messages, conversations, conversation, texts; with system, tools, media, objects
    question and answer             instruction + input + output, query + response, prompt + completion; with history
    a document or a caption         text, caption; an answer alone
    preferences                     chosen and rejected beside one of these; a KTO label

Chosen and rejected answers are for another training than this: such records are left out, or `preference="chosen"`
takes the chosen side. Of records with a KTO label the good ones are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from neo_lightning.data.index.tar import VIDEO_EXTENSIONS
from neo_lightning.data.text.conversation import is_good
from neo_lightning.data.text.unused import unused
from neo_lightning.importers import places, turns
from neo_lightning.importers.columns import COLUMNS, Fields, Reading, empty, missing
from neo_lightning.importers.error import RecordError
from neo_lightning.importers.grounding import PLACE, Boxes, read_boxes
from neo_lightning.importers.parts import read
from neo_lightning.importers.record import Medium, Record, media_of

_TAKE_CHOSEN = "--preference chosen takes the chosen side"


def read_record(item: Mapping[str, Any], reading: Reading, *, only: str = "") -> Record:
    """One record in common form.

    Args:
        item: the record's keys and values.
        reading: the user's own names, and what to take of preferences.
        only: the key that the conversation must lie under, where the user named a layout.

    Raises:
        RecordError: it is laid out in no known way, needs what is not read, or is not to be learned.
    """
    fields = Fields({str(name): _without_nulls(value) for name, value in item.items()}, reading)
    if only and only not in reading.columns.values() and not isinstance(item.get(only), list | str):
        raise RecordError(
            f"no `{only}` (found {', '.join(fields.all) or 'nothing'}); --format auto reads other layouts"
        )
    preference = _preference(fields)
    images, videos = _media(fields)
    audio = fields.take("audios")
    listed = bool(images or videos)
    talk = turns.Conversation(reading=reading, literal=not listed)
    text, layout, front = _text(fields, talk, preference)
    tree: dict[str, Any] = {"text": text}
    boxes = None
    if text is not None:
        if audio is not None and not listed:
            raise RecordError("the record needs its audio, which NEO does not hear")
    else:
        _system(fields, talk)
        tree = {"messages": talk.messages}
        if (tools := fields.take("tools")) is not None and (found := turns.tools(tools)):
            tree["tools"] = found
        images, videos = _addressed(talk.images, images, "image"), _addressed(talk.videos, videos, "video")
        images = places.settle(talk.messages, images, videos, front=front)
        if audio is not None and (sound := places.needs_audio(talk.messages)):
            raise RecordError(f"the record needs its audio (`{sound}` in the text), which NEO does not hear")
        boxes = _boxes(fields, talk, bool(images or videos))
    names = [name for name in unused(tree) if boxes is None or name not in ("text: <bbox>", "text: <ref-object>")]
    meta = {**talk.kept, **fields.meta()}
    dropped = ["audio"] if audio is not None else []
    return Record(
        tree=tree,
        images=images,
        videos=videos,
        meta=meta,
        origins=tuple(talk.origins),
        boxes=boxes,
        layout=layout,
        used=tuple(fields.taken),
        unused=tuple(dict.fromkeys([*fields.unused(), *talk.unused, *dropped, *names])),
    )


def _boxes(fields: Fields, talk: turns.Conversation, shown: bool) -> Boxes | None:
    """What the places in the text stand for. Without any place nobody looks at `objects`.

    Raises:
        RecordError: a record with media has places for objects and none of these.
    """
    if not any(PLACE.search(str(message["content"])) for message in talk.messages):
        return None
    if fields.key("objects"):
        return read_boxes(turns.parsed(fields.take("objects"), "objects"))
    if shown:
        raise RecordError("text has `<ref-object>` or `<bbox>`, and no `objects` says what they stand for")
    return None


def _text(fields: Fields, talk: turns.Conversation, preference: Any) -> tuple[str | None, str, bool]:
    """A document's text, or None where there are messages; the layout's name; whether media may go in front."""
    own = [column for column in ("text", "messages", "response") if column in fields.reading.columns]
    first = own[0] if len(own) == 1 else ""
    if first != "text" and first != "response" and (key := fields.key("messages")):
        talk.read(fields.take("messages"), key)
        if preference is not None:
            _add_answer(talk, preference)
        return None, f"`{key}` of {talk.form}", key == "texts"
    asked = fields.key("prompt") or fields.key("query")
    question, more = (None, None) if first == "text" else (fields.take("prompt"), fields.take("query"))
    if question is None and more is None and preference is None:
        return _document(fields, first)
    layout = f"`{asked}` and `{fields.key('response') or 'chosen'}`" if asked else "`chosen`"
    answer = preference if preference is not None else _answer(fields)
    if isinstance(answer, list) and _starts_a_conversation(answer, talk):
        talk.read(answer, "chosen")
        return None, layout, True
    history = turns.parsed(fields.take("history"), "history")
    if history is not None:
        talk.read(history, "history")
    _ask(talk, question, more)
    _add_answer(talk, answer)
    return None, layout, True


def _answer(fields: Fields) -> Any:
    key = fields.key("response")
    if key is None:
        said = next((name for name in COLUMNS["response"] if name in fields.all), "")
        raise RecordError(
            f"the answer (`{said}`) is empty: nothing to learn"
            if said
            else f"a question and no answer (found {', '.join(fields.all)}); --columns response=KEY names the answer"
        )
    answer = fields.take("response")
    if isinstance(answer, list) and not all(isinstance(turn, dict) for turn in answer):
        raise RecordError(f"the answer (`{key}`) is a list of {len(answer)}; one must be chosen, as text or messages")
    return answer


def _ask(talk: turns.Conversation, question: Any, more: Any) -> None:
    """The question of a record of columns; a conversation up to it may stand there as well."""
    if isinstance(question, list):
        talk.read(question, "prompt")
        return
    text = "\n".join(str(part) for part in (question, more) if not empty(part))
    if not isinstance(question, str | int | float | None) or not isinstance(more, str | int | float | None):
        raise RecordError("the question must be text, or a list of messages")
    if text:
        talk.add("user", text)


def _document(fields: Fields, first: str) -> tuple[str | None, str, bool]:
    key, answer = fields.key("text"), fields.key("response")
    if (key is None) == (answer is None) or (answer and first == "text"):
        found = ", ".join(fields.all) or "nothing"
        if key and answer:
            raise RecordError(
                f"both `{key}` and `{answer}` and no question: --columns prompt={key} makes it the question"
            )
        columns = [name for name in ("messages", "text", "response") for name in fields.names(name)]
        if blank := next((name for name in fields.all if name in columns), ""):
            raise RecordError(f"`{blank}` is empty: nothing to learn")
        own = fields.reading.columns.get("text")
        wanted = repr(own) if own else "a conversation, question and answer, text or caption"
        raise RecordError(f"no text under {wanted} (found {found}); --columns messages=KEY, prompt=KEY,response=KEY or "
                          "text=KEY names it")  # fmt: skip
    value = fields.take("text" if key else "response")
    if not isinstance(value, str):
        raise RecordError(f"`{key or answer}` must be text, got {type(value).__name__}")
    return value, f"`{key or answer}`, a document or caption", True


def _preference(fields: Fields) -> Any:
    """The chosen answer, where the user asks for it and the record has one; None where it is no such record.

    Raises:
        RecordError: a record with chosen and rejected answers that the user did not ask for, or a bad answer.
    """
    label = fields.key("kto_tag")
    talk = bool(fields.key("messages"))
    good = is_good("label" if label == "label" else "kto_tag", fields.peek("kto_tag"), talk=talk)
    if good is False:
        raise RecordError(f"`{label}` is false: a bad answer is not learned")
    if good:
        fields.take("kto_tag")
    elif label and label != "label":
        raise RecordError(f"`{label}` is {fields.peek('kto_tag')!r}, which is neither true (1) nor false (0)")
    rejected = [name for name in fields.all if name.startswith("rejected")]
    chosen = fields.key("chosen")
    if not chosen and not fields.key("rejected") and not any(name in rejected for name in fields.unused()):
        return None
    names = " and ".join(f"`{name}`" for name in (chosen, *rejected) if name)
    if fields.reading.preference != "chosen":
        raise RecordError(f"preference data ({names}) is not learned here; {_TAKE_CHOSEN}")
    fields.drop(rejected)
    return fields.take("chosen")


def _starts_a_conversation(answer: list[Any], talk: turns.Conversation) -> bool:
    """Whether a chosen side holds the question as well."""
    probe = turns.Conversation(reading=talk.reading, literal=True)
    probe.read(answer, "chosen")
    return probe.messages[0]["role"] in ("system", "user")


def _add_answer(talk: turns.Conversation, answer: Any) -> None:
    """The answer behind the question: text, a turn, or turns; a whole conversation takes the place of it."""
    if isinstance(answer, list):
        if _starts_a_conversation(answer, talk):
            talk.clear()
        talk.read(answer, "answer")
    elif isinstance(answer, dict):
        talk.turn(answer, "answer")
    else:
        talk.add("assistant", answer)


def _system(fields: Fields, talk: turns.Conversation) -> None:
    """The record's own system turn; one among the messages goes before it."""
    if (key := fields.key("system")) is None or (talk.messages and talk.messages[0]["role"] == "system"):
        return
    text = read(fields.take("system"), literal=True).content
    if not isinstance(text, str):
        raise RecordError(f"`{key}` must be text")
    talk.messages.insert(0, {"role": "system", "content": text})
    talk.origins.insert(0, key)


def _media(fields: Fields) -> tuple[list[Medium], list[Medium]]:
    """Images and clips that the record lists; `file_name` is of the kind that its extension says."""
    found: dict[str, list[Medium]] = {}
    for column in ("images", "videos"):
        key = fields.key(column)
        value = fields.take(column)
        if isinstance(value, str) and value.startswith("["):
            with suppress(RecordError):  # a file may be called `[1].jpg`
                value = turns.parsed(value, str(key))
        found[column] = [] if key is None else media_of(value, key)
    if key := fields.key("files"):
        for name in media_of(fields.take("files"), key):
            column = "videos" if str(name).lower().rpartition(".")[2] in VIDEO_EXTENSIONS else "images"
            found[column].append(name)
    return found["images"], found["videos"]


def _addressed(named: list[Medium | int | None], listed: list[Medium], kind: str) -> list[Medium]:
    """The media of the parts, from the parts' own addresses or from the record's list."""
    if not named or all(one is None for one in named):
        return listed
    addresses = [one for one in named if isinstance(one, str | bytes)]
    if addresses:
        if listed or len(addresses) != len(named):
            raise RecordError(f"{kind} addresses stand both in the parts and in a list")
        return addresses
    numbers = [one for one in named if isinstance(one, int)]
    if len(numbers) != len(named) or not all(0 <= number < len(listed) for number in numbers):
        raise RecordError(f"`index` of the {kind} parts does not fit the {len(listed)} {kind}s that the record lists")
    return [listed[number] for number in numbers]


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct all fields of its column; those without a value are not there."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if not missing(inner)}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
