"""Real photographs and clips, from a JSON file to a fine-tuned model that answers about them.

A short demo run stands in for the demo's export: drawn scenes, a tokenizer trained on their words, a few steps. Its
exported folder is then fine-tuned by `recipes/photos.yaml` on photographs at their own size and aspect (one rotated by
EXIF, three greyscale, two RGBA) and two H.264 clips, all imported from LLaVA and OpenAI-style JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from neo_lightning.answering import Answering, Engine, load, write_folder
from neo_lightning.cli.chat import printable
from neo_lightning.cli.main import main
from neo_lightning.data.index import ShardSource, iterate_samples, sample_ids
from neo_lightning.data.text.tokenizer import train_tokenizer
from neo_lightning.evaluation.questions import open_shards
from neo_lightning.model.config import NeoConfig
from neo_lightning.types import PixelBudget, VideoBudget
from tests.cli.test_export_answers import command as options_of
from tests.forks import Server
from tests.real.media import collect
from tests.tiny_models import random_model

HERE = Path(__file__).parent / "real"
VIDEO = VideoBudget(fps=None, max_frames=4, min_pixels=4096, max_pixels=230400)
"""The clips' budget of recipes/photos.yaml."""


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
    counts = "text=200,image=120,pair=24,multi_image=60,video=24"
    drawn = ["data", "scenes", "--out", str(run / "scenes"), "--train", counts, "--held-out", "2", "--workers", "0"]
    assert main(drawn) == 0
    steps = [f"--stages.{name}.steps=4" for name in ("text", "pretrain", "mid", "sft")]
    size = [f"--model.model.{name}={value}" for name, value in SMALL.items()]
    assert main(["run", "demo", f"--run.dir={run}", *steps, *size]) == 0
    return run / "export"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imports."""
    run = tmp_path_factory.mktemp("photos")
    media = str(collect(run / "media"))
    imports = (("llava", "photos.json"), ("messages", "clips_and_pairs.jsonl"), ("llava", "held_out.json"))
    for kind, name in imports:
        line = ["--input", str(HERE / name), "--media", media, "--out", str(run / name.partition(".")[0]), "--strict"]
        assert main(["data", "import", "--format", kind, *line]) == 0
    return run


def sources(shards: Path) -> list[ShardSource]:
    """Those that are trained on."""
    return open_shards([str(path) for path in sorted(shards.glob("*/*.tar")) if path.parent.name != "held_out"])


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
    model = load(shards / "export")
    assert not wrong_answers(model, shards), "trained questions that the model does not answer"
    held_out(shards, model)


@pytest.mark.slow
def test_low_rank_terms_reach_the_answers_of_the_whole_model(
    base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With under 5% of its parameters; the merged export and the adapter beside the base answer alike."""
    monkeypatch.setenv("NEO_MODEL", str(base))
    monkeypatch.setenv("NEO_DATA", str(shards))
    small = "min_pixels: 4096, max_pixels: 16384"  # the test above has the photographs' own sizes, which take minutes
    budgets = [f"--stages.sft.image={{{small}}}", f"--stages.sft.video={{fps: null, max_frames: 2, {small}}}"]
    line = ["run", "photos_lora", f"--run.dir={tmp_path}", "--evaluation=[]", "--stages.sft.context=512", *budgets]
    assert main(line) == 0
    base_model = load(base)
    base_model.answering = load(tmp_path / "export").answering
    assert len(wrong_answers(base_model, shards)) > 10, "the base knows the answers: nothing would be proved"
    learned = sum(x.numel() for x in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values())
    assert learned < 0.05 * sum(p.numel() for p in base_model.model.parameters())
    for model in (load(tmp_path / "export"), load(base, adapter=tmp_path / "adapter")):
        assert not wrong_answers(model, shards), "trained questions that the model does not answer"
    assert main(["model", "merge", str(base), str(tmp_path / "adapter"), str(tmp_path / "merged")]) == 0
    merged = load(tmp_path / "merged")
    assert not wrong_answers(merged, shards)
    photo = shards / "media" / "astronaut.png"
    assert merged.answer("Who is in the picture?", images=[photo]).strip() == "an astronaut", "as a person asks"


