from typing import Any

supported_VLM: dict[str, Any] = {"another": None}
