"""Text generation: prompts with images and video in, tokens out. Many prompts share the running batch: whoever has
ended makes room for the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice

from neo_lightning.model.batch import RunningBatch
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.running import Chosen, Running
from neo_lightning.model.sampling import Sampling


def generate(
    model: Neo,
    prompts: Iterable[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    at_once: int | None = None,
    all_ended: Callable[[bool], bool] = bool,
) -> list[list[int]]:
    """Go on from every prompt.

    Args:
        model: in whatever dtype and on whatever device it is; gradients are off.
        prompts: any number, of any lengths; taken when there is room for one more.
        max_new_tokens: most tokens of an answer.
        temperature, top_p, top_k, repetition_penalty: see `Sampling`.
        stop_ids: tokens that end an answer; the ending token is not part of it.
        seed: of the random draws; prompt number i draws from its own generator, seeded by seed + i.
        at_once: most prompts that are in the batch together; None: all.
        all_ended: whether to stop, of whether all answers here have ended; ranks that share a model agree here, since
            each step wants all of them.

    Returns:
        The new tokens of each prompt.

    Raises:
        ValueError: an empty prompt, images that do not match a prompt's visual tokens, or a bad setting.
    """
    answers: list[list[int]] = []
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty)
    steps = stream(
        RunningBatch(model),
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
        seed=seed,
        at_once=at_once,
        all_ended=all_ended,
    )
    for number, sequence, _ in steps:
        answers += [[] for _ in range(number + 1 - len(answers))]
        answers[number] = sequence.tokens
    return answers


def stream(
    batch: RunningBatch,
    prompts: Iterable[Prompt],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    at_once: int | None = None,
    all_ended: Callable[[bool], bool] = bool,
) -> Iterator[tuple[int, Running, Chosen]]:
    """The prompts' numbers, sequences and new tokens as they come; see `generate`.

    A sequence whose answer ends with a step has its `finish` then; a token that ends it is not among its `tokens`.
    """
    left = iter(enumerate(prompts))
    numbers: dict[Running, int] = {}
    wait: tuple[int, Prompt] | None = None
    try:
        while True:
            for number, prompt in chain([wait] if wait else [], islice(left, _room(at_once, len(numbers), wait))):
                prompt.check(f"prompt {number}")
                sequence = batch.join(
                    prompt,
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                    stop_ids=stop_ids,
                    seed=seed + number,
                )
                wait = None
                if sequence is None:
                    wait = number, prompt
                    break
                numbers[sequence] = number
            if all_ended(not numbers):
                return
            for sequence, chosen in batch.step():
                number = numbers[sequence] if sequence.finish is None else numbers.pop(sequence)
                yield number, sequence, chosen
    finally:
        for sequence in numbers:
            batch.leave(sequence)


def _room(at_once: int | None, running: int, wait: object) -> int | None:
    return None if at_once is None else max(0, at_once - running - (wait is not None))
