"""`neo-lightning data scenes | import | tokenizer | index | check | plan | stats | inspect`: make shards, look.

scenes      drawn scenes with known answers, their manifest, and a tokenizer trained on their words
import      JSON, Parquet or a folder of captions, and media -> shards
tokenizer   a Qwen3 tokenizer -> the same with NEO's special tokens; or a new one, trained on a manifest's words
index       a manifest's shards -> their index; check: what of them is left out and why
plan        what each stage of a recipe will show; stats: what a manifest holds
inspect     packs of a recipe as the model sees them: a page
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from . import data_index, data_inspect, data_plan
from .errors import UserError, user_errors
from .options import Options
from .recipe import shipped

TRAIN = {
    "demo": {"text": 8000, "image": 15000, "pair": 8000, "multi_image": 17000, "video": 4500},
    "boards": {"text": 3000, "board": 12000},
}
"""Scenes to train on, by set and kind."""
HELD_OUT = 160
VOCABULARY = 512


def main(argv: list[str]) -> int:
    """Run one of the data commands."""
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    args.overrides = overrides  # of `plan` and `inspect`
    with user_errors(f"neo-lightning data {args.command}"):
        return int(args.function(args) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = Options(prog="neo-lightning data", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    scenes = commands.add_parser("scenes", help="draw scenes with known answers and train their tokenizer")
    scenes.add_argument("--out", type=Path, required=True, help="folder: train/, test/, tokenizer/, manifest.yaml")
    scenes.add_argument("--set", choices=TRAIN, default="demo", help="boards: larger grids, for ablations")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument("--train", default="", metavar="text=N,image=N,...", help=f"scenes to train on; {TRAIN}")
    scenes.add_argument("--held-out", type=int, default=HELD_OUT, help="held-out scenes of each question type")
    scenes.add_argument("--vocab-size", type=int, default=VOCABULARY)
    scenes.add_argument("--workers", type=int, default=None, help="processes; default one a core")
    scenes.set_defaults(function=_scenes)

    load = commands.add_parser("import", help="turn records and media into shards; goes on where it was killed")
    formats = ("auto", "llava", "messages", "parquet", "folder", "webdataset")
    load.add_argument(
        "--format", choices=formats, default="auto", help="auto looks at the input and says what it found"
    )
    load.add_argument("--input", "--json", type=Path, nargs="+", required=True, help="files, or folders of them")
    load.add_argument(
        "--media", type=Path, help="folder that file names start at; default the one that the input lies in"
    )
    load.add_argument("--out", type=Path, required=True, help="folder for the shards")
    load.add_argument("--caption", metavar="KEY", help="of the caption, where it is neither `text` nor `caption`")
    columns = "where records have their own keys: messages, role, content, prompt, response, images, text, ..."
    load.add_argument("--columns", default="", metavar="COLUMN=KEY,...", help=columns)
    roles = "where turns have their own roles: system, user, assistant, function_call, tool"
    load.add_argument("--roles", default="", metavar="ROLE=NAME,...", help=roles)
    load.add_argument("--keep", nargs="+", default=(), metavar="KEY", help="further keys to keep in a sample's `meta`")
    preference = "records with chosen and rejected answers: leave them out, or learn the chosen side"
    load.add_argument("--preference", choices=("refuse", "chosen"), default="refuse", help=preference)
    load.add_argument(
        "--fields",
        nargs="+",
        default=[],
        metavar="NAME=MEMBER",
        help='--format webdataset: image=jpg;png answer=json.caption question="What is this?" ignore=cls',
    )
    load.add_argument(
        "--function", dest="record_of", default="", metavar="MODULE.NAME", help="your own: sample -> record"
    )
    load.add_argument("--classes", type=Path, metavar="FILE", help="a name a line, for the numbers in `cls` members")
    load.add_argument(
        "--hold-out",
        type=_share,
        default=0.0,
        metavar="5%%",
        help="share (5%%, 0.05) or about so many (500) as sources of their own, by a hash of the key",
    )
    load.add_argument("--again", action="store_true", help="replace the import that --out holds")
    load.add_argument("--strict", action="store_true", help="refuse bad records and keys that nothing uses")
    load.add_argument("--samples-per-shard", type=int, default=4096)
    load.add_argument(
        "--shard-size", type=_bytes, default=1 << 30, metavar="SIZE", help="500MB, 2GB, ...; default 1GiB"
    )
    load.add_argument("--workers", type=int, default=None, help="processes; default one a core")
    load.set_defaults(function=_import)

    words = commands.add_parser("tokenizer", help="give a Qwen3 tokenizer NEO's special tokens, or train a new one")
    source = words.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", help="Qwen3 tokenizer: folder, or hf://owner/name")
    source.add_argument("--manifest", help="train on the words of this manifest's sources")
    words.add_argument("--vocab-size", type=int, default=VOCABULARY, help="with --manifest")
    words.add_argument("--out", type=Path, required=True)
    words.set_defaults(function=_tokenizer)
    data_index.add_commands(commands)
    data_plan.add_commands(commands)
    data_inspect.add_commands(commands)
    return parser


def _scenes(args: argparse.Namespace) -> None:
    train = _counts(args.train, TRAIN[args.set])
    made = args.out / "scenes.json"
    wanted = {"seed": args.seed, "train": train, "held_out": args.held_out, "vocab_size": args.vocab_size}
    if args.set != "demo":  # what was drawn before there were sets stays as it is
        wanted["set"] = args.set
    if made.is_file() and json.loads(made.read_text(encoding="utf-8")) == wanted:
        print(f"{args.out}: these scenes have been drawn already")
        return
    from neo_lightning.scenes import BOARDS, TASKS, write_scenes

    made.unlink(missing_ok=True)  # it vouches for the folder's content, so it comes last
    shards = write_scenes(
        args.out,
        seed=args.seed,
        train=train,
        held_out_per_task=args.held_out,
        tasks=TASKS if args.set == "demo" else (*BOARDS, "copy", "pattern"),
        workers=args.workers,
    )
    text = shipped("data_manifests")[args.set].read_text(encoding="utf-8")
    content = re.sub(r"\$\{oc\.env:NEO_DATA,[^}]*\}/", "", text[text.index("sources:") :])
    manifest = args.out / "manifest.yaml"
    manifest.write_text(f"# The drawn scenes of this folder; patterns start here.\n\n{content}", encoding="utf-8")
    size = _train_tokenizer(manifest, args.vocab_size, args.out / "tokenizer")
    made.write_text(json.dumps(wanted), encoding="utf-8")
    print(f"{args.out}: {len(shards)} shards, a tokenizer of {size} tokens, manifest.yaml")


def _counts(text: str, default: dict[str, int]) -> dict[str, int]:
    """`text=100,image=50` -> scenes of each kind; the default numbers where nothing is given."""
    if not text:
        return default
    counts = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in default or not number.isdigit():
            raise UserError(f"--train: expected KIND=N with {', '.join(default)}, got {part!r}")
        counts[name] = int(number)
    return counts


def _import(args: argparse.Namespace) -> None:
    from neo_lightning.importers import Reading, import_dataset

    columns = dict(_pairs("--columns", args.columns))
    if args.caption:
        columns["text"] = args.caption
    roles = {name: role for role, name in _pairs("--roles", args.roles)}
    report = import_dataset(
        args.format,
        args.input,
        args.out,
        media=args.media,
        reading=Reading(columns=columns, roles=roles, keep=tuple(args.keep), preference=args.preference),
        fields=args.fields,
        function=args.record_of,
        classes=args.classes,
        hold_out=args.hold_out,
        again=args.again,
        strict=args.strict,
        samples_per_shard=args.samples_per_shard,
        bytes_per_shard=args.shard_size,
        workers=args.workers,
        progress=True,
    )
    print(report)


def _pairs(option: str, text: str) -> list[tuple[str, str]]:
    """`a=b,c=d` -> pairs."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    for name, _, value in pairs:
        if not name or not value:
            raise UserError(f"{option}: expected NAME=VALUE,..., got {text!r}")
    return [(name, value) for name, _, value in pairs]


