"""What a data module refuses before it reads anything: names, sizes and ranges that cannot be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from neo_lightning.data.manifest import Manifest, ManifestError
from neo_lightning.data.plan import PlanError
from neo_lightning.types import Stage


def check_names(manifest: Manifest, stages: Mapping[str, Stage], validation: Iterable[str]) -> None:
    """Refuse a source that the manifest does not have.

    Raises:
        PlanError: naming the stage.
        ManifestError: it is one of the validation.
    """
    for name, stage in stages.items():
        for source in stage.mixture:
            try:
                manifest.source(source)
            except ManifestError as error:
                raise PlanError(f"stage {name!r}, mixture: {error}") from error
    for source in validation:
        manifest.source(source)


def check_reachable(name: str, stage: Stage, modalities: Mapping[str, str]) -> None:
    """Refuse a stage whose smallest image or frame is longer than its context.

    Raises:
        PlanError: with the numbers.
    """
    for source, modality in modalities.items():
        if modality == "text":
            continue
        least = stage.video.min_pixels if modality == "video" else stage.image.min_pixels
        tokens = -(-least // 1024) + 2
        if tokens > stage.context and stage.too_long == "drop":
            kind = "video" if modality == "video" else "image"
            raise PlanError(
                f"stage {name!r}: {kind}.min_pixels {least} makes every picture of source {source!r} at least {tokens} "
                f"tokens, more than the context of {stage.context}; raise the context or lower {kind}.min_pixels"
            )


def skip_ranges(pairs: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Ranges [first, last) of packs, in order.

    Raises:
        PlanError: one is no range.
    """
    for pair in pairs:
        if len(pair) != 2 or not 0 <= pair[0] < pair[1]:
            raise PlanError(f"data.skip: {list(pair)} is not a range [first, last) of packs")
    return tuple(sorted((int(first), int(last)) for first, last in pairs))
