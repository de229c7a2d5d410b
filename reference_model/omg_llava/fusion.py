"""Query predictions to panoptic maps, instances and semantic maps (official omgseg_fusionhead.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """Thresholds of OMG-Seg's evaluation.

    Attributes:
        object_threshold: least class score of a query; the released configurations let every one through.
        iou_threshold: least share of a query's own mask that it must win from the others.
        filter_low_score: cut pixels whose own probability is below one half out of the segment.
        max_instances: instances kept per picture.
    """

    object_threshold: float = 0.0
    iou_threshold: float = 0.8
    filter_low_score: bool = True
    max_instances: int = 100


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        query: index of the query that drew it.
        label: class index, things first.
        instance: 1, 2, ... for things in the order of queries, 0 for stuff.
        score: class score.
        mask: (H, W) bool. Segments do not overlap; several stuff segments may have one label.
    """

    query: int
    label: int
    instance: int
    score: float
    mask: torch.Tensor

    @property
    def map_value(self) -> int:
        """The official number in a map: class + 1000 * instance."""
        return self.label + 1000 * self.instance


@dataclass(frozen=True, slots=True)
class Instances:
    """Scored masks of things, best first.

    Attributes:
        scores: (N,) class score times mean probability inside the mask.
        labels: (N,) class indices.
        boxes_xyxy: (N, 4) of the masks, right and bottom exclusive, zeros for an empty mask.
        masks: (N, H, W) bool.
        queries: (N,) who drew them.
        ranks: (N,) place in the official choice of the best pairs, which is unordered; it numbers the tracks of a clip.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    boxes_xyxy: torch.Tensor
    masks: torch.Tensor
    queries: torch.Tensor
    ranks: torch.Tensor


MaskSource = Callable[[torch.Tensor], torch.Tensor]
"""Indices of queries (n,) to their mask logits (n, H, W) at the output's size."""
_MOST_VALUES = 2**26
"""Mask logits enlarged at once, a quarter of a GiB, and two or three times that with what is made of them. All of 300
queries at 12 million pixels would take 14 GiB.
"""


def panoptic_segments(
    class_logits: torch.Tensor, masks_of: MaskSource, n_things: int, settings: FusionSettings = FusionSettings()
) -> list[Segment]:
    """Segments from class logits (Q, K + 1), void last, and the queries' masks.

    A pixel belongs to the query with the greatest score times probability. The share test compares that area, before
    the low-score filter, with the query's own mask (official).
    """
    scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
    void = class_logits.shape[-1] - 1
    kept = ((labels != void) & (scores > settings.object_threshold)).nonzero()[:, 0]
    segments: list[Segment] = []
    n_instances = 0
    for query, won, own in _areas(kept, scores, masks_of):
        won_px, own_px = int(won.sum()), int(own.sum())
        mask = won & own if settings.filter_low_score else won
        if won_px == 0 or own_px == 0 or won_px / own_px < settings.iou_threshold:
            continue
        label = int(labels[query])
        if label < n_things:
            n_instances += 1
        # A thing that the low-score filter leaves nothing of has used up its number all the same (official).
        if mask.any():
            instance = n_instances if label < n_things else 0
            segments.append(Segment(query, label, instance, float(scores[query]), mask))
    return segments


