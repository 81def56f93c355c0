"""NEO for transformers. `import neo_lightning.hf` registers it; an export carries these files and needs no import.

configuration_neo_chat.py   config.json, ours and the released ones
positions_neo_chat.py       (t, h, w) positions and the mask
layers_neo_chat.py          patch embedding, attention, decoder layer
modeling_neo_chat.py        the model: forward, loss
generation_neo_chat.py      generate, and chat as the authors have it
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from .configuration_neo_chat import NEOChatConfig
from .modeling_neo_chat import NEOChatModel

AutoConfig.register(NEOChatConfig.model_type, NEOChatConfig, exist_ok=True)
AutoModel.register(NEOChatConfig, NEOChatModel, exist_ok=True)
AutoModelForImageTextToText.register(NEOChatConfig, NEOChatModel, exist_ok=True)

__all__ = ["NEOChatConfig", "NEOChatModel"]
