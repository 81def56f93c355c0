"""How the authors' VLMEvalKit_ov (78faae9) asks, by VLMEvalKit's name of a data set.

Its three entries of a model are one here: pictures, clips, and space. Words of pictures are its own; those of clips and
of space are each data set's, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

_SAMPLED = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "max_new_tokens": 16384,
}
_IMAGE = {"min_pixels": 1280 * 32 * 32, "max_pixels": 16384 * 32 * 32}
_CLIP = {"min_pixels": 4 * 32 * 32, "max_pixels": 360 * 640, "max_frames": 256}
_PICTURES = {
    "MMMU_DEV_VAL": {"min_pixels": 1003520, "max_pixels": 4014080},
    "TextVQA_VAL": {**_IMAGE, "min_pixels": 2048 * 32 * 32},
    "OCRBench": {**_IMAGE, "min_pixels": 512 * 512},
}
"""Data set -> budget of an image, where it is another one."""
_SPACE = (
    *("VSI-Bench", "MMSIBench", "MindCubeBench", "ViewSpatialBench", "SiteBench", "3DSRBench", "EmbSpatialBench"),
    *("SparBench", "OmniSpatialBench", "BLINK", "MUIRBench"),
)
"""Beginnings of names."""
_OWN_WORDS = ("MMSIBench", "ViewSpatialBench", "SiteBench", "OmniSpatialBench", "MUIRBench")
"""Asked in the data set's words though they are pictures."""

_DIRECTLY = "\nAnswer with the option's letter from the given choices directly."
_BRIEFLY = "Answer the question using a single word or phrase."
_MMMU_CHOICE = (
    "Answer the preceding multiple choice question. The last line of your response should follow this format: "
    "'Answer: \\boxed LETTER' (without quotes), where LETTER is one of the options. If you are uncertain or the "
    "problem is too complex, make a reasoned guess based on the information provided. Avoid repeating steps "
    "indefinitely—provide your best guess even if unsure. Think step by step logically, considering all relevant "
    "information before answering.\n\n"
)
_MMMU_OPEN = (
    "Your output should be divided into two parts: First, reason about the correct answer. Then write the answer in "
    'the following format where X is only the answer and nothing else: "ANSWER: X"\n'
)
_BARE = ("MathVista", "MathVision", "VCR", "MTVQA", "MMVet", "CRPE", "MIA-Bench", "MM-Math", "DynaMath", "LogicVista")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a model is asked one data set."""

    system_prompt: str
    decoding: Mapping[str, Any]
    images: Mapping[str, int]
    videos: Mapping[str, Any]
    enlarge: int = 1
    """Factor of the first image's sides before it is fitted into the budget."""


def asked(dataset: str) -> Asked:
    """Budgets, system prompt and decoding; `dataset` may be a name that nobody knows."""
    if dataset.startswith(_SPACE):
        fixed = {"min_pixels": 720 * 960, "max_pixels": 720 * 960}
        likeliest = {"do_sample": False, "max_new_tokens": 4096}
        return Asked(system_prompt="", decoding=likeliest, images=fixed, videos=fixed)
    return Asked(
        system_prompt="Reason step by step.",
        decoding=_SAMPLED,
        images=_PICTURES.get(dataset, _IMAGE),
        videos=_CLIP,
        enlarge=2 if "MMMU" in dataset else 1,
    )


def has_words(dataset: str, modality: str) -> bool:
    """Whether pictures of this data set are asked in the authors' words (`words`)."""
    return modality == "IMAGE" and not dataset.startswith(_OWN_WORDS)


def words(line: Mapping[str, Any], dataset: str, kind: str) -> str:
    """What is asked about the pictures of a row.

    Args:
        line: a row of VLMEvalKit's table.
        dataset: its name.
        kind: VLMEvalKit's type of the data set: `MCQ`, `Y/N`, `VQA`, ....
    """
    question = str(line["question"])
    options = [letter for letter in ascii_uppercase if _there(line, letter)]
    listed = "".join(f"\n{letter}. {line[letter]}" for letter in options)
    if kind == "MCQ" and dataset == "MMMU_DEV_VAL":
        return (_MMMU_OPEN if line.get("question_type") == "open" else _MMMU_CHOICE) + _plain(question) + listed
    if kind == "MCQ":
        hint = f"{line['hint']}\n" if _there(line, "hint") else ""
        return hint + _plain(question) + listed + (_DIRECTLY if options else "\nAnswer the question directly.")
    if kind == "Y/N":
        if dataset.startswith(("HallusionBench", "AMBER")):
            return f"{question} Please answer yes or no. {_BRIEFLY}"
        return f"{question} {_BRIEFLY}" if dataset.startswith("MME") else question
    if kind != "VQA" or dataset.startswith(_BARE):
        return question
    if dataset.startswith(("LLaVABench", "WildVision")):
        return f"{question}\nAnswer this question in detail."
    return f"{question}\n{_BRIEFLY}"


def _plain(question: str) -> str:
    return question.replace("<image>", "").strip()


def _there(line: Mapping[str, Any], name: str) -> bool:
    value = line.get(name)
    return value is not None and value != "" and value == value  # nan, as pandas has empty cells
