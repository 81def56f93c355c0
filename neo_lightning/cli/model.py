"""`neo-lightning model init | import | export | info`: make, convert and describe model folders.

init      Qwen3 folder (or nothing) + tokenizer -> a NEO folder that a run or `generate` can start from
import    released folder or Hugging Face id    -> the same, checked tensor by tensor
export    a run's training checkpoint           -> a NEO folder in the released layout
info      preset, folder, id or run             -> sizes, parameters, FLOPs
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, user_errors

if TYPE_CHECKING:
    import torch

    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..model.config import NeoConfig


def main(argv: list[str]) -> int:
    """Run one of the model commands."""
    args = _parser().parse_args(argv)
    with user_errors(f"neo-lightning model {args.command}"):
        args.function(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neo-lightning model", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    init = commands.add_parser("init", help="make a fresh model folder")
    init.add_argument("--model", default="neo_ov_2b", help="preset, or the folder of a config.json")
    init.add_argument("--qwen3", help="backbone: Qwen3 folder or Hugging Face id; random weights without it")
    init.add_argument("--rule", choices=("zero_k", "smooth"), default="zero_k", help="how H/W start in the backbone")
    init.add_argument("--tokenizer", required=True, help="tokenizer folder with NEO's tokens (`data tokenizer`)")
    init.add_argument("--seed", type=int, default=0)
    init.set_defaults(function=_init)

    load = commands.add_parser("import", help="check a released model and write it as a folder")
    load.add_argument("--model", required=True, help="folder or Hugging Face id")
    load.add_argument("--tokenizer", help="tokenizer folder; default the model's own")
    load.set_defaults(function=_import)

    export = commands.add_parser("export", help="turn a run's checkpoint into a model folder")
    export.add_argument("--run", type=Path, required=True, help="run folder, or one of its checkpoints")
    export.add_argument("--tokenizer", help="tokenizer folder; default the run's own")
    export.set_defaults(function=_export)
    for command in (init, load, export):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")

    info = commands.add_parser("info", help="describe a model")
    info.add_argument("model", help="preset, model folder, Hugging Face id, or run folder")
    info.add_argument("--context", type=int, default=16384, help="row length for the FLOPs")
    info.set_defaults(function=_info)
    return parser


def with_tokens(config: NeoConfig, tokenizer: Tokenizer) -> NeoConfig:
    """The config with a tokenizer's image tokens."""
    return replace(config, image_token_id=tokenizer.context_id, image_start_token_id=tokenizer.img_start_id)


def _init(args: argparse.Namespace) -> None:
    import torch

    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..checkpoint.export import export_model
    from ..training.build import Init, build_model, read_config

    tokenizer = Tokenizer.load(args.tokenizer)
    config = with_tokens(read_config(args.model), tokenizer)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{args.tokenizer} has {tokenizer.vocab_size} tokens, the model {config.vocab_size} embeddings")
    start = Init(kind="qwen3" if args.qwen3 else "scratch", folder=args.qwen3, rule=args.rule, seed=args.seed)
    model = build_model(config, start, stages={}, device=torch.device("cpu"))
    export_model(model.to(_dtype(args)), config, args.out, tokenizer_dir=args.tokenizer)
    print(f"{args.out}: {_parameters(config):,} parameters")


def _import(args: argparse.Namespace) -> None:
    from ..checkpoint.export import export_model
    from ..checkpoint.load import load_model

    model = load_model(args.model, dtype=_dtype(args))
    export_model(model, model.config, args.out, tokenizer_dir=args.tokenizer or args.model)
    print(f"{args.out}: {_parameters(model.config):,} parameters, every tensor found and of the right shape")


def _export(args: argparse.Namespace) -> None:
    from .finish import export_checkpoint, last_checkpoint

    checkpoint = last_checkpoint(args.run)
    export_checkpoint(checkpoint, args.out, args.tokenizer or _tokenizer_of(checkpoint), dtype=_dtype(args))
    print(f"{args.out}: exported from {checkpoint}")


def _tokenizer_of(checkpoint: Path) -> str:
    """The tokenizer that the recipe in a checkpoint's run folder names.

    Raises:
        UserError: there is no such recipe, or it names none.
    """
    import yaml

    recipe = checkpoint.parent.parent / "recipe.yaml"
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"] if recipe.is_file() else {}
    folder = data.get("init_args", data).get("tokenizer")
    if not folder:
        raise UserError(f"{recipe} names no tokenizer; give one with --tokenizer")
    return str(folder)


def _info(args: argparse.Namespace) -> None:
    from rich.table import Table

    from ..console import table_console

    config = _config_of(args.model)
    table = Table(title=args.model, title_justify="left", show_header=False)
    for name, value in asdict(config).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    table.add_section()
    for name, value in _sizes(config, args.context).items():
        table.add_row(name, value)
    table_console().print(table)


def _sizes(config: NeoConfig, context: int) -> dict[str, str]:
    """Parameters by part, and training FLOPs of a row of text."""
    import torch

    from ..model.flops import flops_per_step
    from ..model.neo import Neo
    from ..training.stages import groups_of

    with torch.device("meta"):
        model = Neo(config)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = groups_of(name, config.extra_num_layers)[1]
        parts[part] = parts.get(part, 0) + parameter.numel()
    flops = flops_per_step(config, tokens=context, patches=0, pairs=context * (context + 1) // 2, supervised=context)
    return {
        "parameters": f"{sum(parts.values()):,}",
        **{f"  {part}": f"{count:,}" for part, count in parts.items()},
        f"training FLOPs a token ({context:,} tokens of text)": f"{flops / context / 1e9:.2f} G",
    }


def _config_of(name: str) -> NeoConfig:
    """The config of a preset, a model folder, a run or a Hugging Face id."""
    import torch

    from ..model.config import NeoConfig
    from ..training.build import PRESETS, read_config
    from .finish import last_checkpoint

    path = Path(name)
    if name in PRESETS or (path / "config.json").is_file():
        return read_config(name)
    if path.is_dir():
        meta = torch.load(last_checkpoint(path) / "meta.pt", map_location="cpu", weights_only=True)
        return NeoConfig.from_dict(meta["neo_lightning"]["config"])
    from ..checkpoint.load import load_config

    return load_config(name)


def _parameters(config: NeoConfig) -> int:
    import torch

    from ..model.neo import Neo

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Neo(config).parameters())


def _dtype(args: argparse.Namespace) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[args.dtype]
