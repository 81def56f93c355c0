"""From a benchmark and its data to scores: ask, keep, grade.

ask.py      who answers: an engine here (`EngineAnswerer`) or a server (server.py)
answers.py  answers on disk, question by question
job.py      all questions of a benchmark, over the ranks of a launcher (ranks.py)
score.py    answers -> score, interval, categories, mistakes
"""

from .ask import Answerer, EngineAnswerer, Reply, ServerAnswerer, asked_as
from .job import Job, answer_all, judge_all
from .score import Scored, score
from .server import ChatServer
from .settings import model_facts, settings_of

__all__ = [
    "Answerer",
    "ChatServer",
    "EngineAnswerer",
    "Job",
    "Reply",
    "Scored",
    "ServerAnswerer",
    "answer_all",
    "asked_as",
    "judge_all",
    "model_facts",
    "score",
    "settings_of",
]
