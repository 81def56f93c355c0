"""`neo-lightning model init | import | export | merge | info | publish`: make, convert and describe model folders.

init      Qwen3 folder (or nothing) + tokenizer -> a NEO folder that a run or `generate` can start from
import    released folder or hf://owner/name    -> the same, checked tensor by tensor
export    a run's training checkpoint           -> a NEO folder in the released layout
          one with model.lora           -> an adapter in PEFT's format, or with --merge the folder
merge     model folder + adapter        -> a NEO folder
info      preset, folder, id or run             -> sizes, parameters, FLOPs
publish   a finished run                        -> its export with a model card, and a repository (see publish.py)
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, user_errors
from .options import Options
from .publish import publish

if TYPE_CHECKING:
    import torch

    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..answering import Answering
    from ..model.config import NeoConfig


def main(argv: list[str]) -> int:
    """Run one of the model commands."""
    args = _parser().parse_args(argv)
    with user_errors(f"neo-lightning model {args.command}"):
        args.function(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Options(prog="neo-lightning model", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    init = commands.add_parser("init", help="make a fresh model folder")
    init.add_argument("--qwen3", help="backbone, a folder or hf://owner/name: every size and the weights are its own")
    init.add_argument("--pre-buffer", type=int, metavar="N", help="layers in front of it; default 24576 / width, <= 12")
    init.add_argument("--model", help="preset, or the folder of a config.json; without --qwen3 with random weights")
    init.add_argument("--rule", choices=("zero_k", "smooth"), default="zero_k", help="how H/W start in the backbone")
    init.add_argument("--tokenizer", required=True, help="tokenizer folder with NEO's tokens (`data tokenizer`)")
    init.add_argument("--seed", type=int, default=0)
    init.set_defaults(function=_init)

    load = commands.add_parser("import", help="check a released model and write it as a folder")
    load.add_argument("--model", required=True, help="folder, or hf://owner/name")
    load.add_argument("--tokenizer", help="tokenizer folder; default the model's own")
    load.set_defaults(function=_import)

    export = commands.add_parser("export", help="turn a run's checkpoint into a model folder")
    export.add_argument("--run", type=Path, required=True, help="run folder, or one of its checkpoints")
    export.add_argument("--tokenizer", help="tokenizer folder; default the run's own")
    export.add_argument("--weights", choices=("ema", "raw"), help="their average, default where there is one; or raw")
    export.add_argument(
        "--merge", action="store_true", help="of a run with model.lora: the whole model, not its adapter"
    )
    export.set_defaults(function=_export)
    for command in (init, load, export):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")

    both = commands.add_parser("merge", help="add an adapter to the model that it was trained on")
    both.add_argument("base", help="model folder, or hf://owner/name")
    both.add_argument("adapter", help="adapter's folder, or hf://owner/name")
    both.add_argument("out", type=Path, help="the new model folder")
    both.add_argument("--dtype", choices=("float32", "bfloat16"), help="default the base's")
    both.set_defaults(function=_merge)

    info = commands.add_parser("info", help="describe a model")
    info.add_argument("model", help="preset, model folder, hf://owner/name, or run folder")
    info.add_argument("--context", type=int, default=16384, help="row length for the FLOPs")
    info.set_defaults(function=_info)

    send = commands.add_parser("publish", help="write a run's model card, and push the export to Hugging Face")
    send.add_argument("--run", type=Path, required=True, help="finished run's folder")
    send.add_argument("--to", metavar="hf://owner/name", help="repository; without it nothing leaves this machine")
    send.add_argument("--licence", required=True, help="of the weights, as the hub names it, such as apache-2.0")
    send.add_argument("--base", metavar="OWNER/NAME", help="model on the hub that this one was trained from")
    send.add_argument("--name", help="in the card, without --to; default the run's")
    send.add_argument("--private", action="store_true", help="a repository that only its owner sees")
    send.set_defaults(function=publish)
    return parser


def with_tokens(config: NeoConfig, tokenizer: Tokenizer) -> NeoConfig:
    """The config with a tokenizer's image tokens."""
    return replace(config, image_token_id=tokenizer.context_id, image_start_token_id=tokenizer.img_start_id)


def _init(args: argparse.Namespace) -> None:
    import torch

    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..answering import Answering, write_folder
    from ..training.build import Init, build_model, read_config

    if args.pre_buffer is not None and (args.model or not args.qwen3 or args.pre_buffer < 0):
        raise UserError("--pre-buffer N (0 or more) goes with --qwen3; a --model has its own (extra_num_layers)")
    tokenizer = Tokenizer.load(args.tokenizer)
    start = Init(kind="qwen3" if args.qwen3 else "scratch", folder=args.qwen3, rule=args.rule, seed=args.seed)
    depth = None if args.pre_buffer is None else {"extra_num_layers": args.pre_buffer}
    config = with_tokens(read_config(args.model or depth, start), tokenizer)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{args.tokenizer} has {tokenizer.vocab_size} tokens, the model {config.vocab_size} embeddings: take the "
            "backbone's own tokenizer (`neo-lightning data tokenizer --from QWEN3 --out FOLDER`), or raise vocab_size "
            "in the config.json of --model"
        )
    model = build_model(config, start, stages={}, device=torch.device("cpu"))
    replaced = _replaced(args.out)
    write_folder(model.to(_dtype(args)), args.out, args.tokenizer, Answering.of_config(config))
    layers = f"{config.extra_num_layers} pre-buffer and {config.post_layers} post-LLM layers"
    print(f"{args.out}: {_parameters(config):,} parameters, {layers}{replaced}")


