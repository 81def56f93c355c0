"""NEO for transformers. `import neo_lightning.hf` registers it; an export carries these files and needs no import.

configuration_neo_chat.py     config.json, ours and the released ones
positions_neo_chat.py         (t, h, w) positions and the mask
layers_neo_chat.py            patch embedding, attention, decoder layer
modeling_neo_chat.py          the model: forward, loss
generation_neo_chat.py        generate, and chat as the authors have it
processing_neo_chat.py        messages and prompts with media -> what the model takes
messages_neo_chat.py, prompt_text_neo_chat.py                 media out of messages; text that is no token
image_processing_neo_chat.py, pictures_neo_chat.py            images -> patches
video_processing_neo_chat.py, clips_neo_chat.py               clips -> frames with their times -> patches
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoVideoProcessor,
)

from .configuration_neo_chat import NEOChatConfig
from .image_processing_neo_chat import NEOChatImageProcessor
from .modeling_neo_chat import NEOChatModel
from .processing_neo_chat import NEOChatProcessor
from .video_processing_neo_chat import NEOChatVideoProcessor

AutoConfig.register(NEOChatConfig.model_type, NEOChatConfig, exist_ok=True)
AutoModel.register(NEOChatConfig, NEOChatModel, exist_ok=True)
AutoModelForImageTextToText.register(NEOChatConfig, NEOChatModel, exist_ok=True)
AutoImageProcessor.register(NEOChatConfig, NEOChatImageProcessor, exist_ok=True)
AutoVideoProcessor.register(NEOChatConfig, NEOChatVideoProcessor, exist_ok=True)
AutoProcessor.register(NEOChatConfig, NEOChatProcessor, exist_ok=True)

__all__ = ["NEOChatConfig", "NEOChatImageProcessor", "NEOChatModel", "NEOChatProcessor", "NEOChatVideoProcessor"]
