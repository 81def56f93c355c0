"""LightningCLI for recipes: which keys a recipe has, what they are linked to, and the defaults that all runs share.

    Arguments --check keys--> --parse, resolve ${...}--> NeoCLI(.model, .datamodule, .trainer, .evaluation, .settings)

`model` and `data` hold the init arguments of NeoModule and NeoDataModule, or `class_path`/`init_args` of the user's own
class. `stages` is written once and linked to both.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from ..data.datamodule import NeoDataModule
from ..data.owner import OwnedError, owned
from ..evaluation.context import Evaluation
from ..exits import disk_full
from ..training import rewinds
from ..training.callbacks import CommitCheckpoint
from ..types import PixelBudget, Stage, VideoBudget
from . import defaults, keys
from .arguments import Arguments
from .errors import UserError, nearest
from .recipe import RunSettings, find, shipped
from .saved_recipe import SaveRecipe
from .trainer_keys import check_validation

set_parsing_settings(omegaconf_absolute_to_relative_paths=True)  # ${run.dir} below a subcommand

# said by Lightning at every start, and no news for the user: advertisements, its own deprecations, no validation data
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip: " not in record.getMessage())
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")

MODEL = "neo_lightning.training.module.NeoModule"
DATA = "neo_lightning.data.datamodule.NeoDataModule"


class NeoParser(LightningArgumentParser):
    """Parser whose errors are one paragraph with the nearest right key, and no usage dump."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise UserError instead of printing several screens of options."""
        if not self.exit_on_error:
            return super().error(message, ex)
        if message.startswith("unrecognized arguments:"):
            wrong = message.split(":", 1)[1].split()[0].lstrip("-").split("=")[0]
            known = [option.lstrip("-") for option in self._option_string_actions]
            message = f"unknown key {wrong!r} on the command line. {nearest(wrong, known)}"
        # one paragraph; the places that hold the refused value tell where to look
        raise UserError(" ".join([*message.split(), *self._places(message)])) from ex

    def _places(self, message: str) -> list[str]:
        keys_named, value = re.findall(r'Parser key "([^"]+)"', message), re.search(r"Got value: (.*)", message)
        if not keys_named or not value:
            return []
        found = keys.find_value(self.sources, keys_named[-1].rpartition(".")[2], value[1].strip())
        return [f"(in {', '.join(found)})"] if found else []

    sources: ClassVar[dict[str, str]] = {}
    """Name -> text of the recipe files being parsed; a class attribute, as jsonargparse builds parsers itself."""


