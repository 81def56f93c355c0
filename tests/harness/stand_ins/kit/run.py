"""What VLMEvalKit (e8e78f05) does with a model, in small: its arguments, its TSV, a message a row, its folders.

A data set whose name begins with `Clips` has clips: `Clips_2frame`, `Clips_4fps`.
"""

import argparse
import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmeval.config import supported_VLM
from vlmeval.dataset import DATASET_MODALITY

parser = argparse.ArgumentParser()
parser.add_argument("--data", nargs="+")
parser.add_argument("--model", nargs="+")
parser.add_argument("--work-dir", type=Path)
parser.add_argument("--judge")


def images(line: Mapping[str, Any]) -> list[str]:
    return line["image_path"].split(",")


def message_of(model: Any, dataset: str, line: dict[str, str]) -> list[dict[str, str]]:
    if DATASET_MODALITY(dataset) == "VIDEO":
        told_of_frames(model, dataset)
        head = [{"type": "text", "value": "Watch.", "role": "system"}, {"type": "video", "value": line["video"]}]
        begun = {"type": "text", "value": "Best option:(", "role": "assistant"}
        return [*head, {"type": "text", "value": line["question"]}, begun]
    if model.use_custom_prompt(dataset):
        return model.build_prompt(line, dataset=dataset)
    shown = [{"type": "image", "value": path} for path in images(line)]
    return [*shown, {"type": "text", "value": line["question"]}]


def told_of_frames(model: Any, dataset: str) -> None:
    """A number of frames or a rate, of which the other is taken back; a model that has neither is told nothing."""
    count, rate = (re.search(rf"_(\d+){unit}", dataset) for unit in ("frame", "fps"))
    if (model.nframe or 0) > 0:
        model.nframe = int(count[1]) if count else None
    if (model.fps or 0) > 0:
        model.fps = float(rate[1]) if rate else None


if __name__ == "__main__":
    args = parser.parse_args()
    for name in args.model:
        model: Any = None
        folder = args.work_dir / name / "T20260101_Gabcdef01"
        folder.mkdir(parents=True)
        for dataset in args.data:
            model = model or supported_VLM[name]()  # one model answers all data sets
            model.set_dump_image(images)
            with (Path(os.environ["LMUData"]) / f"{dataset}.tsv").open() as file:  # noqa: SIM112
                lines = list(csv.DictReader(file, delimiter="\t"))
            with (folder / f"{name}_{dataset}.txt").open("w") as answers:
                for line in lines:
                    said = model.generate(message_of(model, dataset, line), dataset=dataset)
                    answers.write(f"{args.judge}\t{line['index']}\t{said}\n")
            (args.work_dir / name / f"{name}_{dataset}.txt").symlink_to(folder / f"{name}_{dataset}.txt")