def _import(args: argparse.Namespace) -> None:
    from ..answering import Answering, write_folder
    from ..checkpoint.load import load_model
    from ..checkpoint.read import model_folder

    folder = model_folder(args.model)
    model = load_model(folder, dtype=_dtype(args))
    answering, replaced = Answering.read(folder, model.config), _replaced(args.out)
    write_folder(model, args.out, args.tokenizer or folder, answering, own_template=False)
    print(f"{args.out}: {_parameters(model.config):,} parameters, every tensor found and of the right shape{replaced}")


def _export(args: argparse.Namespace) -> None:
    from ..checkpoint.shards import ShardReader
    from .finish import export_adapter, export_checkpoint, has_average, last_checkpoint, lora_of

    checkpoint = last_checkpoint(args.run)
    replaced = _replaced(args.out)
    tokenizer = args.tokenizer or _tokenizer_of(checkpoint)
    if lora_of(checkpoint) is not None and not args.merge:
        export_adapter(checkpoint, args.out, tokenizer, weights=args.weights)
        print(f"{args.out}: the adapter of {checkpoint}; --merge writes the whole model")
        return
    if args.merge and lora_of(checkpoint) is None:
        raise UserError(f"--merge: {checkpoint} was trained without model.lora, and is exported whole in any case")
    export_checkpoint(checkpoint, args.out, tokenizer, dtype=_dtype(args), weights=args.weights)
    average = args.weights != "raw" and has_average(ShardReader(checkpoint))
    print(f"{args.out}: {'the average of the weights' if average else 'exported'} from {checkpoint}{replaced}")


def _merge(args: argparse.Namespace) -> None:
    import torch

    from ..answering import load, write_folder
    from ..checkpoint.adapters import is_adapter
    from ..checkpoint.load import load_state
    from ..checkpoint.names import EMBEDDINGS
    from ..checkpoint.read import model_folder

    folder = model_folder(args.base)
    if is_adapter(args.out):
        raise UserError(f"{args.out} is an adapter's folder: the merged model wants one of its own")
    own = load_state(folder)[EMBEDDINGS].dtype
    wanted = own if args.dtype is None else _dtype(args)
    wider = torch.promote_types(own, wanted)  # so that no sum is rounded to less than is written
    engine, replaced = load(folder, dtype=wider, device="cpu", adapter=args.adapter), _replaced(args.out)
    model = engine.model.to(wanted)
    write_folder(model, args.out, folder, engine.answering, own_template=False)
    print(f"{args.out}: {args.base} with {args.adapter}{replaced}")


def _replaced(folder: Path) -> str:
    """To be said of a model that is written where there is one already."""
    return " (in place of the model that was there)" if (folder / "config.json").is_file() else ""


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

    config, answering = _asked_as(args.model)
    table = Table(title=args.model, title_justify="left", show_header=False)
    for name, value in asdict(config).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    clip = answering.video
    table.add_row("a clip", f"up to {clip.max_frames} frames of {clip.min_pixels:,} to {clip.max_pixels:,} pixels")
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


def _asked_as(name: str) -> tuple[NeoConfig, Answering]:
    """The config of a preset, a model folder (or `hf://owner/name`), or a run; and its budgets, which a run's last
    checkpoint has from its stage."""
    from ..answering import Answering
    from ..checkpoint import commit
    from ..checkpoint.read import model_folder
    from ..model.config import NeoConfig
    from ..training.build import PRESETS, read_config
    from .finish import about, answering_of, last_checkpoint

    path = Path(name)
    if name not in PRESETS and path.is_dir() and not (path / "config.json").is_file():
        if not (path / "checkpoints").is_dir() and commit.latest(path) is None and commit.step_of(path) < 0:
            raise UserError(
                f"{name} is neither a model folder (config.json, model.safetensors) nor a run's (checkpoints/); there "
                f"is also the name of a preset: {', '.join(PRESETS)}"
            )
        checkpoint = last_checkpoint(path)
        answering = answering_of(checkpoint)
        image, config = answering.image, NeoConfig.from_dict(about(checkpoint)["config"])
        return replace(config, min_pixels=image.min_pixels, max_pixels=image.max_pixels), answering
    config = read_config(name)
    return config, Answering.of_config(config) if name in PRESETS else Answering.read(model_folder(name), config)


def _parameters(config: NeoConfig) -> int:
    import torch

    from ..model.neo import Neo

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Neo(config).parameters())


def _dtype(args: argparse.Namespace) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[args.dtype]
