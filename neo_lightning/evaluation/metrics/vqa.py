"""VQA accuracy: an answer is as right as people agree with it (arXiv 1505.00468; TextVQA has ten answers a question).

Texts are compared as the VQA challenge does: lower case, no articles, number words as digits, no punctuation,
contractions with their apostrophe.
"""

from __future__ import annotations

import re
from typing import ClassVar

from ..item import Item
from .reading import NUMBERS
from .text import _ShortAnswer, short_answer

_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
    y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_WITHOUT_APOSTROPHE = {word.replace("'", ""): word for word in _CONTRACTIONS.split()}
_DIGITS = {word: str(i) for i, word in enumerate(NUMBERS[:11])}
_DIGITS["none"] = "0"
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
PEOPLE = 3
"""So many people of the others saying the same make an answer wholly right."""


def vqa_normal(text: str) -> str:
    """A text as the VQA challenge compares it."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        # at a word's edge, and in "1,000", punctuation is taken out; inside a word it separates
        edge = f"{mark} " in text or f" {mark}" in text or in_number
        text = text.replace(mark, "" if edge else " ")
    words = [_DIGITS.get(word, word) for word in _FULL_STOP.sub("", text).lower().split()]
    return " ".join(_WITHOUT_APOSTROPHE.get(word, word) for word in words if word not in ("a", "an", "the"))


class VQAAccuracy(_ShortAnswer):
    """Mean over the people left out one by one of min(1, those of the others who gave this answer / 3).

    A question with one right answer is right where the answer equals it.
    """

    headline: ClassVar[str] = "VQA accuracy"

    def grade(self, answer: str, item: Item) -> float:
        """In [0, 1]."""
        said = vqa_normal(short_answer(answer))
        same = [vqa_normal(truth) == said for truth in item.answers]
        if len(same) == 1:
            return float(same[0])
        return sum(min(1.0, (sum(same) - one) / PEOPLE) for one in same) / len(same)
