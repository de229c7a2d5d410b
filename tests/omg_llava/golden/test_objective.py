"""Stage i once more: what a training step minimises, from a batch alone, is what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from omg_llava.model import OmgLlava
from omg_llava.training.encoding import LanguageBatch
from omg_llava.training.language import LanguageObjective, LanguageOptions
from omg_llava.visual_prompts import PromptSet
from omg_llava.vocabulary import IMAGE

from .prompted import KINDS

pytestmark = pytest.mark.golden


def _batch(goldens: Any, model: OmgLlava, prefix: str = "") -> LanguageBatch:
    """The recorded rows with their pictures, prompts and masks, dealt out by ids and labels; stage 1 has pictures."""
    stage = goldens.stage("i_losses")
    pixels = goldens.stage("a_backbone")["images"]
    ids, labels = stage[f"{prefix}input_ids"], stage[f"{prefix}labels"]
    attention_mask = stage[f"{prefix}attention_mask"].bool()
    tokens = {"regions": model.special.region, "points": model.special.mark}
    queues = {name: iter(stage.tensors.get(name, ()) if not prefix else ()) for name in tokens}
    masks = iter(stage["gt_masks"] if not prefix else ())
    prompts, is_mark, row_masks = [], [], []
    for row, row_labels in zip(ids, labels, strict=True):
        own, places = [], 0
        for name, token in tokens.items():
            n = int((row == token).sum()) if (row == IMAGE).any() else 0
            if n:
                values = torch.stack([next(queues[name]) for _ in range(n)])
                own.append((list(range(places, places + n)), PromptSet(KINDS[name], values, tuple(pixels.shape[-2:]))))
                places += n
        prompts.append(tuple(own))
        is_mark.append(torch.tensor([s.kind == "point" for at, s in own for _ in at], dtype=torch.bool))
        n_seg = 0 if prefix else int((row_labels == model.special.seg).sum())
        row_masks.append(torch.stack([next(masks) for _ in range(n_seg)]) if n_seg else torch.zeros(0, 1, 1))
    assert next(masks, None) is None and all(next(queue, None) is None for queue in queues.values())
    return LanguageBatch(ids, labels, attention_mask, pixels, tuple(prompts), tuple(is_mark), tuple(row_masks))


@pytest.fixture
def recorded_draws(goldens: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Random numbers as they came when the tensors were recorded; all of them are asked for."""
    stage = goldens.stage("i_losses")
    draws = iter([stage[f"rand_{index}"] for index in range(sum(1 for _ in stage.matching(r"rand_\d+")))])

    def rand(*size: int, device: torch.device) -> torch.Tensor:
        drawn = next(draws)
        assert drawn.shape == size
        return drawn.to(device)

    monkeypatch.setattr(torch, "rand", rand)
    yield
    assert next(draws, None) is None


def test_the_instruction_objective(goldens: Any, model: OmgLlava, recorded_draws: None) -> None:
    stage = goldens.stage("i_losses")
    options = LanguageOptions(n_points=goldens.config["loss"]["num_points"])
    objective, batch = LanguageObjective(model, "instruction", options), _batch(goldens, model)
    counts = objective.counts(batch)
    assert counts["masks"] == len(stage["gt_masks"])
    losses = objective(batch, counts)
    assert losses.keys() == {"text", "dice", "bce"}
    stage.check("stage2_loss", losses["text"][None])
    stage.check("stage2_loss_dice", losses["dice"][None])
    stage.check("stage2_loss_mask", losses["bce"][None])
    stage.check("stage2_total", sum(losses.values())[None])


def test_the_alignment_objective(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("i_losses")
    objective, batch = LanguageObjective(model, "alignment", LanguageOptions()), _batch(goldens, model, "stage1_")
    losses = objective(batch, objective.counts(batch))
    assert losses.keys() == {"text", "alignment"}
    stage.check("stage1_loss", losses["text"][None])
    stage.check("stage1_loss_proj", losses["alignment"][None])