def _areas(
    kept: torch.Tensor, scores: torch.Tensor, masks_of: MaskSource
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """For each kept query in order: itself, the pixels it wins, the pixels of its own mask, (H, W) bool."""
    if len(kept) == 0:
        return
    chunks = _chunks(kept, masks_of)
    size = len(chunks[0])
    probabilities = masks_of(chunks[0]).sigmoid()
    best, owner = (scores[chunks[0], None, None] * probabilities).max(dim=0)
    for number, chunk in enumerate(chunks[1:], start=1):
        weighted, place = (scores[chunk, None, None] * masks_of(chunk).sigmoid()).max(dim=0)
        better = weighted > best
        best = torch.where(better, weighted, best)
        owner = torch.where(better, place + number * size, owner)
    for number, chunk in enumerate(chunks):
        probabilities = probabilities if len(chunks) == 1 else masks_of(chunk).sigmoid()
        for row, query in enumerate(chunk.tolist()):
            yield query, owner == row + number * size, probabilities[row] >= 0.5


def panoptic_map(segments: list[Segment], size_hw: tuple[int, int], n_classes: int) -> torch.Tensor:
    """(H, W) int32: class + 1000 * instance, `n_classes` where nothing is."""
    values = torch.full(size_hw, n_classes, dtype=torch.int32)
    for segment in segments:
        values[segment.mask.cpu()] = segment.map_value
    return values


def instances(
    class_logits: torch.Tensor, masks_of: MaskSource, n_things: int, settings: FusionSettings = FusionSettings()
) -> Instances:
    """Instances from class logits (Q, K + 1) and the queries' masks: the best pairs of query and class."""
    n_classes = class_logits.shape[-1] - 1
    shares = class_logits.softmax(dim=-1)[:, :-1].flatten()
    # Unsorted, as the official call.
    best, pairs = shares.topk(min(settings.max_instances, len(shares)), sorted=False)
    things = pairs % n_classes < n_things
    best, labels, queries = best[things], pairs[things] % n_classes, pairs[things] // n_classes
    parts = [_scored_masks(masks_of(chunk)) for chunk in _chunks(queries, masks_of)]
    masks, inside = (torch.cat([part[index] for part in parts]) for index in (0, 1))
    scores = best * inside
    order = scores.argsort(descending=True, stable=True)
    masks = masks[order]
    return Instances(scores[order], labels[order], mask_boxes_xyxy(masks), masks, queries[order], order)


def _scored_masks(mask_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boolean masks and the mean probability inside each."""
    masks = mask_logits > 0
    summed = (mask_logits.sigmoid() * masks).flatten(1).sum(dim=1)
    return masks, summed / (masks.flatten(1).sum(dim=1) + 1e-6)


def _chunks(queries: torch.Tensor, masks_of: MaskSource) -> list[torch.Tensor]:
    """Queries in as many parts as their masks need; one part, perhaps empty, at least."""
    one_px = masks_of(queries[:1])[0].numel() if len(queries) else 1
    return list(torch.split(queries, max(1, _MOST_VALUES // one_px)))


def mask_boxes_xyxy(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes (N, 4) of boolean masks (N, H, W), right and bottom exclusive; zeros for an empty mask."""
    boxes = torch.zeros(len(masks), 4)
    for index, mask in enumerate(masks):
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        if len(rows):
            edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            boxes[index] = torch.tensor([float(edge) for edge in edges])
    return boxes


def semantic_map(class_logits: torch.Tensor, masks_of: MaskSource) -> torch.Tensor:
    """(H, W) class indices: each pixel's greatest sum over queries of class probability times mask probability.

    Mask2Former's rule. OMG-Seg's own code has none: it refuses semantic output.
    """
    shares = class_logits.softmax(dim=-1)[:, :-1]
    totals: torch.Tensor | None = None
    for chunk in _chunks(torch.arange(len(shares), device=shares.device), masks_of):
        part = torch.einsum("qk,qhw->khw", shares[chunk], masks_of(chunk).sigmoid())
        totals = part if totals is None else totals + part
    assert totals is not None, "there is one chunk at least"
    return totals.argmax(dim=0)


def proposals(scores: torch.Tensor, mask_logits: torch.Tensor, n: int) -> torch.Tensor:
    """Masks (n, H, W) bool of the queries with the greatest quality logits (Q,), in ascending order (official)."""
    best = scores.sigmoid().topk(min(n, len(scores)), sorted=True).indices.flip(0)
    return mask_logits[best].sigmoid() > 0.5
