"""What Qwen3's chat template writes around tools and thinking, as parts of turns.

    system     SYSTEM\\n\\n# Tools\\n\\n ... <tools>\\n{one tool a line}\\n</tools> ... \\n</tool_call>
    assistant  <think>\\nREASONING\\n</think>\\n\\nCONTENT\\n<tool_call>\\n{"name": "...", ...}\\n</tool_call>
    user       <tool_response>\\nRESULT\\n</tool_response>\\n<tool_response>\\nRESULT\\n</tool_response>

The tokens among it are marks; names, arguments and results are a record's text and stay text. Unlike the template,
which is made for asking, reasoning is kept in every turn that has it, and no empty thinking is put where there is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from neo_lightning.data.facts import SampleError
from neo_lightning.data.text.answers import MARKS

Part = tuple[str, str]
"""("text", the text), ("mark", its name), or ("image" or "video", "")."""

_MARKS = re.compile(f"({'|'.join(map(re.escape, sorted(MARKS)))})")
_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
"""Both as in `tokenizer_config.json` of Qwen/Qwen3-8B."""


def tools_section(tools: Sequence[Any], *, after: bool) -> list[Part]:
    """The system turn's section on tools, `after` its own text."""
    text = ("\n\n" if after else "") + _TOOLS_HEAD + "".join(f"\n{_dumped(tool)}" for tool in tools)
    return [("text", text), *_written(_TOOLS_TAIL)]


def thinking(reasoning: str) -> list[Part]:
    """What stands in front of an answer that was reasoned about."""
    return [*_written("<think>"), ("text", "\n" + reasoning.strip("\n")), *_written("\n</think>\n\n")]


def calls(tool_calls: Sequence[Any], where: str, *, after: bool) -> list[Part]:
    """Calls of tools, `after` an answer's text.

    Raises:
        SampleError: one has no name or no arguments.
    """
    parts: list[Part] = []
    for number, call in enumerate(tool_calls):
        inner = call.get("function") or call if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or "arguments" not in inner:
            raise SampleError(f"{where}: `tool_calls[{number}]` needs a function with `name` and `arguments`")
        arguments = inner["arguments"]
        text = arguments if isinstance(arguments, str) else _dumped(arguments)
        parts += _written("\n<tool_call>\n" if after or number else "<tool_call>\n")
        parts += [("text", f'{{"name": "{inner["name"]}", "arguments": {text}}}'), *_written("\n</tool_call>")]
    return parts


def response(content: Sequence[Part], *, first: bool) -> list[Part]:
    """The result of a tool, the first of a turn or another one."""
    return [
        *_written("<tool_response>\n" if first else "\n<tool_response>\n"),
        *content,
        *_written("\n</tool_response>"),
    ]


def _written(text: str) -> list[Part]:
    """Text of the template itself: the tokens in it are marks."""
    return [("mark" if i % 2 else "text", piece) for i, piece in enumerate(_MARKS.split(text)) if piece]


def _dumped(value: Any) -> str:
    """As transformers' templates write JSON."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise SampleError(f"a tool cannot be written as JSON: {error}") from error
