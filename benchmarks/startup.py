"""What `lightning run` costs before its first step, by part: CPU seconds of one process, fresh and resumed.

    python benchmarks/startup.py [--repeat 3]

CPU seconds (user and system) and not wall time, as other processes take the machine's cores; the lowest of some
repeats. The model is tiny, so that what is measured is everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
run: {{name: startup, dir: {folder}/run}}
stages:
  one: {{steps: 9, context: 192, packs_per_step: 1, mixture: {{text: 1, image: 1}}, lr: 1e-3,
         image: {{min_pixels: 4096, max_pixels: 4096}}}}
model:
  model: {{vocab_size: 448, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, extra_num_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, patch_hidden_size: 8}}
data: {{manifest: {folder}/scenes/manifest.yaml, tokenizer: {folder}/scenes/tokenizer}}
trainer: {{accelerator: cpu, devices: 1, enable_progress_bar: false}}
export: false
"""

PARTS = {
    "imports": "Python, torch, Lightning and this package",
    "parser": "the recipe to objects",
    "prepare": "checks, index, plan",
    "set-up": "trainer, model, optimiser, checkpoint",
    "first step": "rows, forward, backward, update",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
        counts = "--train text=60,image=24,pair=12,multi_image=4,video=1 --held-out 1 --vocab-size 448 --workers 0"
        call(["-m", "neo_lightning", "data", "scenes", "--out", f"{folder}/scenes", *counts.split()])
        fresh = [measured(recipe, fresh=True) for _ in range(repeat)]
        call(["-m", "neo_lightning", "run", str(recipe), "--trainer.max_steps=2"])
        resumed = [measured(recipe, fresh=False) for _ in range(repeat)]
    best = [min(runs, key=lambda parts: sum(parts.values())) for runs in (fresh, resumed)]
    print(f"{'part':<12}{'fresh':>8}{'resumed':>9}    CPU seconds")
    for part, what in PARTS.items():
        print(f"{part:<12}{best[0][part]:8.2f}{best[1][part]:9.2f}    {what}")
    print(f"{'together':<12}{sum(best[0].values()):8.2f}{sum(best[1].values()):9.2f}")


def call(arguments: list[str]) -> str:
    """Output of a Python program with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def measured(recipe: Path, *, fresh: bool) -> dict[str, float]:
    """CPU seconds of each part, in a process of its own that ends behind its first step."""
    lines = call([__file__, "--child", str(recipe), *([f"--run.dir={recipe.parent}/fresh"] if fresh else [])]).split(
        "\n"
    )
    return json.loads(next(line for line in lines if line.startswith("{")))


def child(arguments: list[str]) -> None:
    """Run a command line up to its first step, and print what each part took."""
    from neo_lightning.cli import run
    from neo_lightning.cli.arguments import parse
    from neo_lightning.cli.on_demand import import_on_demand

    marks: dict[str, float] = {}

    def done(part: str) -> None:
        marks[part] = time.process_time()

    import_on_demand()  # as `cli.main` does
    parse(arguments)
    from lightning.pytorch import Callback

    from neo_lightning.cli import ending, parser, preflight, together  # noqa: F401 - what `run` imports on its way

    done("imports")

    class Watch(Callback):
        def on_train_start(self, trainer: object, pl_module: object) -> None:
            done("set-up")

        def on_train_batch_end(self, *args: object) -> None:
            done("first step")
            times = [0.0, *(marks[part] for part in PARTS)]
            print(
                json.dumps({part: b - a for part, a, b in zip(PARTS, times[:-1], times[1:], strict=True)}), flush=True
            )
            os._exit(0)

    class Watched(run.Run):
        def __init__(self, *args: object, **options: object) -> None:
            done("parser")
            super().__init__(*args, **options)  # type: ignore[arg-type]

        def train(self) -> bool:
            done("prepare")
            self.cli.trainer.callbacks.append(Watch())  # type: ignore[attr-defined]
            return super().train()

    run.Run = Watched  # type: ignore[misc]
    run.main(arguments)


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
