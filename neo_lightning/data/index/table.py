"""Facts of many samples as columns: what the plan looks at, without an object per sample.

    SampleFacts --Columns.add--> Arrow table (a row per sample) --FactsTable.from_arrow--> numpy arrays

Lists of unequal length (turns, media, frames) are flat arrays with splits: entries of row r are [splits[r],
splits[r+1]). The text itself (`content`) and the members' places stay out of `FactsTable`: planning needs neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neo_lightning.data.facts import MediaFacts, SampleFacts, Turn
from neo_lightning.data.index.tar import Member
from neo_lightning.data.media.formats import IMAGE_READERS
from neo_lightning.data.text.answers import MARKS
from neo_lightning.types import MODALITIES, Mark

ROLES = ("system", "user", "assistant")
KINDS = ("image", "video")
FORMATS = ("", *IMAGE_READERS)

_FACTS = {
    "key": pa.string(),
    "reason": pa.string(),  # why the sample is left out; null: it is usable
    "modality": pa.uint8(),
    "role": pa.list_(pa.uint8()),  # of each turn
    "learnt": pa.list_(pa.bool_()),  # whether a turn is an answer that the model learns
    "characters": pa.list_(pa.int32()),  # of each turn's text
    "kind": pa.list_(pa.uint8()),  # of each medium, as all that follow
    "format": pa.list_(pa.uint8()),
    "width": pa.list_(pa.int32()),
    "height": pa.list_(pa.int32()),
    "orientation": pa.list_(pa.uint8()),
    "plain": pa.list_(pa.bool_()),
    "duration": pa.list_(pa.float64()),
    "ticks_a_second": pa.list_(pa.int64()),  # time base, denominator
    "seconds_a_tick": pa.list_(pa.int64()),  # time base, numerator
    "frames": pa.list_(pa.int32()),
    "tick": pa.list_(pa.int64()),  # of each frame of each clip
}
_CONTENT = {"content": pa.string()}  # JSON: [[turn, ...], meta], see `_turn_json`
_MEMBERS = {
    "name": pa.list_(pa.string()),  # of each medium's member
    "offset": pa.list_(pa.int64()),
    "size": pa.list_(pa.int64()),
    "crc": pa.list_(pa.uint32()),
}
_CHECK = {"key_hash": pa.uint64()}

FACTS, CONTENT, MEMBERS = list(_FACTS), list(_CONTENT), list(_MEMBERS)
SCHEMA = pa.schema(list((_FACTS | _CONTENT | _MEMBERS | _CHECK).items()))


class Columns:
    """Collects samples and gives them back as an Arrow table of `SCHEMA`."""

    def __init__(self) -> None:
        self._values: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def __len__(self) -> int:
        return len(self._values["key"])

    def add(self, facts: SampleFacts, media: Sequence[Member] = (), crcs: Sequence[int] = ()) -> str:
        """Append a usable sample with its media's members; returns its content's JSON."""
        ticks = [medium.ticks for medium in facts.media]
        content = json.dumps([[_turn_json(turn) for turn in facts.turns], dict(facts.meta)])
        self._append(
            key=facts.key,
            reason=None,
            modality=MODALITIES.index(facts.modality),
            role=[ROLES.index(turn.role) for turn in facts.turns],
            learnt=[turn.role == "assistant" and turn.learnt for turn in facts.turns],
            characters=[sum(len(part) for part in turn.parts if isinstance(part, str)) for turn in facts.turns],
            kind=[KINDS.index(medium.kind) for medium in facts.media],
            format=[FORMATS.index(medium.format) for medium in facts.media],
            width=[medium.width for medium in facts.media],
            height=[medium.height for medium in facts.media],
            orientation=[medium.orientation for medium in facts.media],
            plain=[medium.plain for medium in facts.media],
            duration=[medium.duration for medium in facts.media],
            ticks_a_second=[medium.time_base[1] for medium in facts.media],
            seconds_a_tick=[medium.time_base[0] for medium in facts.media],
            frames=[0 if tick is None else len(tick) for tick in ticks],
            tick=[int(t) for tick in ticks if tick is not None for t in tick],
            content=content,
            name=[member.name for member in media],
            offset=[member.offset for member in media],
            size=[member.size for member in media],
            crc=list(crcs),
        )
        return content

    def leave_out(self, key: str, reason: str) -> None:
        """Append a sample that cannot be used."""
        self._append(key=key, reason=reason, modality=0, content="")

    def _append(self, **values: Any) -> None:
        values["key_hash"] = int.from_bytes(hashlib.blake2b(values["key"].encode(), digest_size=8).digest(), "little")
        for name, column in self._values.items():
            column.append(values.get(name, [] if name not in ("key", "reason", "modality", "content") else None))

    def to_arrow(self) -> pa.Table:
        """The table."""
        return pa.table({f.name: pa.array(self._values[f.name], f.type) for f in SCHEMA}, schema=SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FactsTable:
    """Facts of N usable samples with T turns, M media and F frames in all."""

    keys: pa.StringArray
    """[N]; `str(keys[sample_index])`."""
    modality: np.ndarray
    """[N] uint8, index into types.MODALITIES."""
    turn_splits: np.ndarray
    """[N + 1] int64: turns of row r are [turn_splits[r], turn_splits[r + 1])."""
    turn_role: np.ndarray
    """[T] uint8, index into ROLES."""
    turn_learnt: np.ndarray
    """[T] bool: an answer that the model learns."""
    turn_characters: np.ndarray
    """[T] int32, of the turn's text."""
    turn_tokens: np.ndarray | None
    """[T] int32, tokens of the turn as it is serialised (marks, role line, text; no media), by the tokenizer that the
    source was opened with; None where it was opened without one."""
    media_splits: np.ndarray
    """[N + 1] int64: media of row r, in the order in which its turns show them."""
    media_kind: np.ndarray
    """[M] uint8, index into KINDS."""
    media_format: np.ndarray
    """[M] uint8, index into FORMATS."""
    media_width: np.ndarray
    """[M] int32, pixels as shown: turned, mirrored and of square pixels."""
    media_height: np.ndarray
    media_orientation: np.ndarray
    """[M] uint8, EXIF orientation 1-8."""
    media_plain: np.ndarray
    """[M] bool, see MediaFacts.plain."""
    media_duration: np.ndarray
    """[M] float64, seconds; 0 for an image."""
    media_time_base: np.ndarray
    """[M, 2] int64: seconds per tick as numerator, denominator."""
    tick_splits: np.ndarray
    """[M + 1] int64: frames of medium m."""
    ticks: np.ndarray
    """[F] int64, presentation timestamps in ticks, increasing within a clip."""

    def __len__(self) -> int:
        return len(self.modality)

    @property
    def text_tokens(self) -> np.ndarray:
        """[N] int64: tokens of each sample without its media."""
        if self.turn_tokens is None:
            raise ValueError("the source was opened without a tokenizer")
        total = np.concatenate([[0], np.cumsum(self.turn_tokens, dtype=np.int64)])
        return total[self.turn_splits[1:]] - total[self.turn_splits[:-1]]

    @property
    def media_counts(self) -> np.ndarray:
        """[N] int64: media, and so places in the text, of each sample."""
        return np.diff(self.media_splits)

    def key(self, sample_index: int) -> str:
        """Key of a sample."""
        return self.keys[sample_index].as_py()

    def media(self, sample_index: int) -> tuple[MediaFacts, ...]:
        """Media of a sample."""
        return tuple(
            self._medium(m)
            for m in range(int(self.media_splits[sample_index]), int(self.media_splits[sample_index + 1]))
        )

    def _medium(self, m: int) -> MediaFacts:
        kind = KINDS[self.media_kind[m]]
        numerator, denominator = self.media_time_base[m].tolist()
        return MediaFacts(
            kind=kind,  # type: ignore[arg-type]
            width=int(self.media_width[m]),
            height=int(self.media_height[m]),
            format=FORMATS[self.media_format[m]],
            orientation=int(self.media_orientation[m]),
            plain=bool(self.media_plain[m]),
            ticks=self.ticks[self.tick_splits[m] : self.tick_splits[m + 1]] if kind == "video" else None,
            time_base=(numerator, denominator),
            duration=float(self.media_duration[m]),
        )

    @classmethod
    def from_arrow(cls, table: pa.Table, tokens: pa.Table | None = None) -> FactsTable:
        """Columns of a table that holds usable samples only.

        Args:
            table: the columns FACTS.
            tokens: the column `tokens`, a list per sample with a number per turn.

        Raises:
            ValueError: lists that belong together differ in length, or an index is out of bounds.
        """
        turns, role = lists(table, "role")
        media, kind = lists(table, "kind")
        columns = {name: aligned(table, name, media) for name in FACTS[FACTS.index("kind") + 1 : -1]}
        frames = columns["frames"]
        ticks, tick = lists(table, "tick")
        tick_splits = np.concatenate([[0], np.cumsum(frames, dtype=np.int64)])
        facts = cls(
            keys=table.column("key").combine_chunks(),
            modality=table.column("modality").to_numpy(),
            turn_splits=turns,
            turn_role=role,
            turn_learnt=aligned(table, "learnt", turns),
            turn_characters=aligned(table, "characters", turns),
            turn_tokens=None if tokens is None else aligned(tokens, "tokens", turns),
            media_splits=media,
            media_kind=kind,
            media_format=columns["format"],
            media_width=columns["width"],
            media_height=columns["height"],
            media_orientation=columns["orientation"],
            media_plain=columns["plain"],
            media_duration=columns["duration"],
            media_time_base=np.stack([columns["seconds_a_tick"], columns["ticks_a_second"]], axis=1),
            tick_splits=tick_splits,
            ticks=tick,
        )
        bounds = ((facts.modality, MODALITIES), (role, ROLES), (kind, KINDS), (columns["format"], FORMATS))
        if any(values.size and int(values.max()) >= len(names) for values, names in bounds):
            raise ValueError("a role, kind, format or modality that does not exist")
        if (frames < 0).any() or not np.array_equal(tick_splits[media], ticks):
            raise ValueError("frames and timestamps do not match")
        return facts

    @classmethod
    def from_samples(cls, samples: Sequence[SampleFacts], tokens: Sequence[np.ndarray] | None = None) -> FactsTable:
        """Columns of samples in memory, with the tokens of their turns."""
        columns = Columns()
        for facts in samples:
            columns.add(facts)
        counted = None if tokens is None else pa.table({"tokens": pa.array(tokens, pa.list_(pa.int32()))})
        return cls.from_arrow(columns.to_arrow(), counted)


