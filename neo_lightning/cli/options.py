"""The parser of commands with options of their own: nothing is abbreviated, and what is wrong is one paragraph."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from .errors import UserError, nearest

RECIPE = ("config", "run", "seed_everything", "stages", "model", "data", "trainer", "evaluation", "export")
"""What may follow where a recipe is named, with more keys behind a dot."""


class Options(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors name the nearest right option instead of printing the usage."""

    def __init__(self, *args: Any, recipe: bool = False, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: argparse's.
            recipe: further arguments are a recipe's, and not an error.
        """
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.recipe = recipe

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """As argparse; a subcommand's parser, which is asked by its parent this way, refuses what it does not know."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        given: Sequence[str] = args if args is not None else ()
        given = given[: list(given).index("--")] if "--" in given else given  # what follows is another program's
        names = [arg.partition("=")[0] for arg in given if arg.startswith("--")]
        wrong = [name for name in names if name not in options and " " not in name]
        if wrong and not self.recipe and not self._subparsers:  # before argparse asks for what was meant
            name = wrong[0]
            raise UserError(f"{self.prog}: unknown option {name}. {nearest(name, options)}")
        for name in wrong:
            if name[2:] not in RECIPE and get_close_matches(name, options, cutoff=0.8):
                raise UserError(
                    f"{self.prog}: {name} is neither an option nor a recipe's key. {nearest(name, options)}"
                )
        found, rest = super().parse_known_args(args, namespace)
        if rest and not self.recipe and not self._subparsers:
            self.error(f"unexpected {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raise it as a UserError."""
        raise UserError(f"{self.prog}: {message} ({self.prog} --help)")
