"""Benchmarks of space, as the authors ask them: every picture at 720 x 960 pixels' area, no system prompt."""

from __future__ import annotations

from dataclasses import replace

from ...types import PixelBudget
from .benchmark import DIRECTLY, LIKELIEST, Benchmark, Frames, Words

AUTHORS = "VLMEvalKit_ov of EvolvingLMMs-Lab/NEO at 78faae9, model NEOov-2B-si"
FIXED = PixelBudget(min_pixels=720 * 960, max_pixels=720 * 960)
ASKED = Benchmark(name="space", group="spatial", metric="choice", image=FIXED, decoding=LIKELIEST, source=AUTHORS)
"""What these have in common."""
_FRAMES = Frames(count=32)

_SITE = "Question: {question}\nOptions:{options}\nGive me the answer letter directly. The best answer is:"
_SPAR_BOXES = (
    "\n{question}\nThe values represent the bounding box coordinates normalized to a 0-1000 scale, with the top-left "
    "corner as the origin of the image." + DIRECTLY
)
_SPAR_NUMBERS = "\n{question}\nPlease answer the question using a single word or phrase."
_SPAR_DISTANCES = [
    f"{kind}_prediction_{pair}{views}"
    for kind in ("depth", "distance")
    for pair in ("oc", "oo")
    for views in ("", "_mv")
]
_OMNI = """
You are a spatial-reasoning assistant.

Task
-----
You will receive
1. **Image** - a single RGB frame depicting a scene.
2. **Question** - a natural-language query about spatial relationships between objects in the image.
3. **Options** - ≥2 answer candidates, each tagged by a capital letter (A, B, C, D…).

Guidelines
----------
Please follow these steps to analyze the image and answer the question:
1. First, carefully observe the image and identify all relevant objects and their spatial relationships.
2. Next, break down the question into key components that need to be addressed.
3. Think through the spatial reasoning step-by-step to arrive at your answer. It may be necessary to transfer \
perspective to better understand the scene.
4. Finally, select the most appropriate option (A, B, C, or D) based on your analysis.

Always ground your answer in the visual evidence; do not hallucinate unseen objects.
If uncertain, pick the most plausible option—never refuse or reply “insufficient information.”


End your answer with a separate line formatted exactly as:

Answer: X
where X ∈ {A, B, C, D}.


"""

SPACE = (
    replace(
        ASKED,
        name="vsi-bench",
        title="VSI-Bench",
        metric="vsi",
        files=("VSI-Bench",),
        words=Words(
            choice="These are frames of a video.\n{question}{options}" + DIRECTLY,
            open="These are frames of a video.\n{question}\nAnswer briefly and directly in one float number.",
        ),
        frames=_FRAMES,
        columns={"category": "question_type"},
    ),
    replace(
        ASKED,
        name="mmsi",
        title="MMSI",
        files=("MMSIBench_wo_circular", "MMSIBench"),
        words=Words(
            choice="{hint}{question}\nOptions: {options}\nAnswer with the option's letter from the given choices "
            "directly. Enclose the option's letter within ``.",
            option="{letter}: {text}, ",
        ),
    ),
    replace(
        ASKED,
        name="mindcube",
        title="Mindcube",
        files=("MindCubeBench_tiny_raw_qa", "MindCubeBench_raw_qa"),
        words=Words(open="{question}\nAnswer the question directly."),
        source=f"{AUTHORS}; the options stand in the question's text",
    ),
    replace(
        ASKED,
        name="viewspatial",
        title="ViewSpatial",
        files=("ViewSpatialBench",),
        words=Words(
            choice="Question: {question}\nChoices: {options}\nReply only to the corresponding option.\nAnswer:",
            option="{letter}. {text}\n",
        ),
        columns={"category": "question_type"},
    ),
    replace(
        ASKED,
        name="site",
        title="SITE",
        metric="chance_adjusted",
        files=("SiteBenchImage+SiteBenchVideo",),
        words=Words(
            choice=_SITE,
            clip="Select the best answer to the following multiple-choice question based on the video. Respond with "
            f"only the letter of the correct option.\n{_SITE}",
            option="\n{letter}: {text}",
        ),
        frames=_FRAMES,
    ),
    replace(
        ASKED,
        name="3dsr",
        title="3DSR",
        metric="flip_circular",
        files=("3DSRBench",),
    ),
    replace(
        ASKED,
        name="embspatial",
        title="EmbSpatial",
        files=("EmbSpatialBench",),
        columns={"category": "data_source"},
    ),
    replace(
        ASKED,
        name="spar",
        title="SPAR",
        metric="spar",
        files=("SparBench", "SparBench_tiny"),
        words=Words(
            choice="\n{question}\n" + DIRECTLY,
            open="\n{question}\n" + DIRECTLY,
            by_category={
                "position_matching": _SPAR_BOXES,
                "camera_motion_infer": _SPAR_BOXES,
                "view_change_infer": "\n{question}\n\n",
                **dict.fromkeys(_SPAR_DISTANCES, _SPAR_NUMBERS),
            },
        ),
        columns={"category": "task"},
    ),
    replace(
        ASKED,
        name="omnispatial",
        title="Omni-Spatial",
        files=("OmniSpatialBench",),
        words=Words(choice=_OMNI + "{question}{options}"),
        source=f"{AUTHORS}, prompt manual_cot of OmniSpatial's own code",
    ),
    replace(
        ASKED,
        name="blink",
        title="BLINK",
        group="several",
        files=("BLINK",),
    ),
    replace(
        ASKED,
        name="muirbench",
        title="MUIRBENCH",
        group="several",
        files=("MUIRBench_EASI", "MUIRBench"),
    ),
)