def wrong_answers(model: Engine, shards: Path) -> list[tuple[str, str, tuple[object, ...]]]:
    """Key, what the model says, what it was trained to say."""
    wrong = []
    for source in sources(shards):
        for sample in iterate_samples(source):
            for turn, message in enumerate(sample.messages):
                if message.role == "assistant":
                    answer = model.answer(sample.messages[:turn], max_new_tokens=40).strip()
                    if answer != "".join(str(part) for part in message.parts):
                        wrong.append((sample.key, answer, message.parts))
    return wrong


def held_out(run: Path, model: Engine) -> None:
    """Other questions were scored while training and at the end, as the export answers them."""
    report = json.loads((run / "report.json").read_text())
    columns, steps = report["curves"]["columns"], report["curves"]["steps"]
    seen = {step: score for step, score in zip(steps, columns["eval/held_out"], strict=True) if score is not None}
    assert set(seen) == {40, 80, 120, 160, 200}
    asked = [sample for source in open_shards([str(run / "held_out" / "*.tar")]) for sample in iterate_samples(source)]
    said = model.answer([sample.messages[:1] for sample in asked], max_new_tokens=16)
    right = sum([answer.strip()] == list(s.messages[1].parts) for answer, s in zip(said, asked, strict=True))
    final = report["evaluations"]["held_out"]
    assert (final["questions"], final["rows not asked"]) == (8, 0)
    assert final["exact match"] == seen[max(seen)] == right / 8


def test_the_recipe_of_photographs_exports_what_answers_as_it_trained(
    shards: Path, tmp_path: Path, forks: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From random weights that one tiny step leaves as they are: answers hang on every pixel."""
    words = tmp_path / "words"
    texts = (p for source in sources(shards) for s in iterate_samples(source) for m in s.messages for p in m.parts)
    tokenizer = train_tokenizer((text for text in texts if isinstance(text, str)), 400, words)
    ids = {"image_token_id": tokenizer.context_id, "image_start_token_id": tokenizer.img_start_id}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False}
    config = NeoConfig(vocab_size=tokenizer.vocab_size, **heads, **ids, **{**SMALL, "hidden_size": 32})
    monkeypatch.setenv("NEO_MODEL", str(write_folder(random_model(config, 0), tmp_path / "m", words, Answering())))
    monkeypatch.setenv("NEO_DATA", str(shards))
    least, most = 4096, 65536
    budget = f"--stages.sft.image={{min_pixels: {least}, max_pixels: {most}}}"
    steps = ["--stages.sft.steps=1", "--stages.sft.lr=1e-12", "--stages.sft.packs_per_step=1", budget]
    assert main(["run", "photos", f"--run.dir={tmp_path / 'run'}", *steps]) == 0
    exported = load(tmp_path / "run" / "export")
    measured = Engine(
        exported.model, exported.tokenizer, Answering(image=PixelBudget(min_pixels=least, max_pixels=most), video=VIDEO)
    )
    usual = Engine(exported.model, exported.tokenizer, Answering.of_config(NeoConfig()))
    line = ["chat", "--model", str(tmp_path / "run" / "export"), "--max-new-tokens", "8"]
    chosen = {sample.modality: sample for source in sources(shards) for sample in iterate_samples(source)}
    assert set(chosen) == {"image", "multi_image", "video"}
    for kind, sample in chosen.items():
        messages = sample.messages[:1]
        answer = measured.answer(messages, max_new_tokens=8)
        status, said = forks.run("neo_lightning.cli.main:main", [*line, *options_of(messages, tmp_path)])
        assert status == 0, said
        assert said == printable(answer) + "\n", kind
        if kind == "image":
            assert usual.answer(messages, max_new_tokens=8) != answer, "another size is another answer"
