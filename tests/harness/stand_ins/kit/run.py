"""What VLMEvalKit does with a model, in small: its arguments, its TSV, one message a row, predictions in a file."""

import argparse
import csv
import os
from pathlib import Path

from vlmeval.config import supported_VLM

parser = argparse.ArgumentParser()
parser.add_argument("--data", nargs="+")
parser.add_argument("--model", nargs="+")
parser.add_argument("--work-dir", type=Path)
parser.add_argument("--judge")
args = parser.parse_args()
for name in args.model:
    model = supported_VLM[name]()
    for dataset in args.data:
        with (Path(os.environ["LMUData"]) / f"{dataset}.tsv").open() as file:  # noqa: SIM112
            for row in csv.DictReader(file, delimiter="\t"):
                parts = [{"type": "image", "value": row["image_path"]}, {"type": "text", "value": row["question"]}]
                out = args.work_dir / name / f"{dataset}.txt"
                out.parent.mkdir(parents=True, exist_ok=True)
                with out.open("a") as answers:
                    answers.write(f"{args.judge}\t{row['index']}\t{model.generate(parts, dataset)}\n")
