from typing import Any


class CacheHook:
    def __init__(self) -> None:
        self.added: list[tuple[str, Any, str]] = []

    def add_partial(self, attr: str, request: Any, result: str) -> None:
        self.added.append((attr, request, result))


class lmms:
    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook, self.task_dict = CacheHook(), {}

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size
