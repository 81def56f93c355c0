"""lmms-eval's door to models, as far as it is used: names and fields of 0.7."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Instance:
    arguments: tuple[Any, ...]

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class TokenCounts:
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts = field(default_factory=TokenCounts)
