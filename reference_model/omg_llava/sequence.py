"""Token ids with placeholders to input embeddings (official model/utils.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from omg_llava.errors import ModelError
from omg_llava.vocabulary import IGNORED, IMAGE, SpecialIds

Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class SplicedBatch:
    """Embeddings of a batch, right-padded with zeros.

    Attributes:
        embeds: (B, L, D).
        attention_mask: (B, L) bool, True where there is something.
        position_ids: (B, L), 0.. in each row, 0 in the padding.
        labels: (B, L), `IGNORED` at replaced positions and in the padding.
    """

    embeds: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor


class Placeholders:
    """Hands out the embeddings that replace placeholders, in reading order over a whole batch."""

    def __init__(
        self, special: SpecialIds, images: Sequence[torch.Tensor], regions: torch.Tensor, marks: torch.Tensor
    ) -> None:
        """Visual tokens (V, D) per picture; embeddings of `<region>` (R, D) and `<mark>` (M, D)."""
        self._names = {IMAGE: "<image>", special.region: "<region>", special.mark: "<mark>"}
        self._given = {IMAGE: len(images), special.region: len(regions), special.mark: len(marks)}
        self._queues: dict[int, Iterator[torch.Tensor]] = {
            IMAGE: iter(images),
            special.region: iter(regions[:, None]),
            special.mark: iter(marks[:, None]),
        }

    def positions(self, ids: torch.Tensor) -> list[int]:
        """Where placeholders stand in ids (L,)."""
        wanted = torch.tensor(list(self._queues), device=ids.device)
        return [int(index) for index in torch.isin(ids, wanted).nonzero()[:, 0]]

    def take(self, token: int) -> torch.Tensor:
        """The next embeddings (n, D) for this kind of placeholder."""
        embeddings = next(self._queues[token], None)
        if embeddings is None:
            raise ModelError(
                f"more {self._names[token]} than were given", expected=f"at most {self._given[token]} in the text"
            )
        return embeddings

    def skip_image(self) -> None:
        """Leave out the next picture."""
        next(self._queues[IMAGE], None)

    def check_all_used(self) -> None:
        """Raise `ModelError` when something was given that no placeholder stands for."""
        for token, queue in self._queues.items():
            if next(queue, None) is not None:
                raise ModelError(
                    f"fewer {self._names[token]} than were given", expected=f"{self._given[token]} in the text"
                )


def splice(
    ids: torch.Tensor, labels: torch.Tensor, embed: Embed, placeholders: Placeholders
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels (L,) to embeddings (L', D) and labels (L',), each placeholder replaced by its embeddings."""
    pieces: list[torch.Tensor] = []
    kept_labels: list[torch.Tensor] = []
    start = 0
    for stop in [*placeholders.positions(ids), len(ids)]:
        pieces.append(embed(ids[start:stop]))
        kept_labels.append(labels[start:stop])
        if stop < len(ids):
            inserted = placeholders.take(int(ids[stop])).to(pieces[0])
            pieces.append(inserted)
            kept_labels.append(labels.new_full((len(inserted),), IGNORED))
        start = stop + 1
    return torch.cat(pieces), torch.cat(kept_labels)


def splice_batch(
    ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, embed: Embed, placeholders: Placeholders
) -> SplicedBatch:
    """A right-padded batch of ids, masks and labels (B, L) as training and whole-sequence evaluation need it.

    Every row has a picture. One whose text does not speak of it leaves it unused; prompts it has none (official).
    """
    rows = []
    for row, mask, row_labels in zip(ids, attention_mask.bool(), labels, strict=True):
        kept, kept_labels = row[mask], row_labels[mask]
        if (kept == IMAGE).any():
            rows.append(splice(kept, kept_labels, embed, placeholders))
        else:
            placeholders.skip_image()
            rows.append((embed(kept), kept_labels))
    length = max(len(embeds) for embeds, _ in rows)
    positions = torch.arange(length, device=ids.device)
    lengths = torch.tensor([len(embeds) for embeds, _ in rows], device=ids.device)
    mask = positions < lengths[:, None]
    return SplicedBatch(
        embeds=torch.nn.utils.rnn.pad_sequence([embeds for embeds, _ in rows], batch_first=True),
        attention_mask=mask,
        position_ids=torch.where(mask, positions, 0),
        labels=torch.nn.utils.rnn.pad_sequence(
            [row_labels for _, row_labels in rows], batch_first=True, padding_value=IGNORED
        ),
    )
