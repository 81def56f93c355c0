"""A model that answers: one engine for `chat`, samples while training, evaluation and the Python face.

    folder --load--> Engine: Neo, Tokenizer, Answering (how it was asked while it learned)
    conversation --conversation.py--> messages --Engine--> prompts --model/generate--> text

`Answering` lies in the folder, so that whoever loads it asks as the model was measured.
"""

from .engine import Engine, Score
from .folder import load, put_adapter, write_adapter_folder, write_folder
from .ranks import Ranks
from .settings import Answering

__all__ = ["Answering", "Engine", "Ranks", "Score", "load", "put_adapter", "write_adapter_folder", "write_folder"]
