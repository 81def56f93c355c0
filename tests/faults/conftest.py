"""A run of seconds, as the command line's tests have it."""

from tests.cli.conftest import micro, scenes

__all__ = ["micro", "scenes"]
