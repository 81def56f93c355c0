"""What happens around a step: stages, position, speed, progress, checkpoints, samples, evaluations. One file each."""

from neo_lightning.training.callbacks.begin_from import BeginFrom
from neo_lightning.training.callbacks.checkpointing import CommitCheckpoint
from neo_lightning.training.callbacks.curriculum import Curriculum
from neo_lightning.training.callbacks.evaluating import Evaluating
from neo_lightning.training.callbacks.position import DataPosition
from neo_lightning.training.callbacks.progress import RunProgress
from neo_lightning.training.callbacks.pulse import Pulse
from neo_lightning.training.callbacks.samples import SampleGenerations
from neo_lightning.training.callbacks.spikes import SpikeGuard
from neo_lightning.training.callbacks.throughput import Throughput
from neo_lightning.training.callbacks.time_limit import TimeLimit
from neo_lightning.training.callbacks.trace import Trace

__all__ = [
    "BeginFrom",
    "CommitCheckpoint",
    "Curriculum",
    "DataPosition",
    "Evaluating",
    "Pulse",
    "RunProgress",
    "SampleGenerations",
    "SpikeGuard",
    "Throughput",
    "TimeLimit",
    "Trace",
]
