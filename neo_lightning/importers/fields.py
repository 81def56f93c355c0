"""Members of a WebDataset sample -> the columns of a record, by a map from the command line or by a user's function.

    image=jpg;png;webp            the first of these members that the sample has; named again: a second image
    image=*.jpg                   all that match, `2.jpg` before `10.jpg`
    text=txt  answer=cls          a member's text
    answer=json.caption           what a JSON member holds under a key; `json.0.value` or `json[0].value`: in a list
    question="What is this?"      what cannot be a member's name, or stands in quotes of its own: text for every sample
    meta=json  ignore=*.xml       kept beside the sample; known to be there and not wanted

Media: image, video. Text: text (a caption or a document), question with answer, system. Whole conversations in JSON:
messages, conversations. Members, and keys of a JSON member, that the map does not use are named beside the record.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from neo_lightning.data.files import parse_json
from neo_lightning.importers.record import RecordError

MEDIA, TEXTS, TREES = ("image", "video"), ("text", "question", "answer", "system"), ("messages", "conversations")
FIELDS = (*MEDIA, *TEXTS, *TREES, "meta", "ignore")
_ONE_NAME = r"[\w*-]+(\.[\w*-]+)*"
_NAMES = re.compile(f"{_ONE_NAME}(;{_ONE_NAME})*")
_CLASS = ("cls", "cls.txt")
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Field:
    """One argument of the map."""

    name: str
    """One of FIELDS."""
    members: tuple[str, ...] = ()
    """Alternatives: a member's extension, or a JSON member's and the keys inside it."""
    text: str = ""
    """The same for every sample, where no member is named."""


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """What becomes of a sample's members."""

    fields: tuple[Field, ...] = ()
    function: str = ""
    """Dotted name of a user's function, in place of fields: `{"__key__": key, extension: bytes}` -> record, or None."""
    classes: tuple[str, ...] = ()
    """Names that stand for the numbers in `cls` members."""

    def record(self, key: str, sample: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
        """A record in columns, and names of what the map does not use. `sample`: members by extension in lower case.

        Raises:
            RecordError: a member is missing or is not what the field takes, or the function fails.
        """
        if self.function:
            return {"id": key, **_call(self.function, {"__key__": key, **sample})}, []
        members, found = _Members(sample, self.classes), dict[str, list[Any]]()
        for field in self.fields:
            if field.name != "ignore":
                found.setdefault(field.name, []).extend([field.text] if field.text else members.take(field))
        ignored = [pattern for field in self.fields if field.name == "ignore" for pattern in field.members]
        return {"id": key, **_columns(found)}, members.unused(ignored)


def field_map(arguments: Iterable[str], function: str, classes: str | Path | None) -> FieldMap:
    """What the command line says about a sample's members; empty where it says nothing.

    Raises:
        RecordError: fields and a function, an unknown field or function, or no such file of classes.
    """
    fields = parse_fields(arguments) if (arguments := list(arguments)) else ()
    if function and (fields or classes):
        raise RecordError("--function makes the whole record: it goes without --fields and --classes")
    if function:
        load_function(function)
    try:
        names = Path(classes).read_text(encoding="utf-8-sig").splitlines() if classes else []
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"--classes {classes}: {getattr(error, 'strerror', None) or error}") from error
    return FieldMap(fields=fields, function=function, classes=tuple(names))


def parse_fields(arguments: Iterable[str]) -> tuple[Field, ...]:
    """`NAME=MEMBERS` or `NAME=some text`, each an argument, or with commas between them.

    Raises:
        RecordError: no such field, or a set of fields that makes no sample.
    """
    fields = []
    for argument in (part for text in arguments for part in re.split(f",(?=(?:{'|'.join(FIELDS)})=)", text)):
        name, _, value = argument.partition("=")
        if not value.strip() or name not in FIELDS:
            raise RecordError(f"--fields: expected NAME=MEMBER with NAME one of {', '.join(FIELDS)}; got {argument!r}")
        members = re.sub(r"\[(\d+)\]", r".\1", value)
        if _NAMES.fullmatch(members):
            fields.append(Field(name=name, members=tuple(members.split(";"))))
        elif name in TEXTS:
            quoted = re.fullmatch(r"""(["'])(.+)\1""", value, re.DOTALL)
            fields.append(Field(name=name, text=quoted[2] if quoted else value))
        else:
            raise RecordError(f"--fields: {name} takes members, such as jpg;png or json.key; got {value!r}")
    names = [field.name for field in fields]
    if names.count("question") != names.count("answer"):
        raise RecordError("--fields: each question needs an answer and each answer a question; a caption is text=")
    if sum(names.count(name) for name in ("text", *TREES)) + ("answer" in names) != 1:
        raise RecordError("--fields: one text, question with answer, messages or conversations says what is learned")
    if names.count("system") > ("text" not in names):
        raise RecordError("--fields: one system turn at most, and none in front of a plain text")
    return tuple(fields)


def load_function(name: str) -> Callable[[dict[str, Any]], Any]:
    """A user's function by its dotted name.

    Raises:
        RecordError: there is none.
    """
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecordError(f"--function {name}: {error}") from error
    if not callable(function):
        raise RecordError(f"--function {name}: not a function")
    return function


def digest(fields: FieldMap) -> str:
    """Changes when the map does, or the file in which the function stands."""
    text = repr(fields)
    if fields.function and (source := inspect.getsourcefile(load_function(fields.function))):
        text += hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