class NeoCLI(LightningCLI):
    """Parses a recipe and builds the run's objects; `start` then runs the subcommand, where one is given.

    Args:
        arguments: the composed command line.
        subcommand: fit | validate | test | predict, or None for those of `run`, which starts the training itself.

    Raises:
        UserError: an unknown key, a value of the wrong type, a class that does not import.
    """

    def __init__(self, arguments: Arguments, subcommand: str | None = None) -> None:
        recipe = dict(arguments.recipe)
        model_class, recipe["model"] = _choose(recipe, "model", MODEL, LightningModule)
        data_class, recipe["data"] = _choose(recipe, "data", DATA, LightningDataModule)
        _complete(recipe, data_class)
        self.linked = [
            f"{room}.stages"
            for room, cls in (("model", model_class), ("data", data_class))
            if "stages" in (keys.parameters(cls) or {})
        ]
        _check_files(arguments)
        self.files = ", ".join(str(file) for file in arguments.files)
        self._subcommands = {subcommand: LightningCLI.subcommands()[subcommand]} if subcommand else {}
        mode = {"parser_mode": "omegaconf+"}
        super().__init__(
            model_class,
            data_class,
            save_config_callback=SaveRecipe,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            trainer_defaults=defaults.SETTINGS,
            parser_class=NeoParser,
            parser_kwargs={**mode, **({subcommand: mode} if subcommand else {})},
            args=[
                *([subcommand] if subcommand else []),
                "--config",
                yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
                *arguments.overrides,
            ],
            run=subcommand is not None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one that is run: each costs seconds to build."""
        return self._subcommands

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without LightningCLI's warning about `args` beside sys.argv: these are sys.argv's, composed."""
        self.config = parser.parse_args(args)
        below = self.config.get(str(self.config.get("subcommand")), self.config)
        for name, stage in (below.get("stages") or {}).items():
            try:
                build_stage(name, stage.as_dict())
            except UserError as error:
                raise UserError(f"{self.files}: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Hyperparameters in a checkpoint never override the recipe."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The recipe's own keys and the links from `stages`."""
        parser.add_argument("--run", type=RunSettings, help="name and folder of the run")
        parser.add_argument(
            "--stages", type=dict[str, Stage], help="stage name -> its keys, in order: see --stages.help"
        )
        parser.add_argument("--evaluation", type=list[Evaluation], default=[], help="run after training")
        parser.add_argument("--export", type=bool | str, default=True, help="true: RUN/export; a folder; or false")
        for target in self.linked:
            parser.link_arguments("stages", target)

    def instantiate_classes(self) -> None:
        """Build model, data, trainer, evaluations and settings."""
        super().instantiate_classes()
        costs = getattr(self.model, "document_costs", None)
        if costs is not None and isinstance(self.datamodule, NeoDataModule):
            self.datamodule.costs = costs()
            self.datamodule.rule = self.model.sequence_rule()
        self.settings: RunSettings = self._get(self.config_init, "run")
        self.stages: dict[str, Stage] = self._get(self.config_init, "stages")
        self.evaluation: list[Any] = self._get(self.config_init, "evaluation") or []
        self.export: bool | str = self._get(self.config_init, "export")

    def _run_subcommand(self, subcommand: str) -> None:
        """Not yet: `start` does it, when everything that can be wrong beforehand has been looked at."""

    @property
    def saver(self) -> CommitCheckpoint | None:
        """The callback that saves checkpoints, unless they are turned off."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next((callback for callback in callbacks if isinstance(callback, CommitCheckpoint)), None)

    def method_arguments(self) -> dict[str, Any]:
        """What the trainer's method of the subcommand takes, such as `ckpt_path`."""
        assert self.subcommand is not None
        return self._prepare_subcommand_kwargs(self.subcommand)

    def start(self, arguments: Mapping[str, Any]) -> None:
        """Call the trainer's method."""
        assert self.subcommand is not None
        if self.subcommand == "fit":
            rewinds.fit(self.trainer, **arguments)
        else:
            getattr(self.trainer, self.subcommand)(**arguments)

    @contextmanager
    def ownership(self) -> Iterator[None]:
        """Own the run's folder, on rank 0; the other ranks belong to it.

        Raises:
            OwnedError: another process trains there.
            UserError: nothing can be written there.
        """
        if not self.trainer.is_global_zero:
            yield
            return
        folder = Path(self.settings.dir)
        with ExitStack() as held:
            try:
                held.enter_context(owned(folder / "run.lock", what=f"the run {folder}"))
                if self.saver is not None:  # a kill may have come in the middle of a rewind
                    rewinds.settle(folder, self.saver.folder_of(self.trainer))
            except OwnedError:
                raise
            except OSError as error:
                if disk_full(error):
                    raise
                raise UserError(
                    f"run.dir: {folder} cannot be written ({error.strerror}), and a run keeps its checkpoints there: "
                    "make it writable, or name another folder, --run.dir=FOLDER"
                ) from error
            yield

    def _instantiate_trainer(self, config: Any, callbacks: list[Any]) -> Trainer:
        """Lay the shared defaults under what the recipe says about the trainer."""
        run = self._get(self.config_init, "run")
        stages = self._get(self.config_init, "stages")
        evaluations = self._get(self.config_init, "evaluation") or []
        training = self.subcommand in (None, "fit")
        if training and isinstance(self.datamodule, NeoDataModule):
            check_validation(config, self.datamodule.validation, evaluations)
        settings = defaults.trainer_settings(dict(config), run, stages, evaluations, training=training)
        return super()._instantiate_trainer(settings, callbacks)


def build_stage(name: str, fields: dict[str, Any]) -> Stage:
    """Build one stage; its errors are said with its name."""
    try:
        for key, kind in (("image", PixelBudget), ("video", VideoBudget)):
            fields[key] = kind(**fields[key])
        return Stage(**fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"stages.{name}: {str(error).removeprefix('stage: ')}") from error


def _choose(recipe: Mapping[str, Any], key: str, default: str, base: type) -> tuple[Any, dict[str, Any]]:
    """Class and init arguments of `model` or `data`."""
    block = recipe.get(key) or {}
    if not isinstance(block, Mapping):
        raise UserError(f"{key}: expected a mapping of init arguments, got {block!r}")
    if "class_path" not in block:
        return keys.load_class(default), dict(block)
    cls = keys.load_class(str(block["class_path"]))
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"{key}.class_path: {block['class_path']} is not a {base.__name__}")
    return cls, dict(block.get("init_args") or {})


def _is_manifest(path: Path) -> bool:
    """A file, or a folder that holds some: `photos/` with pictures does not hide the shipped manifest of that name."""
    return path.is_file() or any(path.glob("*.yaml"))


def _complete(recipe: dict[str, Any], data_class: Any) -> None:
    """Fill in what follows from other keys: seeds of data and weights, and the file of a shipped manifest's name."""
    known = keys.parameters(data_class) or {}
    data, init = recipe["data"], recipe["model"].get("init")
    recipe.setdefault("seed_everything", 0)
    if "seed" in known:
        data.setdefault("seed", "${seed_everything}")
    if isinstance(init, dict):
        init.setdefault("seed", "${seed_everything}")
    manifest = data.get("manifest")
    if isinstance(manifest, str) and manifest in shipped("data_manifests") and not _is_manifest(Path(manifest)):
        data["manifest"] = str(find(manifest, "data_manifests"))


def _check_files(arguments: Arguments) -> None:
    """Check each file's keys against the classes chosen so far."""
    roots: dict[str, Any] = {
        "run": RunSettings,
        "seed_everything": Any,
        "stages": dict[str, Stage],
        "model": keys.Arguments(keys.load_class(MODEL)),
        "data": keys.Arguments(keys.load_class(DATA)),
        "trainer": keys.Arguments(Trainer),
        "evaluation": list[Evaluation],
        "export": Any,
        "ckpt_path": Any,
    }
    for source, text in arguments.sources.items():
        keys.check_recipe(text, source, roots)
        chosen = {path: node.value for path, node in keys.scalars(yaml.compose(text, Loader=yaml.SafeLoader))}
        for room in ("model", "data"):
            if f"{room}.class_path" in chosen:  # later files may give this class's arguments alone
                roots[room] = keys.Arguments(keys.load_class(chosen[f"{room}.class_path"]))
    NeoParser.sources = arguments.sources