def _bytes(text: str) -> int:
    """`500MB` or `1.5GiB` -> bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB or 1GiB, got {text!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def _share(text: str) -> float:
    """`5%` or `0.05` -> 0.05, `500` -> 500."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    whole = share >= 1 and match is not None and not match[2] and share.is_integer()
    if not (0 < share < 1 or whole):
        raise argparse.ArgumentTypeError(f"expected a share such as 5% or 0.05, or a number of samples, got {text!r}")
    return share


def _tokenizer(args: argparse.Namespace) -> None:
    from neo_lightning.data.text.tokenizer import add_special_tokens

    if args.manifest:
        size = _train_tokenizer(Path(args.manifest), args.vocab_size, args.out)
    else:
        size = add_special_tokens(args.source, args.out).vocab_size
    print(f"{args.out}: a tokenizer of {size} tokens")


def _train_tokenizer(manifest: Path, vocab_size: int, out: Path) -> int:
    """Train on all text of a manifest's sources as it is serialised; returns the vocabulary's size."""
    from neo_lightning.data.text.serialize import text_runs
    from neo_lightning.data.text.tokenizer import train_tokenizer

    from ..data.index import open_source, sample_ids
    from ..data.manifest import load_manifest
    from ..types import VideoBudget

    loaded = load_manifest(manifest)
    sources = [open_source(loaded, name) for name in loaded.sources]
    video = VideoBudget()
    texts = (text for source in sources for at in sample_ids(source) for text in text_runs(source.facts(*at), video))
    return train_tokenizer(texts, vocab_size, out).vocab_size
