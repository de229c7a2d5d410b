"""The losses of perception training: each is finite and teaches what it should, and they are what they say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava.decoder import Decoded
from omg_llava.errors import ModelError
from omg_llava.features import VisualFeatures
from omg_llava.model import OmgLlava
from omg_llava.preprocessing import corner_pixels
from omg_llava.training.data.panoptic import PanopticData, PanopticSample, padded
from omg_llava.training.initial_weights import fresh_model
from omg_llava.training.perception import PerceptionBatch, PerceptionObjective, PerceptionOptions, PerceptionSource
from omg_llava.training.word_vectors import WordVectors
from omg_llava.visual_prompts import PromptSet

from ..lively import small_config
from .panoptic_files import CONFIG, SIZES_WH, document, drawn, write

SET = ("set_cross_entropy", "set_mask", "set_dice")
PROMPT = ("prompt_cross_entropy", "prompt_mask", "prompt_dice", "prompt_score")
OPTIONS = PerceptionOptions(n_points=64, n_prompts=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PanopticData:
    return PanopticData.from_files(write(tmp_path_factory.mktemp("panoptic")), CONFIG)


@pytest.fixture(scope="module")
def objective(data: PanopticData) -> PerceptionObjective:
    """Never changed by a test."""
    config = small_config()
    vectors = WordVectors(data.class_names, config.backbone.clip_dim)
    return PerceptionObjective(fresh_model(config, vectors, 1), vectors.table(data.class_names), OPTIONS)


def _of_kinds(data: PanopticData, framing: str, kinds: Sequence[str]) -> PerceptionBatch:
    """A batch with a picture of each kind of prompt."""
    samples = []
    for index, kind in enumerate(kinds):
        candidates = (drawn(data, index % len(data), framing, seed) for seed in range(100))
        samples.append(next(sample for sample in candidates if sample.prompt_kind == kind))
    height, width = (max(sample.pixels.shape[axis] for sample in samples) for axis in (-2, -1))
    return PerceptionBatch(tuple(padded(sample, height, width) for sample in samples))


@pytest.fixture(scope="module")
def pictures(data: PanopticData) -> PerceptionBatch:
    return _of_kinds(data, "square", ("point", "box", "mask"))


@pytest.fixture(scope="module")
def seen(objective: PerceptionObjective, pictures: PerceptionBatch) -> VisualFeatures:
    """Features of the pictures, without gradients."""
    with torch.no_grad():
        return objective.model.perception.features(torch.cat([sample.pixels for sample in pictures.samples]))


# Losses


def test_losses_are_finite_and_each_teaches(objective: PerceptionObjective, pictures: PerceptionBatch) -> None:
    torch.manual_seed(0)
    losses = objective(pictures, objective.counts(pictures))
    assert tuple(losses) == SET + PROMPT
    perception = objective.model.perception
    shared = [perception.backbone.embeddings.patch_embeddings.weight, perception.decoder.layers[0].fc1.weight]
    taught = {
        "set_cross_entropy": [perception.class_head.cls_proj[0].weight, perception.query_feat.weight],
        "set_mask": [perception.decoder.mask_embed[0].weight, perception.query_embed.weight],
        "set_dice": [perception.decoder.mask_embed[0].weight, perception.query_embed.weight],
        "prompt_cross_entropy": [perception.class_head.cls_proj[0].weight, perception.prompt_encoder.place_proj.weight],
        "prompt_mask": [perception.decoder.mask_embed[0].weight, perception.prompt_encoder.place_proj.weight],
        "prompt_dice": [perception.decoder.mask_embed[0].weight, perception.prompt_encoder.mask_token.weight],
        "prompt_score": [perception.class_head.score_proj[0].weight, perception.prompt_encoder.type_embed.weight],
    }
    for name, loss in losses.items():
        assert loss.ndim == 0 and torch.isfinite(loss) and loss > 0, name
        for gradient in torch.autograd.grad(loss, taught[name] + shared, retain_graph=True):
            assert torch.isfinite(gradient).all() and gradient.any(), name


def test_nothing_of_perception_is_forgotten(objective: PerceptionObjective, pictures: PerceptionBatch) -> None:
    """All but CLIP's own head, which no loss looks at, and the official row that is never used."""
    torch.manual_seed(0)
    parameters = dict(objective.model.perception.named_parameters())
    total = torch.stack(list(objective(pictures, {}).values())).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    without = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    assert {name.split(".")[0] for name in without} == {"clip_head"}
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)
    language = [*objective.model.llm.parameters(), *objective.model.projector.parameters()]
    torch.manual_seed(0)
    total = torch.stack(list(objective(pictures, {}).values())).sum()
    assert all(each is None for each in torch.autograd.grad(total, language, allow_unused=True))


