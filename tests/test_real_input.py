"""Real photographs and clips, from a JSON file to a fine-tuned model that answers about them.

A short demo run stands in for the demo's export: drawn scenes, a tokenizer trained on their words, a few steps. Its
exported folder is then fine-tuned by `recipes/photos.yaml` on photographs at their own size and aspect (one rotated by
EXIF, three greyscale, two RGBA) and two H.264 clips, all imported from LLaVA and OpenAI-style JSON.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from neo_lightning.checkpoint.load import load_model
from neo_lightning.cli.main import main
from neo_lightning.data.index import ShardSource, iterate_samples, sample_ids
from neo_lightning.data.text.serialize import prompt_from_messages
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.evaluation.questions import open_shards
from neo_lightning.model.generate import Prompt, generate
from neo_lightning.types import Message, PixelBudget, VideoBudget
from tests.real.media import collect

HERE = Path(__file__).parent / "real"
IMAGE = PixelBudget(min_pixels=16384, max_pixels=1048576)
VIDEO = VideoBudget(fps=None, max_frames=4, min_pixels=4096, max_pixels=230400)
"""The budgets of recipes/photos.yaml."""


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "extra_num_layers": 1,
    "patch_hidden_size": 64,
}
"""The demo's model, small enough to learn in a minute."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model, as `make demo` leaves it, from a few steps."""
    run = tmp_path_factory.mktemp("demo")
    counts = "text=200,image=120,multi_image=60,video=24"
    drawn = ["data", "scenes", "--out", str(run / "scenes"), "--train", counts, "--held-out", "2", "--workers", "0"]
    assert main(drawn) == 0
    steps = [f"--stages.{name}.steps=4" for name in ("text", "pretrain", "mid", "sft")]
    size = [f"--model.model.{name}={value}" for name, value in SMALL.items()]
    assert main(["run", "demo", f"--run.dir={run}", *steps, *size]) == 0
    return run / "export"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two imports."""
    run = tmp_path_factory.mktemp("photos")
    media = str(collect(run / "media"))
    for kind, name in (("llava", "photos.json"), ("messages", "clips_and_pairs.jsonl")):
        line = ["--input", str(HERE / name), "--media", media, "--out", str(run / name.partition(".")[0]), "--strict"]
        assert main(["data", "import", "--format", kind, *line]) == 0
    return run


def sources(shards: Path) -> list[ShardSource]:
    return open_shards([str(path) for path in sorted(shards.glob("*/*.tar"))])


def test_photographs_keep_their_size_and_aspect(shards: Path) -> None:
    facts = [source.facts(*at) for source in sources(shards) for at in sample_ids(source)]
    assert Counter(fact.modality for fact in facts) == {"image": 11, "multi_image": 2, "video": 2}
    sizes = [tuple((m.width, m.height) for m in fact.media) for fact in facts]
    assert ((640, 427),) in sizes, "the rocket lies on its side in the file, and stands upright by its EXIF orientation"
    assert ((1280, 720),) in sizes
    assert ((741, 500), (741, 500)) in sizes


@pytest.mark.slow
def test_a_model_fine_tuned_on_photographs_answers_about_them(
    base: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEO_MODEL", str(base))
    monkeypatch.setenv("NEO_DATA", str(shards))
    assert main(["run", "photos", f"--run.dir={shards}"]) == 0
    model, tokenizer = load_model(shards / "export"), Tokenizer.load(shards / "export")
    wrong = []
    for source in sources(shards):
        for sample in iterate_samples(source):
            for turn, message in enumerate(sample.messages):
                if message.role == "assistant":
                    answer = answer_of(model, tokenizer, sample.messages[:turn])
                    if answer != "".join(str(part) for part in message.parts):
                        wrong.append((sample.key, answer, message.parts))
    assert not wrong, "trained questions that the model does not answer"


def answer_of(model: torch.nn.Module, tokenizer: Tokenizer, asked: tuple[Message, ...]) -> str:
    sequence, patches = prompt_from_messages(asked, tokenizer, IMAGE, VIDEO)
    prompt = Prompt(input_ids=sequence.input_ids, visual=sequence.visual, grids=sequence.grids, patches=patches)
    (ids,) = generate(model, [prompt], max_new_tokens=40, stop_ids=[tokenizer.im_end_id])
    return tokenizer.decode(ids).strip()
