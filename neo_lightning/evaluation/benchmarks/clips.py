"""Benchmarks of clips with options, as the authors' evaluation asks them."""

from __future__ import annotations

from ...types import VideoBudget
from .benchmark import DIRECTLY, SAMPLED, Benchmark, Words
from .pictures import STEP_BY_STEP

AUTHORS = (
    "VLMEvalKit_ov of EvolvingLMMs-Lab/NEO at 78faae9, model NEOov-2B-video; frames are chosen by presentation "
    "timestamps, at the middle of equal parts of the clip"
)

_SELECT = (
    "\nThese are the frames of a video. Select the best answer to the following multiple-choice question based on the "
    "video. Respond with only the letter (A, B, C, or D) of the correct option.\n"
)
LETTERED = Words(
    choice=_SELECT + "Question: {question}{options}" + DIRECTLY,
    open="{question}",
    one="{image}",
    option="\n{letter}. {text}",
)

_WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)

_ATTENTION = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question."
)
_AT_THE_END = (
    "answer the following multi-choice question. The image for this question is at the end of the video. Please "
    "provide only the single option letter (e.g., A, B, C, D, etc.)\n"
)
_OPEN_AT_THE_END = "answer the following open-ended question. The image for this question is at the end of the video.\n"
_LEARN = "You should watch and learn the video content. Then apply what you learned to "
_QUIZ = "\nPlease ignore the Quiz question in last frame of the video."

CLIPS = (
    Benchmark(
        name="mvbench",
        title="MVBench",
        group="video",
        metric="choice",
        files=("MVBench_MP4", "MVBench"),
        words=Words(
            choice=_WATCH + "{media}Question: {question}\nOptions:{options}\nOnly give the best option.",
            option="\n({letter}) {text}",
            one="{image}",
        ),
        system=STEP_BY_STEP,
        video=VideoBudget(fps=None, max_frames=64, prefix="", frame_label=""),
        decoding=SAMPLED,
        columns={"category": "task_type"},
        source=f"{AUTHORS}; 64 frames (the 9B model was asked with 32, each of 128*32^2 to 2048*32^2 pixels)",
    ),
    Benchmark(
        name="video-mme",
        title="VideoMME",
        group="video",
        metric="choice",
        files=("Video-MME",),
        words=LETTERED,
        system=STEP_BY_STEP,
        video=VideoBudget(fps=1.0, max_frames=256),
        decoding=SAMPLED,
        columns={"category": "duration"},
        source=f"{AUTHORS}; one frame a second, at most 256, without subtitles",
    ),
    Benchmark(
        name="lvbench",
        title="LVBench",
        group="video",
        metric="choice",
        files=("LVBench",),
        words=Words(open="{question}\nAnswer the question with the option letter.", one="{image}"),
        system=STEP_BY_STEP,
        video=VideoBudget(fps=1.0, max_frames=256),
        decoding=SAMPLED,
        columns={"category": "question_type"},
        source=f"{AUTHORS}; one frame a second, at most 256; the options stand in the question's text",
    ),
    Benchmark(
        name="mlvu",
        title="MLVU",
        group="video",
        metric="choice",
        files=("MLVU_MCQ", "MLVU"),
        words=Words(
            choice=_ATTENTION + "{media}Question: {question}\nOptions:{options}\nOnly give the best option.",
            option="\n({letter}) {text}",
            one="{image}",
        ),
        system=STEP_BY_STEP,
        video=VideoBudget(fps=None, max_frames=128),
        decoding=SAMPLED,
        columns={"category": "task_type"},
        source=f"{AUTHORS}; 128 frames; the multiple choice tasks, pooled (M-Avg as the authors count it)",
    ),
    Benchmark(
        name="longvideobench",
        title="LongVideoBench",
        group="video",
        metric="choice",
        files=("LongVideoBench", "lvb_val"),
        words=Words(choice="{question}{options}" + DIRECTLY, one="{image}"),
        system=STEP_BY_STEP,
        video=VideoBudget(fps=None, max_frames=256),
        decoding=SAMPLED,
        columns={"category": "duration_group", "answer": "correct_choice"},
        counted=True,
        source=f"{AUTHORS}; 256 frames, without the subtitles that the authors put between them",
    ),
    Benchmark(
        name="videommmu",
        title="VideoMMMU",
        group="video",
        metric="choice",
        files=("VideoMMMU",),
        words=Words(
            choice="{question}" + _AT_THE_END + "{options}" + _QUIZ,
            open="{question}" + _OPEN_AT_THE_END + _QUIZ,
            by_category={"Adaptation": _LEARN + _AT_THE_END + "{question}{options}"},
            one="{image}",
            inline=True,
        ),
        system=STEP_BY_STEP,
        video=VideoBudget(fps=None, max_frames=128),
        decoding=SAMPLED,
        source=f"{AUTHORS}; 128 frames; the picture of an Adaptation question stands in its text",
    ),
    Benchmark(
        name="clip-choice",
        title="Clips with options",
        group="video",
        metric="choice",
        words=LETTERED,
        system=STEP_BY_STEP,
        video=VideoBudget(fps=1.0, max_frames=128),
        decoding=SAMPLED,
        source="Video-MME's words, for any clips with options; 128 frames as in training",
    ),
)
