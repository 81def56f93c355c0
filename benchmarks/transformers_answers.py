"""Does transformers say what our engine says? Every held-out question of a demo's run, greedily, through its export.

python benchmarks/transformers_answers.py runs/demo-0        a table: question type, equal answers, right ones, seconds

With `--bits 8` transformers holds the layers' matrices in 8 bits (torchao's int8, a scale a row): how many answers
change, and how many are still right, is what that costs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.table import Table

import neo_lightning
from neo_lightning.console import table_console
from neo_lightning.data.index import iterate_samples
from neo_lightning.evaluation.questions import batches, open_shards
from neo_lightning.harness.exported import Conversation, Exported
from neo_lightning.types import Media, Message

MOST = 24
"""Tokens of an answer."""


def conversation(messages: tuple[Message, ...], folder: Path) -> Conversation:
    """Messages for a chat template; media lie in files of the folder."""
    turns: Conversation = []
    for place, message in enumerate(messages):
        parts = []
        for number, part in enumerate(message.parts):
            if isinstance(part, Media):
                file = folder / f"{place}-{number}"
                file.write_bytes(part.data)
                parts.append({"type": part.kind, part.kind: str(file)})
            else:
                parts.append({"type": "text", "text": part})
        turns.append({"role": message.role, "content": parts})
    return turns


def eight() -> Any:
    """The layers' matrices in 8 bits; the embeddings, the patch embedding and the head stay."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--bits", type=int, choices=(8, 32), default=32)
    arguments = parser.parse_args()
    run: Path = arguments.run
    ours = neo_lightning.load(run / "export")
    theirs = Exported(str(run / "export"), device="cpu", quantization_config=eight() if arguments.bits == 8 else None)
    decoding = {"do_sample": False, "max_new_tokens": MOST, "temperature": None, "top_p": None, "top_k": None}
    table = Table("question type", "questions", "equal answers", "right", "engine, s", "transformers, s")
    scratch = run / "transformers_answers"
    totals = [0.0] * 5
    for source in open_shards([str(run / "scenes" / "test" / "*.tar")]):
        asked = equal = right = 0
        seconds = [0.0, 0.0]
        for batch in batches(iterate_samples(source), 16):
            talks = []
            for number, sample in enumerate(batch):
                folder = scratch / str(number)
                folder.mkdir(parents=True, exist_ok=True)
                talks.append(conversation(sample.messages[:-1], folder))
            start = time.perf_counter()
            mine = [text.strip() for text in ours.answer([s.messages[:-1] for s in batch], max_new_tokens=MOST)]
            seconds[0] += time.perf_counter() - start
            start = time.perf_counter()
            said = [text for text, _ in theirs.answer(talks, decoding=decoding)]
            seconds[1] += time.perf_counter() - start
            asked += len(batch)
            equal += sum(a == b for a, b in zip(mine, said, strict=True))
            right += sum([text] == list(s.messages[-1].parts) for text, s in zip(said, batch, strict=True))
        row = [asked, equal, right, *seconds]
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        table.add_row(source.name, *(f"{n:.0f}" for n in row[:3]), *(f"{s:.1f}" for s in seconds))
    table.add_section()
    table.add_row("together", *(f"{n:.0f}" for n in totals[:3]), *(f"{s:.1f}" for s in totals[3:]))
    table_console().print(table)
    theirs.model.save_pretrained(scratch / "weights")
    sizes = [(folder / "model.safetensors").stat().st_size / 1e6 for folder in (run / "export", scratch / "weights")]
    print(f"weights: {sizes[0]:.1f} MB in the export, {sizes[1]:.1f} MB in transformers, {arguments.bits} bits")


if __name__ == "__main__":
    main()