class _Members:
    """A sample's members, of which note is taken when they are used."""

    def __init__(self, sample: Mapping[str, bytes], classes: tuple[str, ...]) -> None:
        self._sample, self._classes = sample, classes
        self._trees: dict[str, Any] = {}
        self._used: dict[str, set[str]] = {}
        """Member -> keys that were used; the empty one stands for all of it."""

    def take(self, field: Field) -> list[Any]:
        """The field's values in this sample: several only of media and patterns."""
        patterns = [name for name in field.members if "*" in name]
        if patterns:
            names = [name for name in self._sample if any(fnmatchcase(name, pattern.lower()) for pattern in patterns)]
            if names:
                return [one for name in sorted(names, key=_natural) for one in self._values(field.name, name)]
        for name in field.members:
            if values := self._values(field.name, name):
                return values
        hint = ""
        if field.name in TEXTS and len(field.members) == 1:
            hint = f"; a word that is meant as it stands needs quotes of its own, {field.name}='\"{field.members[0]}\"'"
        raise RecordError(f"no member {' or '.join(field.members)} for {field.name} ({self._found()}){hint}")

    def unused(self, ignored: Iterable[str]) -> list[str]:
        """Members, and keys of JSON members, that no field used and nobody wants ignored."""
        names = []
        for member in self._sample:
            used = self._used.get(member)
            if used is None:
                names.append(member)
            elif "" not in used:
                tree = self._trees[member]
                names += [f"{member}.{key}" for key in tree if key not in used] if isinstance(tree, dict) else []
                names += [f"{member}[]"] if isinstance(tree, list) and len(used) < len(tree) else []
        patterns = [pattern.lower() for pattern in ignored]
        names = [name for name in names if not any(fnmatchcase(name.lower(), pattern) for pattern in patterns)]
        return [f"member {name}" for name in names]

    def _values(self, field: str, name: str) -> list[Any]:
        """Empty where the sample has no such member, or the member no such key."""
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            member, keys = ".".join(parts[:count]).lower(), parts[count:]
            if member in self._sample and (not keys or member.endswith("json")):
                value = self._inside(member, keys, field)
                if value is _MISSING:
                    return []
                self._used.setdefault(member, set()).add(keys[0] if keys else "")
                many = isinstance(value, list) and field in MEDIA
                return [_checked(field, one, name) for one in (value if many else [value])]
        return []

    def _inside(self, member: str, keys: list[str], field: str) -> Any:
        data = self._sample[member]
        if member.endswith("json"):
            if member not in self._trees:
                self._trees[member] = _parsed(member, data)
            value = self._trees[member]
            for key in keys:
                if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                    value = value[int(key)]
                elif isinstance(value, dict) and value.get(key) is not None:
                    value = value[key]
                else:
                    return _MISSING
            return value
        if field in MEDIA:
            return data
        text = _decoded(member, data)
        return self._class(member, text) if self._classes and member in _CLASS else text

    def _class(self, member: str, text: str) -> str:
        if not text.isdecimal() or int(text) >= len(self._classes):
            raise RecordError(f"member {member} holds {text[:40]!r}, the classes are 0 to {len(self._classes) - 1}")
        return self._classes[int(text)]

    def _found(self) -> str:
        return f"found {', '.join(sorted(self._sample)) or 'none'}; a key ends at the first dot of a file name"


def _checked(field: str, value: Any, name: str) -> Any:
    """The value, if the field takes it; numbers become text."""
    if field == "meta":
        return name, value
    if field in TEXTS and isinstance(value, int | float):
        return json.dumps(value)
    if field in TEXTS and not isinstance(value, str):
        raise RecordError(f"{field}={name}: a {type(value).__name__}, not text; name a key or place inside it")
    if field in TREES and not isinstance(value, list):
        raise RecordError(f"{field}={name}: expected a list of turns in JSON; name the key that holds it")
    if field in MEDIA and not isinstance(value, str | bytes):
        raise RecordError(f"{field}={name}: a {type(value).__name__}, neither a file nor a file's name")
    return value


def _columns(found: dict[str, list[Any]]) -> dict[str, Any]:
    """Media go in front of the first question, or of the text, unless that says `<image>` or `<video>` itself."""
    columns: dict[str, Any] = {f"{kind}s": found[kind] for kind in MEDIA if kind in found}
    columns |= {name: found[name][0] for name in TREES if name in found}
    if "meta" in found:
        columns["meta"] = dict(found["meta"])
    marks = "".join(f"<{kind}>" * len(found[kind]) for kind in found if kind in MEDIA)
    if "text" in found:
        (text,) = found["text"]
        columns["text"] = text if _places(text) else marks + text
    elif "answer" in found:
        turns = [{"role": "system", "content": text} for text in found.get("system", [])]
        for question, answer in zip(found["question"], found["answer"], strict=True):
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        questions = [turn for turn in turns if turn["role"] == "user"]
        if marks and not any(_places(turn["content"]) for turn in turns):
            questions[0]["content"] = f"{marks}\n{questions[0]['content']}"
        columns["messages"] = turns
    elif "system" in found:
        columns["system"] = found["system"][0]
    return columns


def _places(text: str) -> bool:
    return "<image>" in text or "<video>" in text


def _call(name: str, sample: dict[str, Any]) -> dict[str, Any]:
    try:
        record = load_function(name)(sample)
    except (Exception, SystemExit) as error:
        raise RecordError(f"{name} failed: {type(error).__name__}: {error}") from error
    if record is None:
        raise RecordError(f"left out by {name}")
    if not isinstance(record, dict):
        raise RecordError(f"{name} must return a dict or None, not {type(record).__name__}")
    return record


def _parsed(member: str, data: bytes) -> Any:
    try:
        return parse_json(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"member {member}: not JSON in UTF-8: {error}") from error


def _decoded(member: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RecordError(f"member {member}: not UTF-8 at byte {error.start}") from error


def _natural(name: str) -> list[tuple[int, str]]:
    """`2.jpg` before `10.jpg`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
