"""Classes by their names: text embeddings of class names, and CLIP's own opinion on each mask.

Official tools/gen_cls.py, mask2former_vid.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from omg_llava.decoder import ClassHead
from omg_llava.features import VisualFeatures
from omg_llava.omg_seg import OmgSeg

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
SEEN_EXPONENT, UNSEEN_EXPONENT = 0.4, 0.8
"""How much CLIP weighs for classes that training named, and for others."""


def synonyms(prompt: str) -> list[str]:
    """The words of a class: `Umbrella_or_parasol` and `a,b` are two each."""
    words = prompt.replace("_or_", ",").replace("/", ",").replace("_", " ").lower().split(",")
    return [word.strip() for word in words]


def class_prototypes(prompts: Sequence[str], encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """Unit embeddings (K, P, D) of class prompts, classes with fewer synonyms repeating their first.

    Args:
        encode: sentences to CLIP text embeddings (n, D), float32, before normalisation.
    """
    by_class = [torch.stack([_embedding(word, encode) for word in synonyms(prompt)]) for prompt in prompts]
    most = max(len(rows) for rows in by_class)
    return torch.stack([torch.cat((rows, rows[:1].expand(most - len(rows), -1))) for rows in by_class])


def _embedding(word: str, encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    sentences = F.normalize(encode([template.replace("{}", word) for template in TEMPLATES]), dim=-1)
    return F.normalize(sentences.mean(dim=0), dim=-1)


def seen_classes(test_prompts: Sequence[str], training_prompts: Sequence[str]) -> torch.Tensor:
    """(K,) bool: whether any comma-separated word of a class is one of training. The raw strings are compared, case
    and spaces included (official).
    """
    known = {word for prompt in training_prompts for word in prompt.split(",")}
    return torch.tensor([any(word in known for word in prompt.split(",")) for prompt in test_prompts])


def pooled_clip_embeddings(perception: OmgSeg, features: VisualFeatures, mask_logits: torch.Tensor) -> torch.Tensor:
    """CLIP embeddings (N, D) of what lies under masks: mask logits (N, T, h, w) already at stride 32."""
    inside = (mask_logits > 0).float()
    summed = torch.einsum("nthw,tchw->nc", inside, features.stride32[0])
    embeddings: torch.Tensor = perception.clip_head(summed / (inside.sum(dim=(1, 2, 3))[:, None] + 1e-8))
    return embeddings


def stride32_masks(features: VisualFeatures, mask_logits: torch.Tensor) -> torch.Tensor:
    """Mask logits (N, T, h, w) of stride 4 to stride 32, by way of the input's size as the official code does."""
    full = F.interpolate(mask_logits, features.input_hw, mode="bilinear", align_corners=False)
    return F.interpolate(full, features.stride32.shape[-2:], mode="bilinear", align_corners=False)


def ensembled_logits(
    perception: OmgSeg,
    features: VisualFeatures,
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    prototypes: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Class logits (N, K + 1) after a geometric mean with CLIP's own classification of each mask.

    Args:
        class_logits: (N, K + 1) of the decoder.
        mask_logits: (N, T, h, w) at stride 4.
        seen: (K,) bool, classes that training named.
    """
    head: ClassHead = perception.class_head
    masks = stride32_masks(features, mask_logits)
    clip = head.logits(pooled_clip_embeddings(perception, features, masks), prototypes)[:, :-1].softmax(dim=-1)
    own = class_logits[:, :-1].softmax(dim=-1)
    exponents = torch.where(seen.to(clip.device), SEEN_EXPONENT, UNSEEN_EXPONENT)
    # A query whose mask vanishes at stride 32 has nothing for CLIP to look at.
    exponents = exponents * (masks > 0).flatten(1).any(dim=1)[:, None]
    mixed = (own ** (1 - exponents) * clip**exponents).log().softmax(dim=-1)
    void = class_logits.softmax(dim=-1)[:, -1:]
    return torch.log(torch.cat((mixed * (1 - void), void), dim=-1) + 1e-8)
