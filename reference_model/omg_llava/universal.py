"""Universal segmentation as OMG-Seg does it: everything in a picture or clip, or what a prompt points at (spec 8).

No language model takes part. Pictures go in as OMG-Seg had them, not on OMG-LLaVA's square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from omg_llava.config import ClassSetConfig
from omg_llava.errors import ModelError
from omg_llava.features import VisualFeatures
from omg_llava.fusion import FusionSettings, Instances, Segment, instances, panoptic_segments, semantic_map
from omg_llava.model import OmgLlava
from omg_llava.preprocessing import CornerFrame, corner_clip, corner_pixels
from omg_llava.prompts import Prompt, prompt_sets
from omg_llava.video import ClipSettings, Tracked, decode_piece, track


@dataclass(frozen=True, slots=True)
class InputSize:
    """Most pixels of the long and the short side after resizing."""

    long_side: int
    short_side: int


IMAGE_SIZE = InputSize(1333, 800)
CLIP_SIZE = InputSize(1280, 736)
DEFAULT_FUSION = FusionSettings()
DEFAULT_CLIPS = ClipSettings()


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A picture as OMG-Seg sees it, with its features."""

    frame: CornerFrame
    features: VisualFeatures

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.features.nbytes()


class UniversalSegmenter:
    """Panoptic, instance and semantic segmentation, clips with tracks, interactive segmentation.

    Args:
        model: its perception part and class embeddings are used.
        image_size, clip_size: the released configurations' sizes for COCO and VIPSeg by default.
    """

    def __init__(
        self,
        model: OmgLlava,
        *,
        image_size: InputSize = IMAGE_SIZE,
        clip_size: InputSize = CLIP_SIZE,
        fusion: FusionSettings = DEFAULT_FUSION,
        clips: ClipSettings = DEFAULT_CLIPS,
    ) -> None:
        self.model = model.eval()
        self.image_size, self.clip_size = image_size, clip_size
        self.fusion, self.clips = fusion, clips

    def class_set(self, name: str | None = None) -> ClassSetConfig:
        """A label space of the checkpoint; the first where none is named. Raises `ModelError` for an unknown one."""
        for class_set in self.model.config.class_sets:
            if name in (None, class_set.name):
                return class_set
        names = ", ".join(item.name for item in self.model.config.class_sets)
        raise ModelError(f"the checkpoint has no class embeddings {name!r}", expected=names or "a checkpoint with some")

    @torch.inference_mode()
    def view(self, image: Image.Image) -> View:
        """Look at a picture once, for any of the methods below."""
        pixels, frame = corner_pixels(image, self.image_size.long_side, self.image_size.short_side)
        return View(frame, self.model.perception.features(pixels[None].to(self.model.device)))

    @torch.inference_mode()
    def panoptic(self, view: View, class_set: str | None = None) -> list[Segment]:
        """Segments of a picture, masks in original pixels."""
        chosen = self.class_set(class_set)
        piece = self._decoded(view, chosen)
        return self._segments(view.frame, piece.class_logits, piece.mask_logits[0], chosen)

    @torch.inference_mode()
    def instances(self, view: View, class_set: str | None = None) -> Instances:
        """Scored things of a picture, masks in original pixels."""
        chosen = self.class_set(class_set)
        piece = self._decoded(view, chosen)
        masks = view.frame.to_size(piece.mask_logits[0], (view.frame.height, view.frame.width))
        return instances(piece.class_logits, masks, chosen.n_things, self.fusion)

    @torch.inference_mode()
    def semantic(self, view: View, class_set: str | None = None) -> torch.Tensor:
        """(height, width) class indices of a picture."""
        piece = self._decoded(view, self.class_set(class_set))
        masks = view.frame.to_size(piece.mask_logits[0], (view.frame.height, view.frame.width))
        return semantic_map(piece.class_logits, masks)

    @torch.inference_mode()
    def video(self, images: Sequence[Image.Image], class_set: str | None = None) -> list[list[Segment]]:
        """Segments of each frame of a clip, masks in original pixels. `Segment.query` is the track.

        `Segment.instance` counts within its frame, as the official output does: where a query is missing from a frame,
        later ones move up, and the official video numbers include that.
        """
        chosen = self.class_set(class_set)
        pixels, frame = corner_clip(list(images), self.clip_size.long_side, self.clip_size.short_side)
        prototypes = self.model.prototypes(chosen.name)
        tracked = track(self.model.perception, pixels.to(self.model.device), prototypes, self.clips)
        return [self._segments(frame, tracked.class_logits, masks, chosen) for masks in tracked.mask_logits]

    @torch.inference_mode()
    def interactive(self, view: View, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Masks (height, width) bool of the objects that prompts point at, one each."""
        size = (view.frame.height, view.frame.width)
        masks: dict[int, torch.Tensor] = {}
        for indices, group in prompt_sets(prompts, view.frame, self.model.device):
            decoded = self.model.perception.prompted(view.features, group)
            for index, logits in zip(indices, decoded.mask_logits[0, :, 0], strict=True):
                masks[index] = view.frame.to_size(logits[None], size)[0] > 0
        return [masks[index] for index in range(len(prompts))]

    def _decoded(self, view: View, class_set: ClassSetConfig) -> Tracked:
        return decode_piece(self.model.perception, view.features, self.model.prototypes(class_set.name))

    def _segments(
        self, frame: CornerFrame, class_logits: torch.Tensor, mask_logits: torch.Tensor, class_set: ClassSetConfig
    ) -> list[Segment]:
        size = (frame.height, frame.width)
        return panoptic_segments(
            class_logits, lambda chosen: frame.to_size(mask_logits[chosen], size), class_set.n_things, self.fusion
        )
