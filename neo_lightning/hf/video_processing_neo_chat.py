"""Clips for NEO: a file, or frames with their times -> patches of uint8, and when the frames are shown."""

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .clips_neo_chat import choose_moments, is_clip, load_clip
from .pictures_neo_chat import PATCH, PATCH_BYTES, patchify, smart_resize


@dataclass
class ClipMetadata(VideoMetadata):
    """What is known of a clip, or of the section that is shown of it; `fps` is its mean, as rates may vary."""

    timestamps: list[float] | None = None
    """Seconds at which the shown frames come on screen, from the first frame of the clip or section on, by
    presentation timestamps."""
    moments: list[float] | None = None
    """Seconds that the shown frames stand for; their labels say these."""


class NEOChatVideosKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """What a call may say of its clips."""

    min_pixels: int | None
    max_pixels: int | None
    max_frames: int | None


class NEOChatVideoProcessor(BaseVideoProcessor):
    """Clips to `pixel_values` [patches, 768] uint8 and `grid_hw` [frames, 2] int64 (rows and columns of patches).

    Args:
        fps: frames shown of each second; None: always `max_frames`, spread evenly.
        max_frames: most frames of a clip; a longer one shows so many, spread evenly.
        min_pixels, max_pixels: area of a frame to which a smaller one is enlarged, or a larger one reduced.
    """

    valid_kwargs = NEOChatVideosKwargs
    model_input_names = ["pixel_values", "grid_hw"]  # noqa: RUF012
    fps = 1.0
    max_frames = 128
    min_pixels = 4 * 32 * 32
    max_pixels = 360 * 640
    do_sample_frames = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fps = kwargs.get("fps", self.fps)  # None is a value
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"need 0 < min_pixels <= max_pixels, found {self.min_pixels} and {self.max_pixels}")
        if self.max_frames < 1 or (self.fps is not None and self.fps <= 0):
            raise ValueError(f"need max_frames >= 1 and fps > 0, found {self.max_frames} and {self.fps}")

    @classmethod
    def get_video_processor_dict(cls, source: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of a model folder; none where it has no file of them, as released ones."""
        try:
            return super().get_video_processor_dict(source, **kwargs)
        except OSError:
            return {}, kwargs

    def fitted_size(
        self, height: int, width: int, *, min_pixels: int | None = None, max_pixels: int | None = None, **_: Any
    ) -> tuple[int, int]:
        """Size (height, width) in pixels at which a clip's frames are shown."""
        return smart_resize(height, width, min_pixels or self.min_pixels, max_pixels or self.max_pixels)

    def preprocess(
        self,
        videos: Any,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        max_frames: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        do_sample_frames: bool | None = None,
        video_metadata: Any = None,
        return_metadata: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """One clip, or a list of them.

        Args:
            videos: paths, addresses or bytes; or decoded frames (see `DecodedClip`).
            num_frames: shows so many, spread evenly, whatever `fps` says.
            do_sample_frames: False shows all frames.
            video_metadata: one for each clip: of decoded frames see `DecodedClip`; `section` (start, end), in seconds,
                shows only that part of a clip.
            return_metadata: add `video_metadata`, a list of `ClipMetadata`.

        Raises:
            ValueError: a clip cannot be used; names it.
        """
        clips = [videos] if is_clip(videos) else list(videos)
        said = video_metadata if isinstance(video_metadata, list | tuple) else [video_metadata] * len(clips)
        if len(said) != len(clips):
            raise ValueError(f"{len(clips)} clips, but video_metadata are {len(said)}")
        rate = None if num_frames is not None else fps or self.fps
        most = num_frames or max_frames or self.max_frames
        sample = self.do_sample_frames if do_sample_frames is None else do_sample_frames
        patches: list[Tensor] = []
        grids: list[list[int]] = []
        metadata: list[ClipMetadata] = []
        for source, known in zip(clips, said, strict=True):
            try:
                clip = load_clip(source, known)
                if sample:
                    moments, chosen = choose_moments(clip.times, clip.duration, rate, most)
                else:
                    moments, chosen = clip.times, np.arange(len(clip.times))
                size = self.fitted_size(clip.height, clip.width, min_pixels=min_pixels, max_pixels=max_pixels)
                patches.append(patchify(clip.frames(chosen.tolist(), *size)))
            except (ValueError, OSError, av.FFmpegError) as error:
                name = source if isinstance(source, str) else type(source).__name__
                raise ValueError(f"video {str(name)[:200]}: {error}") from error
            grids += [[size[0] // PATCH, size[1] // PATCH]] * len(chosen)
            metadata.append(
                ClipMetadata(
                    total_num_frames=len(clip.times),
                    fps=len(clip.times) / clip.duration,
                    width=clip.width,
                    height=clip.height,
                    duration=clip.duration,
                    video_backend="pyav",
                    frames_indices=chosen.tolist(),
                    timestamps=clip.times[chosen].tolist(),
                    moments=moments.tolist(),
                )
            )
        data = {
            "pixel_values": torch.cat(patches) if patches else torch.empty(0, PATCH_BYTES, dtype=torch.uint8),
            "grid_hw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 2),
        }
        found = BatchFeature(data, tensor_type=return_tensors)
        if return_metadata:
            found["video_metadata"] = metadata
        return found


__all__ = ["NEOChatVideoProcessor"]
