"""The Python face: every form of a medium is the same question, many are answered as one, scores are probabilities."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import neo_lightning
from neo_lightning.answering import Engine
from neo_lightning.answering.conversation import read_conversation
from neo_lightning.sequence import positions_and_limits
from neo_lightning.types import Media, Message
from tests.data.data_helpers import clip
from tests.forks import clean_environment

Files = dict[str, list[Path]]


def test_the_import_is_cheap_and_offers_one_name() -> None:
    code = (
        "import sys, neo_lightning; "
        "print(sorted(m for m in ('torch', 'lightning', 'transformers', 'numpy', 'PIL') if m in sys.modules), "
        "neo_lightning.__all__)"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True)
    assert ended.stdout.strip() == "[] ['load']", ended.stderr


def test_the_face_of_the_package_loads_an_engine(folder: Path, engine: Engine) -> None:
    assert neo_lightning.load(folder).answer("Hello") == engine.answer("Hello")
    changed = neo_lightning.load(folder, max_pixels=1024, max_frames=1).answering
    assert (changed.image.min_pixels, changed.image.max_pixels, changed.video.max_frames) == (1024, 1024, 1)


def test_every_form_of_an_image_is_the_same_question(engine: Engine, media: Files) -> None:
    path = media["image"][0]
    opened = Image.open(path)
    pixels = torch.frombuffer(bytearray(opened.convert("RGB").tobytes()), dtype=torch.uint8)
    tensor = pixels.view(opened.height, opened.width, 3).permute(2, 0, 1)
    forms: list[Any] = [path, str(path), path.as_uri(), path.read_bytes(), opened, opened.convert("RGBA"), tensor]
    answers = [engine.answer("What is this?", images=[form]) for form in forms]
    assert len(set(answers)) == 1
    parts = [[{"type": "image", key: path}] for key in ("image", "path", "url")]
    parts += [[{"type": "image_url", "image_url": {"url": str(path)}}]]
    asked = [[{"role": "user", "content": [*part, {"type": "text", "text": "What is this?"}]}] for part in parts]
    assert set(engine.answer(asked)) == set(answers)
    assert engine.answer("What is this?", images=[media["image"][1]]) != answers[0], "pixels matter"


def test_every_form_of_a_clip_is_the_same_question(engine: Engine, media: Files) -> None:
    path = media["video"][0]
    answers = {engine.answer("What?", videos=[form]) for form in (path, str(path), path.read_bytes())}
    assert len(answers) == 1
    asked = [[{"role": "user", "content": [{"type": "video", "video": file}, "What?"]}] for file in media["video"]]
    assert len(set(engine.answer(asked, max_new_tokens=20))) > 1, "pixels matter"


def test_a_photograph_lies_as_a_viewer_shows_it(engine: Engine, tmp_path: Path) -> None:
    picture = Image.effect_noise((96, 64), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100)
    file, opened = tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")
    prompts = [engine.prompt(message_of(engine, form)) for form in (file, opened)]
    assert prompts[0].grids.tolist() == prompts[1].grids.tolist()
    assert (prompts[0].patches.int() - prompts[1].patches.int()).abs().max() <= 3  # two JPEG decoders


def message_of(engine: Engine, image: Any) -> tuple[Message, ...]:

    return read_conversation("What?", images=[image])


def questions(media: Files) -> list[Any]:
    """Conversations of several kinds and lengths."""
    two = [{"type": "image", "image": file} for file in media["image"][:2]]
    return [
        "Hello",
        [{"role": "user", "content": [*two, {"type": "text", "text": "Which?"}]}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
        [{"role": "user", "content": [{"type": "video", "video": media["video"][0]}, "Where to?"]}],
        [
            {"role": "user", "content": [two[1], "What?"]},
            {"role": "assistant", "content": "A dot."},
            {"role": "user", "content": "Sure?"},
        ],
    ]


@pytest.mark.parametrize("decoding", [{}, {"temperature": 0.9, "seed": 7}], ids=["greedy", "drawn"])
def test_many_are_answered_as_one_by_one(engine: Engine, media: Files, decoding: dict[str, Any]) -> None:
    asked = questions(media)
    drawn = {"seed": decoding["seed"]} if "seed" in decoding else {}
    alone = [
        engine.answer(one, **{**decoding, **{name: seed + i for name, seed in drawn.items()}})
        for i, one in enumerate(asked)
    ]
    assert len(set(alone)) == len(asked)
    assert engine.answer(asked, **decoding) == alone
    assert engine.answer(asked, batch_size=2, **decoding) == alone


def test_pieces_are_the_answer(engine: Engine, media: Files) -> None:
    asked = questions(media)
    whole = engine.answer(asked)
    assert ["".join(engine.stream(one)) for one in asked] == whole
    together = [""] * len(asked)
    for number, piece in engine.stream(asked):
        together[number] += piece
    assert together == whole


def test_decoding_is_the_folders_unless_a_call_says_otherwise(engine: Engine) -> None:
    short, long = engine.answer("Hello"), engine.answer("Hello", max_new_tokens=40)
    assert long.startswith(short)
    assert len(long) > len(short)
    with pytest.raises(ValueError, match="temprature"):
        engine.answer("Hello", temprature=1.0)  # type: ignore[call-overload]


def test_a_score_is_the_log_probability_of_the_answers_tokens(engine: Engine, media: Files) -> None:
    conversation, answer = questions(media)[1], "red and blue"
    score = engine.score(conversation, answer)
    prompt = engine.prompt(messages_of(conversation))
    ids = torch.tensor(engine.tokenizer.encode_text(answer))
    assert score.tokens == len(ids)
    visual = torch.cat([prompt.visual, torch.zeros(len(ids), dtype=torch.bool)])
    positions, limit = positions_and_limits(visual, prompt.grids)
    model = engine.model
    row = model.row(positions, torch.zeros_like(limit), limit)
    with torch.no_grad():
        place = visual.nonzero().squeeze(-1)
        x = model.embed(torch.cat([prompt.input_ids, ids]), place, prompt.patches, prompt.grids * 2)
        logits = model.logits(model.hidden(x, row))[-len(ids) - 1 : -1]
    expected = logits.double().log_softmax(-1).gather(1, ids[:, None]).sum()
    assert score.log_probability == pytest.approx(float(expected), rel=1e-5)  # float32 sums in another order
    assert score.per_token == pytest.approx(float(expected) / len(ids), rel=1e-5)
    assert score.log_probability < -1


def messages_of(conversation: Any) -> tuple[Message, ...]:

    return read_conversation(conversation)


def test_scores_of_many_are_those_of_each(engine: Engine, media: Files) -> None:
    asked, answers = questions(media), ["a", "", "because of light", "left", "yes, it is"]
    alone = [engine.score(one, answer) for one, answer in zip(asked, answers, strict=True)]
    together = engine.score(asked, answers, batch_size=3)
    assert [s.tokens for s in together] == [s.tokens for s in alone]
    assert [s.log_probability for s in together] == pytest.approx([s.log_probability for s in alone], rel=1e-5)
    assert (alone[1].log_probability, alone[1].tokens, alone[1].per_token) == (0.0, 0, 0.0)
    several = engine.score(asked[0], ["a", "b"])
    assert several[0].log_probability == pytest.approx(alone[0].log_probability, rel=1e-5)
    said = engine.answer(asked[0], max_new_tokens=1)
    best, other = engine.score(asked[0], [said, "zz"])
    assert best.per_token > other.per_token, "the greedy first token is the likeliest"
    with pytest.raises(ValueError, match="5 conversations and 2 answers"):
        engine.score(asked, ["a", "b"])


def test_tokens_of_an_answer_are_tokens_in_what_was_said_and_characters_in_a_question(engine: Engine) -> None:
    box = engine.tokenizer.special["<box>"]
    said = [{"role": "assistant", "content": "<box>1</box>"}, {"role": "user", "content": "Sure?"}]
    for question, expected in (("Where?", 1), ("Where is <box>?", 1)):
        asked = [{"role": "user", "content": question}, *said]
        (_, ((_, messages),)) = engine._read(asked, (), ())
        assert engine.prompt(messages).input_ids.tolist().count(box) == expected
    assert engine.score("Where?", "<box>").tokens == 1
    assert engine.score("Where?", "<img>").tokens > 1, "no answer has such a token"


def test_a_lone_medium_and_an_embedded_one_are_the_same_question(engine: Engine, media: Files) -> None:
    data = media["image"][0].read_bytes()
    expected = engine.score("Which?", "red", images=[data])
    embedded = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    picture = Image.open(media["image"][0])
    for images in (data, str(media["image"][0]), media["image"][0], picture, [embedded], embedded):
        assert engine.score("Which?", "red", images=images) == expected
    asked = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": embedded}}, "Which?"]}]
    assert engine.score(asked, "red") == expected
    assert engine.answer("Hello", images=None) == engine.answer("Hello")  # type: ignore[call-overload]
    deep = Image.new("I", (40, 40), 40000)
    assert engine.score("Which?", "red", images=[deep]) == engine.score("Which?", "red", images=[deep.convert("I;16")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, found 0"),
        ({"batch_size": -1}, "found -1"),
        ({"max_new_tokens": -1}, "max_new_tokens must be a whole number of at least 1"),
        ({"max_new_tokens": 1.5}, "found 1.5"),
        ({"temperature": "hot"}, "temperature must be of type float, found 'hot'"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"top_k": 1.5, "temperature": 1.0}, "top_k must be of type int"),
        ({"seed": None}, "seed must be a whole number"),
        ({"max_tokens": 3}, "there is no 'max_tokens'; known: max_new_tokens, temperature"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(engine: Engine, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        engine.answer(["Hello"], **arguments)
    if "batch_size" not in arguments:
        with pytest.raises(ValueError, match=re.escape(said)):
            engine.stream("Hello", **arguments)


def test_answers_to_be_scored_are_texts(engine: Engine) -> None:
    for answers in (b"red", [3], None, 3):
        with pytest.raises(ValueError, match="a text, or a list of texts"):
            engine.score("Which?", answers)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "cudaa"}, "device 'cudaa' cannot be used here"),
        ({"dtype": "float32"}, "dtype must be one of torch's"),
        ({"max_pixels": "many"}, "max_pixels must be of type int"),
        ({"max_pixels": 5000.5}, "max_pixels must be of type int"),
        ({"max_frames": 1.5}, "max_frames must be of type int"),
        ({"fps": float("nan")}, "fps must be finite"),
    ],
)
def test_a_folder_is_loaded_with_what_makes_sense(folder: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        neo_lightning.load(folder, **arguments)


def test_a_model_is_named_by_a_path() -> None:
    for source in (3, None, []):
        with pytest.raises(ValueError, match="named by its folder"):
            neo_lightning.load(source)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="~nobody-has-this-name/x: no such folder"):
        neo_lightning.load("~nobody-has-this-name/x")


def test_a_section_of_a_clip_is_shown_with_its_own_times(engine: Engine) -> None:
    part = Media(kind="video", data=clip(16, fps=10), section=(0.5, 1.2))
    every = engine.asked(engine.answering.changed(fps=10, max_frames=16))
    whole = every.prompt([Message(role="user", parts=(replace(part, section=None), "?"))])
    shown = every.prompt([Message(role="user", parts=(part, "?"))])
    per_frame = len(whole.patches) // 16
    assert torch.equal(shown.patches, whole.patches[5 * per_frame : 12 * per_frame])
    assert len(shown.grids) == 7
