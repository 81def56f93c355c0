"""What is checked before the first step, so that a run does not end in its second stage for a slip in the recipe.

In: the objects of a parsed recipe, and the checkpoint to go on from. Out: nothing, or a refusal that says what to
change. The rooms check themselves; this calls them early, and adds the checks that need two rooms at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neo_lightning.data.text.tokenizer import Tokenizer

from ..checkpoint.meta import read_meta
from ..data.answers import Answers
from ..data.datamodule import NeoDataModule
from ..training.build import network
from ..training.module import NeoModule
from ..training.stages import check_stages
from .errors import UserError
from .model import with_tokens
from .together import Start


def check_model(module: Any, datamodule: Any) -> None:
    """Check model, stages and tokenizer against each other.

    Raises:
        UserError, ValueError: a stage names parameters that do not exist; or tokenizer and model do not fit each other.
    """
    if isinstance(module, NeoModule):
        check_stages(network(module.config, module.lora), module.stages, module.config.extra_num_layers)
        if folder := tokenizer_folder(datamodule):
            match_tokenizer(module, Tokenizer.load(folder), folder)


def check_data(datamodule: Any, checkpoint: Path | None) -> None:
    """Read the data's index, and take up the position of a checkpoint.

    Raises:
        UserError, ValueError: a stage names sources that do not exist, shards are missing, no image of a stage's pixel
            budget fits its context, or the data is not that of the checkpoint.
    """
    if isinstance(datamodule, NeoDataModule):
        datamodule.setup("fit")
        if checkpoint is not None:
            meta = read_meta(checkpoint)
            try:
                datamodule.load_state_dict(meta[type(datamodule).__qualname__])
            except ValueError as error:
                raise UserError(
                    f"{error}\nGo on with what {checkpoint} was trained on, or choose another run.dir"
                ) from error
            except KeyError as error:
                raise UserError(f"{checkpoint} was trained by another data module: it has no {error}") from error


def ask_store(start: Start, datamodule: Any) -> None:
    """Ask the store about all shards, on rank 0 for all ranks.

    Raises:
        ValueError, RetryError: see `NeoDataModule.ask`.
    """
    if isinstance(datamodule, NeoDataModule):
        datamodule.answers = Answers.from_text(start.shared("answers", lambda: datamodule.ask().to_text()))


def tokenizer_folder(datamodule: Any) -> str | None:
    """Folder (or id) of the data's tokenizer, where the data module names one."""
    folder = getattr(datamodule, "tokenizer_path", None)
    return None if folder is None else str(folder)


def match_tokenizer(module: NeoModule, tokenizer: Tokenizer, folder: str) -> None:
    """Give a new model the tokenizer's ids; refuse a tokenizer that does not belong to a trained one."""
    config = module.config
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer {folder} has {tokenizer.vocab_size} tokens, the model only {config.vocab_size} embeddings: "
            "raise vocab_size in model.model, or train the tokenizer with a smaller --vocab-size"
        )
    right = with_tokens(config, tokenizer)
    if right != config and module.init.kind == "released":
        raise UserError(
            f"the tokenizer {folder} does not belong to the model {module.init.folder}: <IMG_CONTEXT> and <img> are "
            f"{right.image_token_id} and {right.image_start_token_id} in the tokenizer, {config.image_token_id} and "
            f"{config.image_start_token_id} in the model"
        )
    module.config = right
