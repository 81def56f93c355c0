"""A model's free text -> the letter, number or word that it means.

Looked for, in this order: what is marked as the answer (`<answer>`, `\\boxed`, backticks, "the answer is"), and else
what stands there. Only the text behind a last `</think>` counts. Nothing is guessed: None where nothing is found, and
such an answer is wrong. (VLMEvalKit asks a language model then, where it has one; that is a setting that differs.)

Where VLMEvalKit's own rules find a letter in a plain answer, these find the same one; they find it in more of them
(docs/results.md; tests/harness/test_real_kit_metrics.py compares hundreds).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase

_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*(?:\{(?:\\text\s*\{)?((?:[^{}]|\{[^{}]*\})*)\}|\(?([A-Za-z0-9.+-]+))")
_TICKS = re.compile(r"`+([^`]+)`+")
_SAID = re.compile(
    r"\b(?i:answer|option|choice)\b(?:\s+(?:is|would be|should be))?\s*[:：=]?[\s*_(\[{\"']*"
    r"([A-Z](?![A-Za-z'])|[a-z](?=[\s*_)\]}\"'.,:;!]*(?:$|\n)))"
)
_LETTER = re.compile(r"[\s*_(\[{\"'`]*([A-Za-z])[\s*_)\]}\"'`.,:;]*")
_LED = re.compile(r"[\s*_(\[{\"'`]*([A-Z])\s*(?:[.:)\]}]|[*_]+)(?:\s|$|(?<=\)))")
_LISTED = re.compile(r"(?:^|\n|[.!?;]\s)[\s*_(\[{\"'`-]*([A-Z])\s*[.:)\]}*_](?=\s|$)")
"""The letter that a line or a sentence begins with, as in a list of the options."""
_ALONE = re.compile(r"(?<![A-Za-z'-])([A-Z])(?![A-Za-z'-])")
_ARTICLE = re.compile(
    r"(?<![A-Za-z])(?:A(?=\s+(?!(?:is|are|was|and|or|because|since|as|seems|would|has|should)\b)[a-z])|I(?=\s+[a-z]|'))"
)
_NUMBER = re.compile(r"(?<![\w^.,])[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)(?:[eE][-+]?\d+)?")
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
"""Number words, each at its number."""
_NUMBER_WORD = re.compile(rf"\b({'|'.join(NUMBERS)})\b", re.IGNORECASE)


def conclusion(answer: str) -> str:
    """What stands behind the reasoning."""
    return answer.rpartition("</think>")[2].strip()


def marked(answer: str) -> str | None:
    """What an answer marks as its result by a tag or a box, the last of them; None where it does neither."""
    for pattern in (_ANSWER_TAG, _BOXED):
        if found := pattern.findall(answer):
            last = found[-1]
            return (last if isinstance(last, str) else last[0] or last[1]).strip()
    return None


def option_of(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer means.

    Args:
        answer: the model's text.
        options: letter -> text; empty where the question's text holds the options: any letter then.
    """
    text = conclusion(answer)
    letters = set(options) or set(ascii_uppercase)
    if (inside := marked(text)) is not None and (found := _option_in(inside, options, letters)):
        return found
    if (ticks := _TICKS.findall(text)) and (found := _option_in(ticks[-1], options, letters)):
        return found
    if said := [letter.upper() for letter in _SAID.findall(text) if letter.upper() in letters]:
        return said[-1]
    return _option_in(text, options, letters)


def _option_in(text: str, options: Mapping[str, str], letters: set[str]) -> str | None:
    """By its letter where that stands alone or leads, else by its text, else by a single letter in the last line."""
    plain = " ".join(text.split()).casefold().rstrip(".")
    if (found := _LETTER.fullmatch(text)) and found[1].upper() in letters:
        return found[1].upper()
    listed = set(_LISTED.findall(text)) & letters
    if (found := _LED.match(text)) and found[1] in letters and len(listed) < 2:
        return found[1]
    texts = {letter: " ".join(option.split()).casefold().rstrip(".") for letter, option in options.items()}
    if same := [letter for letter, option in texts.items() if option == plain]:
        return same[0]
    lines = [line for line in text.splitlines() if line.strip()]
    for part in (lines[-1] if lines else "", text):
        if len(listed) > 1 and _LISTED.match(part):
            continue  # one of several options that are gone through
        alone = {letter for letter in _ALONE.findall(_ARTICLE.sub(" ", part)) if letter in letters}
        if len(alone) == 1:
            return alone.pop()
    if len(listed) > 1:
        return None
    held = [letter for letter, option in texts.items() if option and _holds(plain, option)]
    # of "left" and "top left" the longer one is meant where both are in the text
    longest = [a for a in held if not any(a != b and _holds(texts[b], texts[a]) for b in held)]
    return longest[0] if len(longest) == 1 else None


def _holds(text: str, part: str) -> bool:
    """Whether a text has a part as whole words."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def number_of(answer: str) -> float | None:
    """The number that an answer gives: the marked one, else the last; words from zero to twenty count."""
    text = conclusion(answer)
    inside = marked(text)
    for part in (inside, text):
        figures = _NUMBER_WORD.sub(lambda word: str(NUMBERS.index(word[0].lower())), part or "")
        if found := _NUMBER.findall(figures):
            return float(found[-1].replace(",", ""))
    return None


def yes_or_no(answer: str) -> str | None:
    """ "yes" or "no", where exactly one of the words is in the answer."""
    text = conclusion(answer)
    inside = marked(text)
    words = set(re.findall(r"[a-z]+", (text if inside is None else inside).lower())) & {"yes", "no"}
    return words.pop() if len(words) == 1 else None
