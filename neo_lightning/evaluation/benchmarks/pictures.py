"""Benchmarks of pictures, as the authors' evaluation asks them."""

from __future__ import annotations

from dataclasses import replace

from ...types import PixelBudget
from .benchmark import BRIEFLY, SAMPLED, Benchmark, Words

AUTHORS = "VLMEvalKit_ov of EvolvingLMMs-Lab/NEO at 78faae9, model NEOov-2B-image"
STEP_BY_STEP = "Reason step by step."
IMAGE = PixelBudget(min_pixels=1280 * 32 * 32, max_pixels=16384 * 32 * 32)
ASKED = Benchmark(name="picture", system=STEP_BY_STEP, image=IMAGE, decoding=SAMPLED, source=AUTHORS)
"""What these have in common."""

MULTIPLE_CHOICE = Words(several="{image}\n", behind=True)
IN_BRIEF = Words(choice="{question}" + BRIEFLY, open="{question}" + BRIEFLY, several="{image}\n", behind=True)
BARE = Words(choice="{question}", open="{question}", several="{image}\n", behind=True)

_MMMU_CHOICE = (
    "Answer the preceding multiple choice question. The last line of your response should follow this format: "
    "'Answer: \\boxed LETTER' (without quotes), where LETTER is one of the options. If you are uncertain or the "
    "problem is too complex, make a reasoned guess based on the information provided. Avoid repeating steps "
    "indefinitely—provide your best guess even if unsure. Think step by step logically, considering all relevant "
    "information before answering.\n\n{question}{options}"
)
_MMMU_OPEN = (
    "Your output should be divided into two parts: First, reason about the correct answer. Then write the answer in "
    'the following format where X is only the answer and nothing else: "ANSWER: X"\n{question}'
)

PICTURES = (
    replace(
        ASKED,
        name="mmmu",
        title="MMMU",
        group="knowledge",
        metric="choice",
        files=("MMMU_DEV_VAL", "MMMU"),
        words=Words(choice=_MMMU_CHOICE, open=_MMMU_OPEN, several="{image}\n", behind=True),
        image=PixelBudget(min_pixels=1003520, max_pixels=4014080),
        enlarge=2,
        only={"split": "validation"},
    ),
    replace(
        ASKED,
        name="mmbench",
        title="MMB",
        group="general",
        metric="circular",
        files=("MMBench_DEV_EN", "MMBench"),
        words=MULTIPLE_CHOICE,
    ),
    replace(
        ASKED,
        name="mmstar",
        title="MMStar",
        group="general",
        metric="choice",
        files=("MMStar",),
        words=MULTIPLE_CHOICE,
    ),
    replace(
        ASKED,
        name="seed-i",
        title="SEED-I",
        group="general",
        metric="choice",
        files=("SEEDBench_IMG",),
        words=MULTIPLE_CHOICE,
    ),
    replace(
        ASKED,
        name="realworldqa",
        title="RWQA",
        group="general",
        metric="choice",
        files=("RealWorldQA",),
        words=MULTIPLE_CHOICE,
    ),
    replace(
        ASKED,
        name="mmvet",
        title="MMVet",
        group="general",
        metric="judged",
        files=("MMVet",),
        words=BARE,
        source=f"{AUTHORS}; the judge's prompt is this package's own",
    ),
    replace(
        ASKED,
        name="pope",
        title="POPE",
        group="hallucination",
        metric="yes_no",
        files=("POPE",),
        words=BARE,
    ),
    replace(
        ASKED,
        name="hallusionbench",
        title="HallB",
        group="hallucination",
        metric="hallusion",
        files=("HallusionBench",),
        words=Words(
            choice="{question} Please answer yes or no. Answer the question using a single word or phrase.",
            open="{question} Please answer yes or no. Answer the question using a single word or phrase.",
            several="{image}\n",
            behind=True,
        ),
    ),
    replace(
        ASKED,
        name="ai2d",
        title="AI2D",
        group="ocr",
        metric="choice",
        files=("AI2D_TEST",),
        words=MULTIPLE_CHOICE,
    ),
    replace(
        ASKED,
        name="docvqa",
        title="DocVQA",
        group="ocr",
        metric="anls",
        files=("DocVQA_VAL",),
        words=IN_BRIEF,
    ),
    replace(
        ASKED,
        name="infovqa",
        title="InfoVQA",
        group="ocr",
        metric="anls",
        files=("InfoVQA_VAL",),
        words=IN_BRIEF,
    ),
    replace(
        ASKED,
        name="chartqa",
        title="ChartQA",
        group="ocr",
        metric="relaxed",
        files=("ChartQA_TEST",),
        words=IN_BRIEF,
        columns={"category": "split"},
    ),
    replace(
        ASKED,
        name="textvqa",
        title="TextVQA",
        group="ocr",
        metric="vqa",
        files=("TextVQA_VAL",),
        words=IN_BRIEF,
        image=PixelBudget(min_pixels=2048 * 32 * 32, max_pixels=IMAGE.max_pixels),
    ),
    replace(
        ASKED,
        name="ocrbench",
        title="OCRBench",
        group="ocr",
        metric="contains",
        files=("OCRBench",),
        words=IN_BRIEF,
        image=PixelBudget(min_pixels=512 * 512, max_pixels=IMAGE.max_pixels),
    ),
)
