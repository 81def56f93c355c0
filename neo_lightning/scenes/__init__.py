"""Drawn scenes with known answers: the data of the demo and of many tests.

write_scenes(out, seed=0, train={"image": 2000, ...}, held_out_per_task=160)   -> WebDataset shards
generate("image", seed=0, split="train", index=7)                              -> Scene with several questions
generate("which_image", seed=0, split="test", index=7)                         -> Scene with one question
"""

from neo_lightning.scenes.generate import BOARD, MODALITIES, PAIR, Scene, generate, held_out
from neo_lightning.scenes.tasks import BOARDS, TASKS, Question, Task
from neo_lightning.scenes.write import encode_scene, plan_shards, write_scenes, write_shard

__all__ = [
    "BOARD",
    "BOARDS",
    "MODALITIES",
    "PAIR",
    "TASKS",
    "Question",
    "Scene",
    "Task",
    "encode_scene",
    "generate",
    "held_out",
    "plan_shards",
    "write_scenes",
    "write_shard",
]
