"""Benchmarks of pictures, as the authors' evaluation asks them."""

from __future__ import annotations

from ...types import PixelBudget
from .benchmark import BRIEFLY, SAMPLED, Benchmark, Words

AUTHORS = "VLMEvalKit_ov of EvolvingLMMs-Lab/NEO at 78faae9, model NEOov-2B-image"
STEP_BY_STEP = "Reason step by step."
IMAGE = PixelBudget(min_pixels=1280 * 32 * 32, max_pixels=16384 * 32 * 32)
_ASKED = {"system": STEP_BY_STEP, "image": IMAGE, "decoding": SAMPLED, "source": AUTHORS}

MULTIPLE_CHOICE = Words(behind=True)
IN_BRIEF = Words(choice="{question}" + BRIEFLY, open="{question}" + BRIEFLY, behind=True)
YES_NO = Words(choice="{question}", open="{question}", behind=True)

_MMMU_CHOICE = (
    "Answer the preceding multiple choice question. The last line of your response should follow this format: "
    "'Answer: \\boxed LETTER' (without quotes), where LETTER is one of the options. If you are uncertain or the problem "
    "is too complex, make a reasoned guess based on the information provided. Avoid repeating steps "
    "indefinitely—provide your best guess even if unsure. Think step by step logically, considering all relevant "
    "information before answering.\n\n{question}{options}"
)
_MMMU_OPEN = (
    "Your output should be divided into two parts: First, reason about the correct answer. Then write the answer in the "
    'following format where X is only the answer and nothing else: "ANSWER: X"\n{question}'
)

PICTURES = (
    Benchmark(
        name="mmmu",
        title="MMMU",
        group="knowledge",
        metric="choice",
        files=("MMMU_DEV_VAL", "MMMU"),
        words=Words(choice=_MMMU_CHOICE, open=_MMMU_OPEN, behind=True),
        **_ASKED | {"image": PixelBudget(min_pixels=1003520, max_pixels=4014080)},
        enlarge=2,
    ),
    Benchmark(
        name="mmbench",
        title="MMB",
        group="general",
        metric="circular",
        files=("MMBench_DEV_EN", "MMBench"),
        words=MULTIPLE_CHOICE,
        columns={"category": "category"},
        **_ASKED,
    ),
    Benchmark(
        name="mmstar",
        title="MMStar",
        group="general",
        metric="choice",
        files=("MMStar",),
        words=MULTIPLE_CHOICE,
        **_ASKED,
    ),
    Benchmark(
        name="seed-i",
        title="SEED-I",
        group="general",
        metric="choice",
        files=("SEEDBench_IMG",),
        words=MULTIPLE_CHOICE,
        **_ASKED,
    ),
    Benchmark(
        name="realworldqa",
        title="RWQA",
        group="general",
        metric="choice",
        files=("RealWorldQA",),
        words=MULTIPLE_CHOICE,
        **_ASKED,
    ),
    Benchmark(
        name="mmvet",
        title="MMVet",
        group="general",
        metric="judged",
        files=("MMVet",),
        words=YES_NO,
        columns={"category": "category"},
        **_ASKED | {"source": f"{AUTHORS}; the judge's prompt is this package's own"},
    ),
    Benchmark(
        name="pope", title="POPE", group="hallucination", metric="yes_no", files=("POPE",), words=YES_NO, **_ASKED
    ),
    Benchmark(
        name="hallusionbench",
        title="HallB",
        group="hallucination",
        metric="hallusion",
        files=("HallusionBench",),
        words=Words(
            choice="{question} Please answer yes or no. Answer the question using a single word or phrase.",
            open="{question} Please answer yes or no. Answer the question using a single word or phrase.",
            behind=True,
        ),
        **_ASKED,
    ),
    Benchmark(
        name="ai2d", title="AI2D", group="ocr", metric="choice", files=("AI2D_TEST",), words=MULTIPLE_CHOICE, **_ASKED
    ),
    Benchmark(
        name="docvqa", title="DocVQA", group="ocr", metric="anls", files=("DocVQA_VAL",), words=IN_BRIEF, **_ASKED
    ),
    Benchmark(
        name="infovqa", title="InfoVQA", group="ocr", metric="anls", files=("InfoVQA_VAL",), words=IN_BRIEF, **_ASKED
    ),
    Benchmark(
        name="chartqa",
        title="ChartQA",
        group="ocr",
        metric="relaxed",
        files=("ChartQA_TEST",),
        words=IN_BRIEF,
        columns={"category": "split"},
        **_ASKED,
    ),
    Benchmark(
        name="textvqa",
        title="TextVQA",
        group="ocr",
        metric="vqa",
        files=("TextVQA_VAL",),
        words=IN_BRIEF,
        **_ASKED | {"image": PixelBudget(min_pixels=2048 * 32 * 32, max_pixels=IMAGE.max_pixels)},
    ),
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        group="ocr",
        metric="contains",
        files=("OCRBench",),
        words=IN_BRIEF,
        **_ASKED | {"image": PixelBudget(min_pixels=512 * 512, max_pixels=IMAGE.max_pixels)},
    ),
)
