"""Training of OMG-Seg: set prediction for the object queries, direct losses for prompts.

Matching, class, mask and dice losses are transformers' `Mask2FormerLoss`, with the weights of the official
configuration (class 2, mask 5, dice 5, void 0.1). A prompt's target is known, so nothing is matched there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from omg_llava.decoder import Decoded
from omg_llava.errors import ModelError
from omg_llava.features import VisualFeatures
from omg_llava.model import OmgLlava
from omg_llava.training.data.panoptic import Framing, PanopticData, PanopticSample, padded
from omg_llava.training.losses import MaskLossConfig, mask_losses
from omg_llava.training.moving import Movable
from omg_llava.visual_prompts import PromptSet

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, VOID_WEIGHT, SCORE_WEIGHT = 2.0, 5.0, 5.0, 0.1, 2.0


@dataclass(frozen=True, slots=True)
class PerceptionOptions:
    """What a perception stage may set.

    Attributes:
        n_points: points per mask.
        n_prompts: prompts per picture.
        corner_share, clip_share: how many of the batches are framed as universal segmentation frames them, and how
            many are pseudo clips; the rest is framed as OMG-LLaVA frames pictures.
        pooled_weight: of a loss that the official training has not: the class of every segment, read by the class head
            from the mask features under the true mask alone. A network that starts from nothing learns what things are
            long before it finds them; 0 leaves it out.
    """

    n_points: int = 12544
    n_prompts: int = 4
    corner_share: float = 0.25
    clip_share: float = 0.15
    pooled_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class PerceptionBatch(Movable):
    """Samples of one framing."""

    samples: tuple[PanopticSample, ...]


class PerceptionSource:
    """Samples by their place in the run: framing drawn per micro-batch, all else per sample."""

    def __init__(self, data: PanopticData, options: PerceptionOptions, micro_batch: int, seed: int) -> None:
        self.data, self.options, self.micro_batch, self.seed = data, options, micro_batch, seed

    def __len__(self) -> int:
        return len(self.data)

    def draw(self, index: int, place: int) -> PanopticSample:
        """Sample `index` as the `place`-th of the run."""
        random = np.random.RandomState([self.seed, 1, place])
        return self.data.sample(index, self._framing(place // self.micro_batch), self.options.n_prompts, random)

    def _framing(self, batch: int) -> Framing:
        luck = np.random.RandomState([self.seed, 2, batch]).rand()
        if luck < self.options.clip_share:
            return "clip"
        return "corner" if luck < self.options.clip_share + self.options.corner_share else "square"

    @staticmethod
    def collate(samples: Sequence[PanopticSample]) -> PerceptionBatch:
        """Samples as a batch of one size. Clips of two frames cost twice, so only every second one is kept."""
        kept = samples[::2] if len(samples[0].pixels) > 1 else samples
        height, width = (max(sample.pixels.shape[axis] for sample in kept) for axis in (-2, -1))
        return PerceptionBatch(tuple(padded(sample, height, width) for sample in kept))


class _SetLoss(Mask2FormerLoss):  # type: ignore[misc]
    """transformers' loss, averaged over the masks of this process.

    Its own count over all processes divides by their number twice, since accelerate's `reduce` is a mean already; the
    gradients are averaged over processes in any case.
    """

    def get_num_masks(self, class_labels: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        n_masks = sum(len(classes) for classes in class_labels)
        return torch.tensor(float(max(n_masks, 1)), device=device)


class PerceptionObjective(nn.Module):
    """Losses of a batch. `prototypes` (K, 1, D) embed the classes of the training data."""

    prototypes: torch.Tensor

    def __init__(self, model: OmgLlava, prototypes: torch.Tensor, options: PerceptionOptions) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.register_buffer("prototypes", prototypes, persistent=False)
        settings = Mask2FormerConfig(
            num_labels=len(prototypes),
            class_weight=CLASS_WEIGHT,
            mask_weight=MASK_WEIGHT,
            dice_weight=DICE_WEIGHT,
            no_object_weight=VOID_WEIGHT,
            train_num_points=options.n_points,
        )
        self.criterion = _SetLoss(settings, {})

    @staticmethod
    def counts(batch: PerceptionBatch) -> dict[str, float]:
        """What losses are averaged over; set prediction averages within its batch."""
        return {}

    def forward(self, batch: PerceptionBatch, counts: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Losses by name; their sum is minimised."""
        perception = self.model.perception
        pixels = torch.cat([sample.pixels for sample in batch.samples])
        n_frames = len(batch.samples[0].pixels)
        features = perception.features(pixels, n_frames)
        losses = self._set_losses(features, batch)
        if self.options.pooled_weight:
            losses["pooled_cross_entropy"] = self.options.pooled_weight * self._pooled_loss(features, batch)
        if n_frames == 1 and all(len(sample.prompts) for sample in batch.samples):
            losses |= self._prompt_losses(features, batch)
        return losses

    def _set_losses(self, features: VisualFeatures, batch: PerceptionBatch) -> dict[str, torch.Tensor]:
        decoded = self.model.perception.objects(features, keep_steps=True)
        steps = [
            {
                "masks_queries_logits": step.mask_logits.flatten(2, 3),
                "class_queries_logits": self._class_logits(step.queries, step.mask_logits, features),
            }
            for step in decoded.steps
        ]
        found = self.criterion(
            **steps[-1],
            mask_labels=[sample.masks for sample in batch.samples],
            class_labels=[sample.classes for sample in batch.samples],
            auxiliary_predictions=steps[:-1],
        )
        weights = {"cross_entropy": CLASS_WEIGHT, "mask": MASK_WEIGHT, "dice": DICE_WEIGHT}
        return {
            f"set_{kind}": weight * torch.stack([v for k, v in found.items() if k.startswith(f"loss_{kind}")]).sum()
            for kind, weight in weights.items()
        }

    def _pooled_loss(self, features: VisualFeatures, batch: PerceptionBatch) -> torch.Tensor:
        """Cross entropy of classes told from pooled mask features, no query taking part."""
        losses = []
        n_frames, size = features.n_frames, features.mask_features.shape[-2:]
        for index, sample in enumerate(batch.samples):
            by_frame = sample.masks.unflatten(1, (n_frames, -1))
            inside = F.interpolate(by_frame, (by_frame.shape[2] // 2, size[1]), mode="area")
            nothing = inside.new_zeros(1, len(inside), features.mask_features.shape[2])
            logits = self.model.perception.class_head(nothing, inside[None] - 0.5, features.of(index), self.prototypes)
            losses.append(F.cross_entropy(logits[0], sample.classes, reduction="sum"))
        n_segments = sum(len(sample.classes) for sample in batch.samples)
        return torch.stack(losses).sum() / max(n_segments, 1)

    def _prompt_losses(self, features: VisualFeatures, batch: PerceptionBatch) -> dict[str, torch.Tensor]:
        decoded = self._prompted(features, batch)
        targets = torch.cat([sample.masks[sample.prompted] for sample in batch.samples])
        classes = torch.cat([sample.classes[sample.prompted] for sample in batch.samples])
        predictions = torch.stack([step.mask_logits[:, :, 0].flatten(0, 1) for step in decoded.steps])
        config = MaskLossConfig(n_points=self.options.n_points, dice_weight=DICE_WEIGHT, bce_weight=MASK_WEIGHT)
        losses = mask_losses(predictions, targets, config)
        # Before the first layer every prompt is the same query: there is nothing to tell classes by.
        told = decoded.steps[1:]
        logits = [self._class_logits(step.queries, step.mask_logits, features) for step in told]
        entropies = [F.cross_entropy(item.flatten(0, 1), classes) for item in logits]
        return {
            "prompt_cross_entropy": CLASS_WEIGHT * torch.stack(entropies).sum(),
            "prompt_mask": losses.bce.sum(),
            "prompt_dice": losses.dice.sum(),
            "prompt_score": SCORE_WEIGHT * self._score_loss(decoded, targets),
        }

    def _prompted(self, features: VisualFeatures, batch: PerceptionBatch) -> Decoded:
        """The prompts of all pictures in one go: each picture has one kind, so each has a rule of its own."""
        n_prompts = {len(sample.prompts) for sample in batch.samples}
        if len(n_prompts) > 1:
            raise ModelError("pictures of a batch with unlike numbers of prompts", expected="one number for all")
        sets = [
            PromptSet(sample.prompt_kind, sample.prompts, features.input_hw, sample.place_hw)
            for sample in batch.samples
        ]
        encoded = [self.model.perception.prompt_encoder(item) for item in sets]
        rules = [item.rule() for item in sets]

        def rule(mask_logits: torch.Tensor) -> torch.Tensor:
            return torch.cat([own(mask_logits[i : i + 1]) for i, own in enumerate(rules)])

        queries, positions = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        decoded: Decoded = self.model.perception.decoder(
            queries, positions, features, rule=rule, isolated=True, keep_steps=True
        )
        return decoded

    def _score_loss(self, decoded: Decoded, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy between the quality score and the mask's IoU."""
        with torch.no_grad():
            masks = decoded.mask_logits[:, :, 0].flatten(0, 1)
            wanted = F.interpolate(targets[:, None], masks.shape[-2:], mode="area")[:, 0] > 0.5
            overlap = ((masks > 0) & wanted).flatten(1).sum(dim=1)
            union = ((masks > 0) | wanted).flatten(1).sum(dim=1)
            iou = overlap / union.clamp(min=1)
        return F.binary_cross_entropy_with_logits(self.model.perception.scores(decoded.queries).flatten(), iou)

    def _class_logits(self, queries: torch.Tensor, mask_logits: torch.Tensor, features: VisualFeatures) -> torch.Tensor:
        return self.model.perception.class_logits(queries, mask_logits, features, self.prototypes)
