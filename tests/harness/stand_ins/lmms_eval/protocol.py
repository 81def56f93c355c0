from types import SimpleNamespace
from typing import Any


class ChatMessages:
    """The real one is a pydantic model; parts have `type`, and `text` or `url`."""

    def __init__(self, *, messages: list[dict[str, Any]]) -> None:
        self.messages = [
            SimpleNamespace(
                role=message["role"],
                content=[
                    SimpleNamespace(**{"start_time": None, "end_time": None, **part}) for part in message["content"]
                ],
            )
            for message in messages
        ]