@pytest.mark.parametrize(("framing", "names"), [("corner", SET + PROMPT), ("clip", SET)])
def test_other_framings_have_finite_losses(
    objective: PerceptionObjective, data: PanopticData, framing: str, names: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    batch = _of_kinds(data, framing, ("mask", "point"))
    losses = objective(batch, {})
    assert tuple(losses) == names
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


@pytest.mark.parametrize("n_empty", [1, 2])
def test_pictures_without_segments_have_finite_losses(
    objective: PerceptionObjective, pictures: PerceptionBatch, n_empty: int
) -> None:
    full = pictures.samples[0]
    empty = PanopticSample(
        full.pixels, full.masks[:0], full.classes[:0], "point", torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
    )
    torch.manual_seed(0)
    losses = objective(PerceptionBatch((full, empty, empty)[-2:] if n_empty == 2 else (full, empty)), {})
    assert set(SET) <= set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["set_cross_entropy"].requires_grad


# Prompts


def test_prompts_of_several_pictures_are_as_prompts_one_by_one(
    objective: PerceptionObjective, pictures: PerceptionBatch, seen: VisualFeatures
) -> None:
    perception = objective.model.perception
    with torch.no_grad():
        together = objective._prompted(seen, pictures)
        assert together.mask_logits.shape == (3, 3, 1, 32, 32)
        for index, sample in enumerate(pictures.samples):
            for place in range(3):
                prompts = PromptSet(sample.prompt_kind, sample.prompts[place : place + 1], seen.input_hw)
                alone = perception.prompted(seen.of(index), prompts, keep_steps=True)
                assert len(together.steps) == len(alone.steps) == 4
                for step, own in zip(together.steps, alone.steps, strict=True):
                    torch.testing.assert_close(
                        step.mask_logits[index, place], own.mask_logits[0, 0], atol=1e-4, rtol=1e-4
                    )
                    torch.testing.assert_close(step.queries[index, place], own.queries[0, 0], atol=1e-4, rtol=1e-4)
        others = objective._prompted(seen, PerceptionBatch(pictures.samples[::-1]))
    assert not torch.allclose(others.mask_logits[0], together.mask_logits[0], atol=1e-3)


def test_unlike_numbers_of_prompts_are_a_model_error(
    objective: PerceptionObjective, data: PanopticData, seen: VisualFeatures
) -> None:
    samples = tuple(drawn(data, index, "square", 0, n_prompts=index + 1) for index in range(3))
    with pytest.raises(ModelError, match="unlike numbers of prompts"):
        objective._prompted(seen, PerceptionBatch(samples))


@pytest.mark.parametrize("index", [0, 1])
def test_a_prompt_has_the_place_that_answers_give_it(
    objective: PerceptionObjective, data: PanopticData, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the corner framing, OMG-Seg divides by the picture's size, not by the padded one (`prompts.prompt_sets`)."""
    sets: list[PromptSet] = []
    encoder = objective.model.perception.prompt_encoder
    handle = encoder.register_forward_pre_hook(lambda _, inputs: sets.append(inputs[0]))
    try:
        objective(PerceptionBatch((drawn(data, index, "corner", 0),)), {})
    finally:
        handle.remove()
    with Image.open(data.path(index)) as image:
        _, frame = corner_pixels(image, *CONFIG.universal_px)
    assert frame.resized_hw[0] != frame.resized_hw[1]
    assert [each.place_hw or each.input_hw for each in sets] == [frame.resized_hw]


# Independent computations


def test_class_losses_are_weighted_cross_entropies(
    objective: PerceptionObjective,
    pictures: PerceptionBatch,
    seen: VisualFeatures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a matching that is known: query 2 i + 1 is segment i. Void counts a tenth; a mean by weight over all."""

    def matched(masks: torch.Tensor, classes: torch.Tensor, mask_labels: list, class_labels: list) -> list:
        return [(2 * torch.arange(len(labels)) + 1, torch.arange(len(labels))) for labels in class_labels]

    perception, prototypes = objective.model.perception, objective.prototypes
    monkeypatch.setattr(objective.criterion.matcher, "forward", matched)
    with torch.no_grad():
        found = objective._set_losses(seen, pictures)["set_cross_entropy"]
        expected = 0.0
        for step in perception.objects(seen, keep_steps=True).steps:
            logits = perception.class_logits(step.queries, step.mask_logits, seen, prototypes).double().numpy()
            total = weights = 0.0
            for picture, sample in enumerate(pictures.samples):
                wanted = np.full(logits.shape[1], logits.shape[2] - 1)
                wanted[1 : 2 * len(sample.classes) : 2] = sample.classes.numpy()
                for row, target in zip(logits[picture], wanted, strict=True):
                    weight = 0.1 if target == logits.shape[2] - 1 else 1.0
                    total += weight * (np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
                    weights += weight
            expected += 2 * total / weights
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_class_loss_of_prompts_is_a_mean_over_prompts(
    objective: PerceptionObjective, pictures: PerceptionBatch, seen: VisualFeatures
) -> None:
    """Of every prediction but the one before the first layer, where all prompts are the same query."""
    perception = objective.model.perception
    with torch.no_grad():
        found = objective._prompt_losses(seen, pictures)["prompt_cross_entropy"]
        terms = []
        for index, sample in enumerate(pictures.samples):
            here = seen.of(index)
            prompts = PromptSet(sample.prompt_kind, sample.prompts, seen.input_hw)
            for step in perception.prompted(here, prompts, keep_steps=True).steps[1:]:
                logits = perception.class_logits(step.queries, step.mask_logits, here, objective.prototypes)[0]
                wanted = sample.classes[sample.prompted]
                terms += (-logits.log_softmax(dim=-1))[torch.arange(len(wanted)), wanted].tolist()
    assert float(found) == pytest.approx(2 * sum(terms) / 9, rel=1e-3)


def test_the_score_is_taught_the_overlap(
    objective: PerceptionObjective, pictures: PerceptionBatch, seen: VisualFeatures
) -> None:
    """Decoded masks: the target itself, half of it, another place, nothing at all, all of an empty target, and a target
    that covers most of one cell and little of another.
    """
    perception = objective.model.perception
    targets = torch.zeros(6, 8, 8)
    targets[:4, 2:6, 2:6] = 1
    targets[5, 0, :3] = targets[5, 1, 0] = 1
    logits = torch.full((1, 6, 1, 4, 4), -3.0)
    logits[0, 0, 0, 1:3, 1:3] = 3
    logits[0, 1, 0, 1:3, 1:2] = 3
    logits[0, 2, 0, 3, 3] = 3
    logits[0, 4] = 3
    logits[0, 5, 0, :2, 0] = 3
    queries = torch.randn(1, 6, small_config().segmenter.width, generator=torch.Generator().manual_seed(0))
    scores = perception.scores(queries)[0].double()
    expected = 0.0
    for score, overlap in zip(scores.tolist(), (1.0, 0.5, 0.0, 0.0, 0.0, 0.5), strict=True):
        share = 1 / (1 + np.exp(-score))
        expected -= (overlap * np.log(share) + (1 - overlap) * np.log(1 - share)) / 6
    found = objective._score_loss(Decoded(queries, queries, logits), targets)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)
    decoded = objective._prompted(seen, pictures)
    wanted = torch.cat([sample.masks[sample.prompted] for sample in pictures.samples])
    assert torch.isfinite(objective._score_loss(decoded, wanted))


# Source


def test_a_micro_batch_has_one_framing_and_shares_are_kept(data: PanopticData) -> None:
    source = PerceptionSource(data, PerceptionOptions(n_prompts=1), micro_batch=4, seed=3)
    framings = Counter()
    for batch in range(300):
        framings[source._framing(batch)] += 1
    assert framings["clip"] / 300 == pytest.approx(0.15, abs=0.05)
    assert framings["corner"] / 300 == pytest.approx(0.25, abs=0.06)
    assert framings["square"] + framings["clip"] + framings["corner"] == 300
    n_frames = {place: len(source.draw(0, place).pixels) for place in range(24)}
    for place, number in n_frames.items():
        assert number == (2 if source._framing(place // 4) == "clip" else 1)


def test_a_draw_depends_on_seed_item_and_place_alone(data: PanopticData) -> None:
    def source(seed: int) -> PerceptionSource:
        return PerceptionSource(data, OPTIONS, micro_batch=2, seed=seed)

    first = source(3)
    samples = [first.draw(place % len(data), place) for place in range(8)]
    again = source(3)
    for place in reversed(range(8)):
        same = again.draw(place % len(data), place)
        assert torch.equal(same.pixels, samples[place].pixels)
        assert torch.equal(same.prompts, samples[place].prompts)
    other = [source(4).draw(place % len(data), place) for place in range(8)]
    assert any(not torch.equal(a.prompts, b.prompts) for a, b in zip(samples, other, strict=True))
    assert len(first) == len(data) == len(SIZES_WH)


def test_of_clips_every_second_one_is_kept(data: PanopticData) -> None:
    clips = [drawn(data, 0, "clip", seed) for seed in range(5)]
    stills = [drawn(data, 0, "square", seed) for seed in range(5)]
    assert _same(PerceptionSource.collate(clips), (clips[0], clips[2], clips[4]))
    assert _same(PerceptionSource.collate(clips[:1]), (clips[0],))
    assert _same(PerceptionSource.collate(stills), tuple(stills))


def _same(batch: PerceptionBatch, samples: Sequence[PanopticSample]) -> bool:
    """Whether the batch holds these samples, pictures of one size being taken as they are."""
    return [id(own) for own in batch.samples] == [id(sample) for sample in samples]


def test_a_batch_moves_as_a_whole(pictures: PerceptionBatch) -> None:
    moved = pictures.to(torch.device("meta"))
    for sample, own in zip(moved.samples, pictures.samples, strict=True):
        assert sample.prompt_kind == own.prompt_kind
        for name in ("pixels", "masks", "classes", "prompts", "prompted"):
            assert getattr(sample, name).device.type == "meta"
            assert getattr(sample, name).shape == getattr(own, name).shape


def test_prototypes_are_not_among_the_weights(objective: PerceptionObjective) -> None:
    assert "prototypes" not in objective.state_dict()
    assert isinstance(objective.model, OmgLlava)


def test_a_picture_of_a_crowd_alone_can_be_in_a_batch(tmp_path: Path, objective: PerceptionObjective) -> None:
    """From file to loss."""
    files = write(tmp_path, SIZES_WH[:2])
    content = document(SIZES_WH[:2])
    content["annotations"][1]["segments_info"] = content["annotations"][1]["segments_info"][-1:]
    files["annotations"].write_text(json.dumps(content))
    source = PerceptionSource(PanopticData.from_files(files, CONFIG), OPTIONS, micro_batch=2, seed=0)
    batch = source.collate([source.draw(0, 0), source.draw(1, 1)])
    assert all(torch.isfinite(loss) for loss in objective(batch, {}).values())
