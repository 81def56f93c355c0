"""What a launcher has already decided: `fabric run` (LT_*) and torchrun (LOCAL_WORLD_SIZE, ...) as recipe overrides.

A recipe says how many devices a run wants; a launcher says how many processes there are. Where a launcher started this
process its word holds, or each process would start a training of its own. The command line still has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping


def launcher_overrides(environ: Mapping[str, str]) -> list[str]:
    """`--trainer.key=value` arguments for what the launcher decided; empty when started by hand."""
    given: dict[str, str] = {}
    if "TORCHELASTIC_RUN_ID" in environ and "LOCAL_WORLD_SIZE" in environ:
        local = int(environ["LOCAL_WORLD_SIZE"])
        given["devices"] = str(local)
        given["num_nodes"] = str(max(1, int(environ.get("WORLD_SIZE", local)) // local))
    if environ.get("LT_CLI_USED") == "1":
        for name in ("accelerator", "devices", "num_nodes", "precision", "strategy"):
            value = environ.get(f"LT_{name.upper()}")
            if value is not None and not (name == "strategy" and value == "auto"):
                given[name] = value
    return [f"--trainer.{name}={value}" for name, value in given.items()]