def usable(table: pa.Table) -> pa.Table:
    """The rows that are not left out."""
    reasons = table.column("reason")
    return table if reasons.null_count == len(table) else table.filter(pc.is_null(reasons))


def lists(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Splits [N + 1] int64 from 0, and flat values, of a list column."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # an empty table
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if column.null_count or column.flatten().null_count:
        raise ValueError(f"column {name!r} has holes")
    splits = column.offsets.to_numpy().astype(np.int64)
    return splits - splits[0], column.flatten().to_numpy(zero_copy_only=False)


def aligned(table: pa.Table, name: str, splits: np.ndarray) -> np.ndarray:
    """Flat values of a list column that has these splits.

    Raises:
        ValueError: it has others.
    """
    found, values = lists(table, name)
    if not np.array_equal(found, splits):
        raise ValueError(f"column {name!r} does not match the others")
    return values


def _turn_json(turn: Turn) -> list[Any]:
    """[role, parts], and false where an answer is not learnt. A mark is a list of its name."""
    parts = [[part] if isinstance(part, Mark) else part for part in turn.parts]
    return [turn.role, parts] if turn.learnt else [turn.role, parts, False]


def parse_content(text: str, media: int) -> tuple[tuple[Turn, ...], dict[str, Any]]:
    """Turns and meta of a sample with so many media.

    Raises:
        ValueError: not what `Columns.add` wrote.
    """
    turns, meta = json.loads(text)
    found = tuple(_parse_turn(*turn) for turn in turns)
    places = [part for turn in found for part in turn.parts if not isinstance(part, str)]
    if places != list(range(media)) or not isinstance(meta, dict) or any(turn.role not in ROLES for turn in found):
        raise ValueError("turns that do not match the sample's media")
    return found, meta


def _parse_turn(role: Any, parts: Any, learnt: bool = True) -> Turn:
    marks = [part[0] for part in parts if isinstance(part, list)]
    if not MARKS.issuperset(marks):
        raise ValueError(f"marks {marks} that do not exist")
    return Turn(
        role=role, parts=tuple(Mark(part[0]) if isinstance(part, list) else part for part in parts), learnt=learnt
    )
