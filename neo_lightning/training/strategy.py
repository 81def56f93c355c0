"""Lightning strategy: data parallel over all ranks with FSDP2, checkpoints that are whole or absent.

In: Lightning's calls. Out: the same code path for one CPU, one GPU or many. The ranks form a grid: those of a line
share one copy of the model, every line holds a copy. Sharding saves memory and costs gathers of every layer twice a
micro-batch; copies cost one sum of the gradients a step, which FSDP2 hides behind the last backward pass.

             shard 0   shard 1
    replica 0   rank 0    rank 1      replicas x shard_size = ranks; every rank reads other data
    replica 1   rank 2    rank 3

With a `sequence_size` of S, S neighbours of a line read the same rows and share each of them (`training.sequence`).

Checkpoints have this layout, are committed by one rename (`checkpoint.commit`), readable by any number of ranks, with a
checksum of every byte and nothing in them that is unpickled into code:

    step-00000120/
      rank-00000-of-00002.safetensors   this rank's rows of weights and optimiser state, its random states
      rank-00001-of-00002.safetensors
      meta.pt                           Lightning's loops, callbacks, data position: primitives (weights_only=True)

Optimiser state is stored by parameter name for those parameters that have some, so what is frozen while a checkpoint is
loaded makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer
from torch.profiler import record_function

from neo_lightning.checkpoint.meta import read_meta
from neo_lightning.checkpoint.rank_file import DamagedError
from neo_lightning.checkpoint.shards import Part, ShardReader, is_distributed, local_part, shard_rows
from neo_lightning.model.frozen import is_scale
from neo_lightning.model.lora import is_term
from neo_lightning.training.launcher import Launcher
from neo_lightning.training.meeting import meet
from neo_lightning.training.muon import MOMENTUM
from neo_lightning.training.random_state import random_state
from neo_lightning.training.saving import CheckpointSaveError, Saves, first_said
from neo_lightning.training.sequence import check_sizes

__all__ = ["ASYNCHRONOUS", "CheckpointSaveError", "NeoStrategy"]

ASYNCHRONOUS = {"asynchronous": True}
"""`storage_options` of a save that goes on beside the training (`NeoStrategy.saves`)."""
_WEIGHTS = "weights/"
_OPTIMIZER = "optimizer/"
_RANDOM = "random/"


class NeoStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks or over groups of them, on any device, for `NeoModule`."""

    def __init__(
        self,
        shard_size: int | None = None,
        sequence_size: int = 1,
        timeout_minutes: float = 30.0,
        setup_timeout: float = 10.0,
        process_group_backend: str | None = None,
        keep_gathered: bool | list[str] = False,
    ) -> None:
        """
        Args:
            shard_size: ranks that share one copy of the model; all of them if None. 1 gives every rank a whole copy.
            sequence_size: ranks that share each packed row, a part of as many tokens each; of those of a copy.
            timeout_minutes: a collective that waits longer ends the run. It may be long: `Pulse` ends a run whose ranks
                are lost, and a rank may wait for data.
            setup_timeout: minutes in which all ranks must have come together, and the first step be done.
            process_group_backend: `nccl`, `gloo`; chosen by the device if None.
            keep_gathered: leave the layers' weights gathered between a micro-batch's forward and backward pass, in all
                stages or those of these names: half the gathers, for memory of a whole copy of the weights as computed
                with. `plan` says where that fits.
        """
        check_sizes(shard_size, sequence_size)
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=1,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.shard_size, self.sequence_size, self.setup_timeout = shard_size, sequence_size, setup_timeout
        self.keep_gathered = keep_gathered
        self.sequence_group: dist.ProcessGroup | None = None
        """The ranks that share this one's rows; None where it has rows of its own."""
        self.random_states: dict[str, Tensor] = {}
        """Random states of this rank in the checkpoint last loaded; `NeoModule` sets them before the first step."""
        self.saves = Saves(self)

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if self._launcher is not None:
            assert self.cluster_environment is not None
            self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self) -> None:
        """Join the process group; every rank, or group that shares rows, holds other data."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        if self._data_parallel_size == 1 and not dist.is_initialized():
            # one process talks to nobody: no port to listen on, no host name to resolve
            backend = self.process_group_backend or ("nccl" if self.root_device.type == "cuda" else "gloo")
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        elif not dist.is_initialized():
            self.set_world_ranks()
            self._store = meet(self, self.setup_timeout)  # so that the process group need not wait for anybody
        super().setup_environment()
        world, parts = self.world_size, self.sequence_size
        check_sizes(self.shard_size, parts, world)
        if parts > 1:
            names = ("row", "part")
            rows = init_device_mesh(self.root_device.type, (world // parts, parts), mesh_dim_names=names)
            self.sequence_group = rows.get_group("part")

    def mesh(self) -> DeviceMesh:
        """[replica, shard], or [shard] where there is one copy. On all ranks together, in their process group."""
        world, size = self.world_size, self.shard_size or self.world_size
        names = ("replica", "shard")
        grid = init_device_mesh(self.root_device.type, (world // size, size), mesh_dim_names=names)
        return grid if world > size else grid["shard"]

    def setup(self, trainer: Trainer) -> None:
        """One process has nothing to ask FSDP's first version about, and need not import it."""
        if self.world_size > 1:
            super().setup(trainer)
        else:
            super(ModelParallelStrategy, self).setup(trainer)

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Nothing: micro-batches stay on the host until their turn in `NeoModule.training_step`."""
        return batch

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # no autocast: the sharding's policy casts parameters, a second cast would undo deliberate float32
        assert self.lightning_module is not None
        return self.lightning_module.training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.predict_step(*args, **kwargs)

    # ---- saving

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Parameters (one name each, tied or not) and persistent buffers, as they lie on this rank."""
        assert self.lightning_module is not None
        names = set(self.lightning_module.state_dict())
        buffers = {name: x for name, x in self.lightning_module.named_buffers() if name in names}
        return {**dict(self.lightning_module.named_parameters()), **buffers}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Parameter name -> state, for the parameters that have any."""
        assert self.lightning_module is not None
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return {
            name: dict(inner.state[p]) for name, p in self.lightning_module.named_parameters() if inner.state.get(p)
        }

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write and commit a checkpoint folder, on all ranks together.

        Args:
            checkpoint: as Lightning gathers it.
            filepath: the folder.
            storage_options: None, or `ASYNCHRONOUS` to return with a copy of the state, which a thread then writes:
                `saves` says when it counts.

        Raises:
            CheckpointSaveError: on every rank where any of them failed (disk full, for example).
            UnhealthyError: on every rank where a weight or optimiser state of any of them is NaN or infinite.
        """
        if storage_options not in (None, ASYNCHRONOUS):
            raise TypeError(f"NeoStrategy writes folders itself: storage_options may be {ASYNCHRONOUS} or None")
        with record_function("save"):
            self.saves.finish()
            final = Path(self.broadcast(str(filepath)))
            self.saves.begin(final, self._part(checkpoint), checkpoint)
            if storage_options is None:
                self.saves.finish()

    def _part(self, checkpoint: dict[str, Any]) -> Part:
        """This rank's tensors, taken out of a checkpoint: what is left is Lightning's part."""
        weights = {_WEIGHTS + name: x for name, x in checkpoint.pop("state_dict").items()}
        states = {
            f"{_OPTIMIZER}{index}/{name}/{key}": torch.as_tensor(value)
            for index, states in enumerate(checkpoint.pop("optimizer_states", []))
            for name, state in states.items()
            for key, value in state.items()
        }
        own = {f"{_RANDOM}{self.global_rank}/{key}": x for key, x in random_state(self.root_device).items()}
        first_copy = self.global_rank < (self.shard_size or self.world_size)
        shared = {**weights, **states} if first_copy else {}  # all copies are equal
        return local_part(self.global_rank, shared, own)

    def setup_optimizers(self, trainer: Any) -> None:
        """An update of the weights waits for a copy that is being taken of them."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            optimizer.register_step_pre_hook(lambda *_: self.saves.snapshot.before_update())

    # ---- loading

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights, optimiser state and this rank's random states; returns Lightning's part.

        Raises:
            DamagedError: the folder is no checkpoint, or not as it was written; names file and tensor.
            ValueError: it does not belong to this model; lists what differs.
        """
        folder = Path(self.broadcast(str(checkpoint_path)))
        meta: dict[str, Any] = {}
        problem: Exception | None = None
        try:
            meta = self._load(folder)
        except (ValueError, OSError, LookupError) as error:  # a rank reads its own part: others may find nothing wrong
            problem = error
        if not self.reduce_boolean_decision(problem is None, all=True):
            said = first_said(str(problem or ""))
            raise problem or DamagedError(said)
        return meta

    def _load(self, folder: Path) -> dict[str, Any]:
        meta = read_meta(folder)
        reader = ShardReader(folder)
        if not reader.has_checksums:
            rank_zero_info(f"{folder} has no checksums (an earlier version wrote it): taken as it is")
        self._load_weights(reader)
        for index, optimizer in enumerate(self.optimizers):
            self._load_optimizer(reader, index, optimizer)
        prefix = f"{_RANDOM}{self.global_rank}/"
        self.random_states = {n.removeprefix(prefix): reader.read(n) for n in reader.shapes if n.startswith(prefix)}
        return meta

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Nothing: `load_checkpoint` has done it."""

    def _load_weights(self, reader: ShardReader) -> None:
        targets = self.lightning_module_state_dict()
        stored = {n.removeprefix(_WEIGHTS): shape for n, shape in reader.shapes.items() if n.startswith(_WEIGHTS)}
        problems = [f"missing: {name}" for name in targets if name not in stored]
        problems += [f"not in this model: {name}" for name in stored if name not in targets]
        problems += [
            f"{name}: shape {list(stored[name])}, the model has {list(x.shape)}"
            for name, x in targets.items()
            if name in stored and stored[name] != tuple(x.shape)
        ]
        if problems:
            shown = "\n  ".join(problems[:20])
            if any(map(is_term, set(targets) ^ set(stored))):
                shown += (
                    "\none of the two has low-rank terms (model.lora), the other has not: `neo-lightning model export "
                    "--run RUN --merge --out FOLDER` gives a model to begin from (model.init: {kind: released, ...})"
                )
            elif any(map(is_scale, {*targets, *stored})):
                shown += "\nthe two do not hold their frozen projections in as many bits: see lora.base_bits"
            raise ValueError(f"{reader.folder} does not fit this model ({len(problems)} differences):\n  {shown}")
        with torch.no_grad():
            for name, target in targets.items():
                _copy_rows(target, reader, _WEIGHTS + name)

    def _load_optimizer(self, reader: ShardReader, index: int, optimizer: Optimizer) -> None:
        assert self.lightning_module is not None
        optimizer.state.clear()
        keys: dict[str, list[str]] = {}
        for stored in reader.shapes:
            if stored.startswith(f"{_OPTIMIZER}{index}/"):
                name, key = stored.removeprefix(f"{_OPTIMIZER}{index}/").rsplit("/", 1)
                keys.setdefault(name, []).append(key)
        turned = {id(p) for group in optimizer.param_groups if group.get("orthogonal") for p in group["params"]}
        for name, parameter in self.lightning_module.named_parameters():
            if name in keys and (MOMENTUM in keys[name]) != (id(parameter) in turned):
                raise ValueError(
                    f"{reader.folder} has moments of another optimiser than model.optimizer says ({name}): go on with "
                    "that one, or begin anew from its weights: `neo-lightning model export --run RUN --out FOLDER` "
                    "gives them for model.init: {kind: released, folder: FOLDER}"
                )
            for key in keys.get(name, ()):
                stored = f"{_OPTIMIZER}{index}/{name}/{key}"
                if reader.shapes[stored] == tuple(parameter.shape):
                    value = torch.zeros_like(parameter, requires_grad=False)
                    _copy_rows(value, reader, stored)
                else:  # AdamW's step count
                    value = reader.read(stored).to(parameter.device)
                optimizer.state[parameter][key] = value


def _copy_rows(target: Tensor, reader: ShardReader, name: str) -> None:
    """Fill a tensor, or this rank's rows of a distributed one, from a checkpoint."""
    local, first = shard_rows(target)
    if is_distributed(target):
        if local.numel():
            local.copy_(reader.read(name, first, local.shape[0]))
    else:
        local.copy_(reader.read(name))
