"""What an import tells at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neo_lightning.importers.found import Found, layout_lines
from neo_lightning.importers.task import shown

HELD_OUT = "held_out_"
"""In front of the modality in the names of sources and shards."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did."""

    samples: Mapping[str, int]
    """Written, per modality; those held out as `held_out_` and the modality."""
    left_out: int
    """Records."""
    reasons: Mapping[str, int]
    """How often each kind of reason was found, most frequent first."""
    unused: Mapping[str, int]
    """In how many records each key, member or part was that nothing learns or keeps, most frequent first."""
    gone: int
    """Media files that have been read and are not there any more."""
    manifest: Path
    found: Mapping[str, Found] = field(default_factory=dict)
    """Layouts of the records that were imported."""

    def __str__(self) -> str:
        return "\n".join(map(shown, self._lines()))

    def _lines(self) -> list[str]:
        written = ", ".join(f"{count} {modality}" for modality, count in self.samples.items())
        lines = [f"{self.manifest}: {written}", *layout_lines(dict(self.found))]
        if self.left_out:
            lines.append(f"{self.left_out} records left out, listed in {self.manifest.parent / 'import.log'}:")
            lines += [f"  {count} x {reason}" for reason, count in list(self.reasons.items())[:10]]
        if self.unused:
            lines.append("neither learned nor kept (--strict refuses it, --keep KEY keeps a key in `meta`):")
            lines += [f"  {count} x {name}" for name, count in list(self.unused.items())[:20]]
        if any("objects" in layout.fields for layout in self.found.values()):
            lines.append(
                "boxes: `<ref>` and `<box>` are characters, unless their source says answer_tokens: "
                "[think, tool_call, ref, box] in the manifest"
            )
        if held_out := [name for name in self.samples if name.startswith(HELD_OUT)]:
            lines.append(f"held out; a recipe validates on it with data: {{validation: [{', '.join(held_out)}]}}")
        if self.gone:
            lines.append(f"{self.gone} media files are gone since they were read; the shards hold them")
        return lines
