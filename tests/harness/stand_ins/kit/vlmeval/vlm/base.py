from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class BaseModel:
    """VLMEvalKit's, as far as it is called."""

    allowed_types = ("text", "image", "video")

    def __init__(self) -> None:
        self.dump_image_func: Any = None

    def set_dump_image(self, dump_image_func: Callable[[Mapping[str, Any]], list[str]]) -> None:
        self.dump_image_func = dump_image_func

    def dump_image(self, line: Mapping[str, Any], dataset: str) -> list[str]:
        return self.dump_image_func(line)

    def use_custom_prompt(self, dataset: str) -> bool:
        return False

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        for item in message:
            assert item["type"] in self.allowed_types
            assert (item["type"] == "text") != Path(item["value"]).is_file(), "a text that names a file is one"
        return self.generate_inner(message, dataset)
