"""What is refused, in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        """
        Args:
            status: of HTTP.
            message: a sentence for people.
            param: the field that is wrong, such as `messages[0].content[1]`.
            code: a word for programs.
        """
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_exceeded" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """When to try again, where that helps."""
        return {"Retry-After": "2"} if self.status in (429, 503) else {}


def busy(what: str) -> Refused:
    """As much as can be is going on already."""
    return Refused(429, f"{what}; try again in a moment", code="rate_limit_exceeded")


def stopped() -> Refused:
    """Nothing more is answered."""
    return Refused(503, "the server is stopping", code="server_stopping")


def too_long(message: str) -> Refused:
    """More tokens than there is room for."""
    return Refused(400, message, param="messages", code="context_length_exceeded")
