"""The engine: conversations in, text out, one at a time or many together.

Many conversations share the running batch (`model.batch`), where each gets the answer that it gets alone, and whoever
has ended makes room for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Unpack, overload

from ..data.facts import SampleError
from ..data.text.answers import mark_answers
from ..data.text.prompt import prompt_from_messages
from ..data.text.tokenizer import Tokenizer
from ..model.batch import RunningBatch
from ..model.generate import stream
from ..model.neo import Neo
from ..model.prompt import Prompt
from ..model.sampling import Sampling
from ..types import Message
from .conversation import Conversation, is_one, read_conversation
from .decoding import Decoding, how, whole
from .pieces import Pieces
from .score import MARKED, Score, scores
from .settings import Answering

BATCH = 16
"""Conversations that go through the model together, where nothing else is said."""


class Engine:
    """A model with its tokenizer, asked as its folder says. What a conversation is: see `answering.conversation`."""

    def __init__(
        self,
        model: Neo,
        tokenizer: Tokenizer,
        answering: Answering,
        *,
        all_ended: Callable[[bool], bool] = bool,
        keep: int = 0,
    ) -> None:
        """
        Args:
            model: its weights must stay as they are while something is kept.
            tokenizer: the model's.
            answering: how it is asked.
            all_ended: that of `Ranks` where several answer together; see `model.generate`.
            keep: tokens whose keys and values stay from call to call, for prompts that begin alike.
        """
        self.model, self.tokenizer, self.answering = model, tokenizer, answering
        self.stop_ids = (tokenizer.im_end_id, tokenizer.pad_id)
        self._all_ended = all_ended
        self._batch = RunningBatch(model, keep=keep) if keep else None

    def asked(self, answering: Answering) -> Engine:
        """The same model, asked otherwise."""
        return Engine(self.model, self.tokenizer, answering, all_ended=self._all_ended)

    def keeping(self, tokens: int) -> Engine:
        """The same model, which keeps the keys and values of so many tokens; see `keep`."""
        return Engine(self.model, self.tokenizer, self.answering, all_ended=self._all_ended, keep=tokens)

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
            batch_size: most conversations that are answered at the same time; it changes no answer.
            decoding: see `Decoding`.

        Raises:
            ValueError: a conversation or setting that cannot be used; names the message, part or file.
        """
        one, read = self._read(conversations, images, videos)
        prompts = (self._prompt_of(*item) for item in read)
        answers = self.texts(prompts, at_once=whole("batch_size", batch_size, least=1), **decoding)
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
        found = self._pieces([self._prompt_of(*item) for item in read], *how(self.answering, decoding))
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
        found: list[Score] = []
        for at in range(0, len(read), batch_size):
            prompts = [self._prompt_of(*item) for item in read[at : at + batch_size]]
            found += scores(self.model, self.tokenizer, prompts, said[at : at + batch_size])
        return found[0] if isinstance(answers, str) else found

    # ---- prompts: what evaluation and samples, which have serialised samples, call

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The messages under this engine's budgets, up to where the assistant's words begin.

        Raises:
            SampleError: a medium cannot be used; names it.
        """
        sequence, patches = prompt_from_messages(messages, self.tokenizer, self.answering.image, self.answering.video)
        return Prompt.of(sequence, patches, self.tokenizer.rule)

    def texts(self, prompts: Iterable[Prompt], *, at_once: int = BATCH, **decoding: Unpack[Decoding]) -> list[str]:
        """The answers to prompts, of which up to `at_once` are being answered at a time."""
        found = dict(self.answered(prompts, at_once=at_once, **decoding))
        return [found[number] for number in range(len(found))]

    def answered(
        self, prompts: Iterable[Prompt], *, at_once: int = BATCH, **decoding: Unpack[Decoding]
    ) -> Iterator[tuple[int, str]]:
        """Number and answer of each prompt, as they end; a prompt is taken when there is a place for it."""
        most, sampling, seed = how(self.answering, decoding)
        steps = stream(
            self._running(),
            prompts,
            max_new_tokens=most,
            sampling=sampling,
            stop_ids=self.stop_ids,
            seed=seed,
            at_once=at_once,
            all_ended=self._all_ended,
        )
        for number, sequence, _ in steps:
            if sequence.finish is not None:
                yield number, self.tokenizer.decode(sequence.tokens)

    # ---- inside

    def _running(self) -> RunningBatch:
        """The batch that keeps, unless another call is using it."""
        return RunningBatch(self.model) if self._batch is None or self._batch.running else self._batch

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

    def _pieces(self, prompts: list[Prompt], most: int, sampling: Sampling, seed: int) -> Iterator[tuple[int, str]]:
        texts = [Pieces(self.tokenizer.decode) for _ in prompts]
        steps = stream(
            self._running(), prompts, max_new_tokens=most, sampling=sampling, stop_ids=self.stop_ids, seed=seed
        )
        for number, sequence, chosen in steps:
            text = texts[number]
            piece = "" if sequence.finish == "stop" else text.add(chosen.token)
            if sequence.finish is not None:
                piece += text.rest()
            if piece:
                yield number, piece


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages or messages[-1].role != "user":
        raise ValueError("the last message must be the user's; an answer to be scored is given as `answers`")
    return mark_answers(messages, MARKED)
