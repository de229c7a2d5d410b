"""What the decoders look at: the features of one picture or clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omg_llava.positions import clip_code


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """One resolution of the pixel decoder's output, as keys of the query decoders.

    Attributes:
        tokens: (B, T * h * w, C), level embedding added; these are the values.
        positions: (T * h * w, C), added to the tokens where they serve as keys.
        size: (h, w).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class VisualFeatures:
    """Features of B pictures, or of B clips of T frames each. A picture is a clip of one frame.

    Attributes:
        mask_features: (B, T, C, H / 4, W / 4).
        levels: strides 32, 16, 8.
        stride32: the backbone's last map, (B, T, C4, H / 32, W / 32): pixel tokens and CLIP classification.
        input_hw: (H, W) of the network's input.
    """

    mask_features: torch.Tensor
    levels: tuple[MemoryLevel, ...]
    stride32: torch.Tensor
    input_hw: tuple[int, int]

    @property
    def n_frames(self) -> int:
        return self.mask_features.shape[1]

    def of(self, index: int) -> VisualFeatures:
        """The features of one picture of the batch, as a batch of one."""
        levels = tuple(
            MemoryLevel(level.tokens[index : index + 1], level.positions, level.size) for level in self.levels
        )
        here = slice(index, index + 1)
        return VisualFeatures(self.mask_features[here], levels, self.stride32[here], self.input_hw)

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        tensors = [self.mask_features, self.stride32]
        tensors += [tensor for level in self.levels for tensor in (level.tokens, level.positions)]
        return sum(tensor.nbytes for tensor in tensors)


def clip_features(
    mask_features: torch.Tensor,
    memories: tuple[torch.Tensor, ...],
    level_embed: torch.Tensor,
    stride32: torch.Tensor,
    n_frames: int,
    input_hw: tuple[int, int],
) -> VisualFeatures:
    """Maps of B * n_frames pictures, (B * T, C, h, w), arranged by clip."""
    levels = []
    for index, memory in enumerate(memories):
        channels, height, width = memory.shape[1:]
        tokens = memory.unflatten(0, (-1, n_frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        positions = clip_code(n_frames, height, width, channels, memory.device).flatten(0, 2)
        levels.append(MemoryLevel(tokens + level_embed[index], positions, (height, width)))
    by_clip = mask_features.unflatten(0, (-1, n_frames))
    return VisualFeatures(by_clip, tuple(levels), stride32.unflatten(0, (-1, n_frames)), input_hw)
