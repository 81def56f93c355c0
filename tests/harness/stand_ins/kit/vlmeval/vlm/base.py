from typing import Any


class BaseModel:
    """VLMEvalKit's, as far as it is called."""

    def __init__(self) -> None:
        self.dump_image_func: Any = None

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        return self.generate_inner(message, dataset)
