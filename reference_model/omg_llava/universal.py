"""Universal segmentation as OMG-Seg does it: everything in a picture or clip, or what a prompt points at.

Official seg/models/detectors.

No language model takes part. Pictures go in as OMG-Seg had them, not on OMG-LLaVA's square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from omg_llava.config import ClassSetConfig
from omg_llava.errors import ModelError
from omg_llava.features import VisualFeatures
from omg_llava.fusion import (
    FusionSettings,
    Instances,
    MaskSource,
    Segment,
    instances,
    panoptic_segments,
    semantic_map,
)
from omg_llava.model import OmgLlava
from omg_llava.open_vocabulary import ensembled_logits
from omg_llava.preprocessing import CornerFrame, corner_pixels
from omg_llava.prompts import Prompt, prompt_sets
from omg_llava.video import ClipSettings, Piece, decode_piece, piece_ends, track


@dataclass(frozen=True, slots=True)
class InputSize:
    """Most pixels of the long and the short side after resizing."""

    long_side: int
    short_side: int


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
        image_size, clip_size: None = `universal_px` and `clip_px` of the model's configuration.
    """

    def __init__(
        self,
        model: OmgLlava,
        *,
        image_size: InputSize | None = None,
        clip_size: InputSize | None = None,
        fusion: FusionSettings = DEFAULT_FUSION,
        clips: ClipSettings = DEFAULT_CLIPS,
    ) -> None:
        self.model = model.eval()
        self.image_size = image_size or InputSize(*model.config.image.universal_px)
        self.clip_size = clip_size or InputSize(*model.config.image.clip_px)
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
    def panoptic(self, view: View, class_set: str | None = None, *, seen: torch.Tensor | None = None) -> list[Segment]:
        """Segments of a picture, masks in original pixels.

        Args:
            seen: (K,) bool, classes that training named (`open_vocabulary.seen_classes`); CLIP's own opinion then joins
                the decoder's, as the official configurations for foreign label spaces have it.
        """
        chosen = self.class_set(class_set)
        piece = self._decoded(view, chosen)
        if seen is not None:
            piece = self._ensembled(piece, view, chosen, seen)
        return self._segments(piece.class_logits, _enlarged(view.frame, piece.mask_logits[0]), chosen)

    @torch.inference_mode()
    def instances(self, view: View, class_set: str | None = None) -> Instances:
        """Scored things of a picture, masks in original pixels."""
        chosen = self.class_set(class_set)
        piece = self._decoded(view, chosen)
        masks_of = _enlarged(view.frame, piece.mask_logits[0])
        return instances(piece.class_logits, masks_of, chosen.n_things, self.fusion)

    @torch.inference_mode()
    def semantic(self, view: View, class_set: str | None = None) -> torch.Tensor:
        """(height, width) class indices of a picture."""
        piece = self._decoded(view, self.class_set(class_set))
        return semantic_map(piece.class_logits, _enlarged(view.frame, piece.mask_logits[0]))

    def video(self, images: Sequence[Image.Image], class_set: str | None = None) -> Iterator[list[Segment]]:
        """Segments of each frame of a clip in turn, masks in original pixels. `Segment.query` is the track.

        `Segment.instance` counts within its frame, as the official output does: where a query is missing from a frame,
        later ones move up, and the official video numbers include that. Held are the masks of all frames at stride 4,
        in main memory: 66 MB a frame of the released size.
        """
        chosen = self.class_set(class_set)
        with torch.inference_mode():
            frames: list[CornerFrame] = []
            tracked = track(self._pieces(images, chosen, frames))
            for masks in tracked.frames():
                masks_of = _enlarged(frames[0], masks.to(self.model.device))
                yield self._segments(tracked.class_logits, masks_of, chosen)

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

    def _pieces(
        self, images: Sequence[Image.Image], class_set: ClassSetConfig, frames: list[CornerFrame]
    ) -> Iterator[Piece]:
        """A clip's pieces, each read and decoded when it is wanted; `frames` receives how each picture lies."""
        prototypes = self.model.prototypes(class_set.name)
        start = 0
        for end in piece_ends(len(images), self.clips):
            made = [
                corner_pixels(image, self.clip_size.long_side, self.clip_size.short_side) for image in images[start:end]
            ]
            frames += [frame for _, frame in made]
            if len(set(frames)) > 1:
                sizes = sorted({f"{frame.width} x {frame.height}" for frame in frames})
                raise ModelError(f"the frames of a clip have sizes {', '.join(sizes)}", expected="one size")
            pixels = torch.stack([pixels for pixels, _ in made]).to(self.model.device)
            yield decode_piece(self.model.perception, self.model.perception.features(pixels, end - start), prototypes)
            start = end

    def _decoded(self, view: View, class_set: ClassSetConfig) -> Piece:
        return decode_piece(self.model.perception, view.features, self.model.prototypes(class_set.name))

    def _ensembled(self, piece: Piece, view: View, class_set: ClassSetConfig, seen: torch.Tensor) -> Piece:
        logits = ensembled_logits(
            self.model.perception,
            view.features,
            piece.class_logits,
            piece.mask_logits.transpose(0, 1),
            self.model.prototypes(class_set.name),
            seen,
        )
        return replace(piece, class_logits=logits)

    def _segments(self, class_logits: torch.Tensor, masks_of: MaskSource, class_set: ClassSetConfig) -> list[Segment]:
        return panoptic_segments(class_logits, masks_of, class_set.n_things, self.fusion)


def _enlarged(frame: CornerFrame, mask_logits: torch.Tensor) -> MaskSource:
    """Mask logits (Q, h, w) at stride 4, enlarged to original pixels where they are asked for."""
    return lambda queries: frame.to_size(mask_logits[queries], (frame.height, frame.width))
