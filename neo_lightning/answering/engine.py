"""The engine: conversations in, text out, one at a time or many together.

A batch goes through the model as one packed row (`model.generate`), in which documents do not see each other, so many
conversations get the answers that each gets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack, overload

import torch

from ..data.facts import SampleError, Turn
from ..data.rows.collate import Document, collate
from ..data.text.answers import ANSWER_TOKENS, mark_answers
from ..data.text.serialize import make_outlines, prompt_from_messages
from ..data.text.tokenizer import Tokenizer
from ..model.generate import Prompt, generate, stream
from ..model.neo import Neo
from ..model.sampling import Sampling
from ..types import Message, TokenSequence
from .conversation import Conversation, is_one, read_conversation
from .settings import Answering, built

_MARKED = tuple(ANSWER_TOKENS)
"""In what a model has said before, `<think>` or `<box>` is the token again that it was."""

BATCH = 16
"""Conversations that go through the model together, where nothing else is said."""


class Decoding(TypedDict, total=False):
    """What a call may say about decoding, in place of the folder's values; see `Sampling`."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    """Conversation number i draws from a generator of its own, seeded by this (default 0) + i."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How likely a model finds an answer."""

    log_probability: float
    """Sum over the answer's tokens, in nats; the mark that ends the turn is not among them."""
    tokens: int
    """Tokens of the answer."""

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token; 0 for an empty answer."""
        return self.log_probability / self.tokens if self.tokens else 0.0


class Engine:
    """A model with its tokenizer, asked as its folder says. What a conversation is: see `answering.conversation`."""

    def __init__(
        self,
        model: Neo,
        tokenizer: Tokenizer,
        answering: Answering,
        *,
        all_ended: Callable[[list[bool]], bool] = all,
    ) -> None:
        """`all_ended` is that of `Ranks` where several answer together; see `model.generate`."""
        self.model, self.tokenizer, self.answering = model, tokenizer, answering
        self._all_ended = all_ended
        self._stop = (tokenizer.im_end_id, tokenizer.pad_id)

    def asked(self, answering: Answering) -> Engine:
        """The same model, asked otherwise."""
        return Engine(self.model, self.tokenizer, answering, all_ended=self._all_ended)

    # ---- conversations

    @overload
    def answer(  # type: ignore[overload-overlap]
        self,
        conversations: Conversation,
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        batch_size: int = ...,
        **decoding: Unpack[Decoding],
    ) -> str: ...

    @overload
    def answer(
        self,
        conversations: Sequence[Conversation],
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        batch_size: int = ...,
        **decoding: Unpack[Decoding],
    ) -> list[str]: ...

    def answer(
        self,
        conversations: Conversation | Sequence[Conversation],
        *,
        images: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        batch_size: int = BATCH,
        **decoding: Unpack[Decoding],
    ) -> str | list[str]:
        """The answer to a conversation, or the answers to many.

        Args:
            conversations: a question, a list of messages, or a list of such conversations.
            images: of a question: paths, bytes, PIL images or tensors [3, H, W] uint8.
            videos: of a question: paths or bytes.
            batch_size: conversations that go through the model together; it changes no answer.
            decoding: see `Decoding`.

        Raises:
            ValueError: a conversation or setting that cannot be used; names the message, part or file.
        """
        one, read = self._read(conversations, images, videos)
        answers: list[str] = []
        whole("batch_size", batch_size, least=1)
        most, sampling, seed = self._how(decoding)
        for at in range(0, len(read), batch_size):
            prompts = [self._prompt_of(*item) for item in read[at : at + batch_size]]
            answers += self._texts(prompts, most, sampling, seed + at)
        return answers[0] if one else answers

    @overload
    def stream(  # type: ignore[overload-overlap]
        self,
        conversations: Conversation,
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        **decoding: Unpack[Decoding],
    ) -> Iterator[str]: ...

    @overload
    def stream(
        self,
        conversations: Sequence[Conversation],
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        **decoding: Unpack[Decoding],
    ) -> Iterator[tuple[int, str]]: ...

    def stream(
        self,
        conversations: Conversation | Sequence[Conversation],
        *,
        images: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        **decoding: Unpack[Decoding],
    ) -> Iterator[str] | Iterator[tuple[int, str]]:
        """The answer in pieces of text as they come; of many conversations (number, piece), all together in one batch.

        Joined, the pieces are what `answer` returns. Arguments and errors: see there; errors come at once.
        """
        one, read = self._read(conversations, images, videos)
        found = self._pieces([self._prompt_of(*item) for item in read], *self._how(decoding))
        return (piece for _, piece in found) if one else found

    @overload
    def score(  # type: ignore[overload-overlap]
        self,
        conversations: Conversation,
        answers: str,
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        batch_size: int = ...,
    ) -> Score: ...

    @overload
    def score(
        self,
        conversations: Conversation,
        answers: Sequence[str],
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        batch_size: int = ...,
    ) -> list[Score]: ...

    @overload
    def score(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        *,
        images: Sequence[Any] = ...,
        videos: Sequence[Any] = ...,
        batch_size: int = ...,
    ) -> list[Score]: ...

    def score(
        self,
        conversations: Conversation | Sequence[Conversation],
        answers: str | Sequence[str],
        *,
        images: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        batch_size: int = BATCH,
    ) -> Score | list[Score]:
        """How likely answers are: one answer or several to one conversation, or one each to many conversations.

        Raises:
            ValueError: see `answer`; or the numbers of conversations and answers differ.
        """
        one, read = self._read(conversations, images, videos)
        whole("batch_size", batch_size, least=1)
        if not isinstance(answers, Sequence) or not all(isinstance(answer, str) for answer in answers):
            raise ValueError("score: answers must be a text, or a list of texts")
        said = [answers] if isinstance(answers, str) else list(answers)
        if one:
            read = read * len(said)
        elif len(said) != len(read) or isinstance(answers, str):
            raise ValueError(f"score: {len(read)} conversations and {len(said)} answers; give one answer to each")
        scores: list[Score] = []
        for at in range(0, len(read), batch_size):
            prompts = [self._prompt_of(*item) for item in read[at : at + batch_size]]
            scores += self._scores(prompts, said[at : at + batch_size])
        return scores[0] if isinstance(answers, str) else scores

    # ---- prompts: what evaluation and samples, which have serialised samples, call

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The messages under this engine's budgets, up to where the assistant's words begin.

        Raises:
            SampleError: a medium cannot be used; names it.
        """
        sequence, patches = prompt_from_messages(messages, self.tokenizer, self.answering.image, self.answering.video)
        return Prompt(input_ids=sequence.input_ids, visual=sequence.visual, grids=sequence.grids, patches=patches)

    def texts(self, prompts: Sequence[Prompt], **decoding: Unpack[Decoding]) -> list[str]:
        """The answers to prompts, which go through the model together."""
        return self._texts(prompts, *self._how(decoding))

    # ---- inside

    def _texts(self, prompts: Sequence[Prompt], most: int, sampling: Sampling, seed: int) -> list[str]:
        found = generate(
            self.model,
            prompts,
            max_new_tokens=most,
            stop_ids=self._stop,
            seed=seed,
            all_ended=self._all_ended,
            **asdict(sampling),
        )
        return [self.tokenizer.decode(ids) for ids in found]

    def _read(
        self, conversations: Any, images: Sequence[Any], videos: Sequence[Any]
    ) -> tuple[bool, list[tuple[str, tuple[Message, ...]]]]:
        """Whether it is one conversation; and name and messages of each."""
        if one := is_one(conversations):
            return one, [("", _asked(read_conversation(conversations, images, videos)))]
        if images or videos:
            raise ValueError("images and videos go with one question; of many conversations each has its own media")
        read = []
        for number, conversation in enumerate(conversations):
            try:
                read.append((f"conversation {number}: ", _asked(read_conversation(conversation))))
            except ValueError as error:
                raise ValueError(f"conversation {number}: {error}") from error
        return one, read

    def _prompt_of(self, name: str, messages: tuple[Message, ...]) -> Prompt:
        try:
            return self.prompt(messages)
        except SampleError as error:
            raise ValueError(f"{name}{error}") from error

    def _how(self, decoding: Decoding) -> tuple[int, Sampling, int]:
        """Longest answer, sampling and seed."""
        changes: dict[str, Any] = dict(decoding)
        if unknown := [name for name in changes if name not in Decoding.__annotations__]:
            raise ValueError(f"decoding: there is no {unknown[0]!r}; known: {', '.join(Decoding.__annotations__)}")
        most = whole("max_new_tokens", changes.pop("max_new_tokens", self.answering.max_new_tokens), least=1)
        seed = whole("seed", changes.pop("seed", 0), least=0)
        return most, built(Sampling, asdict(self.answering.sampling) | changes, "decoding"), seed

    def _pieces(self, prompts: list[Prompt], most: int, sampling: Sampling, seed: int) -> Iterator[tuple[int, str]]:
        texts = [Pieces(self.tokenizer.decode) for _ in prompts]
        steps = stream(self.model, prompts, max_new_tokens=most, sampling=sampling, stop_ids=self._stop, seed=seed)
        for tokens in steps:
            for number, token in enumerate(tokens):
                if token is not None and (piece := texts[number].add(token)):
                    yield number, piece
        for number, text in enumerate(texts):
            if rest := text.rest():
                yield number, rest

    def _scores(self, prompts: list[Prompt], answers: list[str]) -> list[Score]:
        """Through the training's own path: the loss of a packed row, of which only the answers are supervised."""
        turns = [mark_answers([Turn(role="assistant", parts=(text,))], _MARKED) for text in answers]
        documents = []
        for prompt, outline in zip(prompts, make_outlines(turns, self.tokenizer), strict=True):
            ids = torch.from_numpy(outline.ids[outline.supervised]).long()
            ids = ids[: len(ids) - 1 - len(self.tokenizer.newline_ids)]  # without the end of the turn
            learnt = torch.ones(len(ids), dtype=torch.bool)
            sequence = TokenSequence(
                input_ids=torch.cat([prompt.input_ids, ids]),
                supervised=torch.cat([torch.zeros_like(prompt.visual), learnt]),
                visual=torch.cat([prompt.visual, ~learnt]),
                grids=prompt.grids,
            )
            documents.append(Document(key="", modality="text", sequence=sequence, patches=prompt.patches))
        total = sum(d.sequence.input_ids.numel() for d in documents)
        row = collate(
            documents, context=total, pad_id=self.tokenizer.pad_id, weighting="token", rule=self.tokenizer.rule
        )
        with torch.no_grad():
            output = self.model(row.to(self.model.head_weight.device))
        nll, places = output.nll.double().cpu(), output.places.cpu()
        counts = [int(d.sequence.supervised.sum()) for d in documents]
        assert len(places) == sum(counts)
        sums = [-float(part.sum()) for part in nll.split(counts)]
        return [Score(log_probability=s + 0.0, tokens=n) for s, n in zip(sums, counts, strict=True)]


def whole(name: str, value: Any, *, least: int) -> int:
    """A whole number of a call.

    Raises:
        ValueError: it is none, or less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, found {value!r}")
    return value


class Pieces:
    """Text of a stream of tokens, piece by piece; a character is held back until all of its bytes are there.

    Only the tokens since the last pieces are decoded again, so that the work grows with the answer and not with its
    square; the tokens of one piece in front of them are decoded with them, as a decoder may treat its first token
    otherwise than the others.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        """Tokens of the last piece, and behind them those that are not shown yet."""
        self._shown = 0
        """How many of them are."""

    def add(self, token: int) -> str:
        """The text that the next token completes; often empty."""
        self._ids.append(token)
        piece = self.rest()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._ids, self._shown = self._ids[self._shown :], len(self._ids) - self._shown
        return piece

    def rest(self) -> str:
        """What is left at the end: an unfinished character is shown as such."""
        return self._decode(self._ids)[len(self._decode(self._ids[: self._shown])) :]


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages or messages[-1].role != "user":
        raise ValueError("the last message must be the user's; an answer to be scored is given as `answers`")
    return mark_answers(messages, _MARKED)
