"""Universal segmentation and the decoder under it: nothing depends on what is decoded beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava import fusion
from omg_llava.assistant import Assistant
from omg_llava.config import ClassConfig, ClassSetConfig
from omg_llava.decoder import MaskDecoder
from omg_llava.errors import ModelError
from omg_llava.features import VisualFeatures
from omg_llava.fusion import FusionSettings, Segment, panoptic_segments
from omg_llava.prompts import Prompt
from omg_llava.universal import InputSize, UniversalSegmenter, View
from omg_llava.untrained import untrained_model
from omg_llava.video import ClipSettings, Piece, track

from .lively import SIZES_WH, picture, pictures, rectangle, small_config

SMALL = InputSize(133, 80)
EVERYTHING = FusionSettings(iou_threshold=0.0)
PROMPTS = (
    Prompt("point", np.array([10.0, 20.0], np.float32)),
    Prompt("mask", rectangle(*SIZES_WH[0], (20, 10, 50, 40))),
    Prompt("box", np.array([3.0, 5.0, 40.0, 30.0], np.float32)),
    Prompt("point", np.array([60.0, 47.0], np.float32)),
    Prompt("mask", rectangle(*SIZES_WH[0], (0, 0, 5, 48))),
    Prompt("box", np.array([0.0, 0.0, 64.0, 48.0], np.float32)),
)


def segmenter_of(model: object, **changes: object) -> UniversalSegmenter:
    """Small inputs, and every segment that wins a pixel."""
    return UniversalSegmenter(model, **{"image_size": SMALL, "clip_size": SMALL, "fusion": EVERYTHING, **changes})


@pytest.fixture(scope="module")
def segmenter(lively: Assistant) -> UniversalSegmenter:
    return segmenter_of(lively.model)


@pytest.fixture(scope="module")
def view(segmenter: UniversalSegmenter) -> View:
    """Of the first picture."""
    return segmenter.view(pictures()[0])


@pytest.fixture(scope="module")
def queries(lively: Assistant) -> tuple[torch.Tensor, torch.Tensor]:
    """Five queries and positions, (1, 5, C) each."""
    width = lively.model.config.segmenter.width
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, 5, width, generator=random) for _ in range(2))


# The decoder


def _decoded(decoder: MaskDecoder, queries: tuple[torch.Tensor, ...], features: VisualFeatures, **options: object):
    return decoder(*queries, features, **options).mask_logits[0, :, 0]


def test_isolated_queries_are_decoded_as_if_alone(
    lively: Assistant, view: View, queries: tuple[torch.Tensor, torch.Tensor]
) -> None:
    decoder = lively.model.perception.decoder
    together = _decoded(decoder, queries, view.features, isolated=True)
    alone = [_decoded(decoder, [part[:, n : n + 1] for part in queries], view.features)[0] for n in range(5)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)
    mixed = _decoded(decoder, queries, view.features)
    assert not torch.allclose(together, mixed, atol=1e-2)


def test_a_query_that_may_look_nowhere_looks_everywhere(
    lively: Assistant, view: View, queries: tuple[torch.Tensor, torch.Tensor]
) -> None:
    def nowhere(logits: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(logits, dtype=torch.bool)

    def second_nowhere(logits: torch.Tensor) -> torch.Tensor:
        blocked = logits < 0
        blocked[:, 1] = True
        return blocked

    def second_everywhere(logits: torch.Tensor) -> torch.Tensor:
        blocked = logits < 0
        blocked[:, 1] = False
        return blocked

    decoder = lively.model.perception.decoder

    def masks(rule: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return _decoded(decoder, queries, view.features, rule=rule, isolated=True)

    assert torch.equal(masks(nowhere), masks(lambda logits: ~nowhere(logits)))
    assert torch.isfinite(masks(nowhere)).all()
    assert torch.equal(masks(second_nowhere), masks(second_everywhere))
    others = [0, 2, 3, 4]
    usual = masks(lambda logits: logits < 0)
    assert torch.equal(masks(second_nowhere)[others], usual[others])
    assert not torch.allclose(masks(nowhere)[others], usual[others], atol=1e-3)


def test_the_logit_of_void_is_zero(lively: Assistant, view: View) -> None:
    perception, prototypes = lively.model.perception, lively.model.prototypes()
    objects = perception.objects(view.features)
    logits = perception.class_logits(objects.queries, objects.mask_logits, view.features, prototypes)
    assert logits.shape[-1] == len(prototypes) + 1
    assert (logits[..., -1] == 0).all()
    assert (logits[..., :-1] != 0).all()
    assert logits.abs().max() <= 100.01


# Prompts


def test_prompts_together_are_as_prompts_one_by_one(segmenter: UniversalSegmenter, view: View) -> None:
    together = segmenter.interactive(view, PROMPTS)
    assert all(mask.shape == (48, 64) and mask.dtype == torch.bool for mask in together)
    assert len({mask.numpy().tobytes() for mask in together}) > 3
    for prompt, mask in zip(PROMPTS, together, strict=True):
        assert torch.equal(segmenter.interactive(view, [prompt])[0], mask)
    backwards = segmenter.interactive(view, PROMPTS[::-1])
    assert all(map(torch.equal, backwards, together[::-1]))


def test_no_prompts_no_masks(segmenter: UniversalSegmenter, view: View) -> None:
    assert segmenter.interactive(view, []) == []


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("point", np.array([70.0, 3.0])),
        Prompt("box", np.array([3.0, 3.0, 2.0, 9.0])),
        Prompt("mask", rectangle(48, 64, (1, 1, 9, 9))),
    ],
    ids=lambda prompt: prompt.kind,
)
def test_a_prompt_that_is_not_on_the_picture_is_an_error(
    segmenter: UniversalSegmenter, view: View, prompt: Prompt
) -> None:
    with pytest.raises(ModelError, match="prompt 2"):
        segmenter.interactive(view, [PROMPTS[0], prompt])


# Fusion


def _random_queries(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits (20, 6) and smooth mask logits (20, 30, 41); queries 4 and 9 are twins of 3 and 8."""
    random = torch.Generator().manual_seed(seed)
    classes = 2 * torch.randn(20, 6, generator=random)
    coarse = 3 * torch.randn(1, 20, 5, 6, generator=random)
    masks = torch.nn.functional.interpolate(coarse, (30, 41), mode="bilinear")[0]
    for twin in (4, 9):
        classes[twin], masks[twin] = classes[twin - 1], masks[twin - 1]
    return classes, masks


def _by_pixels(
    classes: torch.Tensor, masks: torch.Tensor, n_things: int, settings: FusionSettings
) -> list[tuple[int, int, int, bytes]]:
    """The rule of the official script, pixel by pixel: (query, label, instance, mask) of each segment."""
    shares = classes.softmax(dim=1)
    scores, labels = shares.amax(dim=1).tolist(), shares.argmax(dim=1).tolist()
    kept = [q for q in range(len(scores)) if labels[q] != 5 and scores[q] > settings.object_threshold]
    inside = masks.sigmoid()
    owner = np.full(masks.shape[1:], -1)
    for place in np.ndindex(*owner.shape):
        owner[place] = max(kept, key=lambda q: (scores[q] * float(inside[q][place]), -q))
    n_instances, found = 0, []
    for q in kept:
        won, own = owner == q, inside[q].numpy() >= 0.5
        if not won.any() or not own.any() or won.sum() / own.sum() < settings.iou_threshold:
            continue
        n_instances += labels[q] < n_things
        drawn = won & own if settings.filter_low_score else won
        if drawn.any():
            found.append((q, labels[q], n_instances if labels[q] < n_things else 0, drawn.tobytes()))
    return found


def _as_tuples(segments: list[Segment]) -> list[tuple[int, int, int, bytes]]:
    return [(each.query, each.label, each.instance, each.mask.numpy().tobytes()) for each in segments]


@pytest.mark.parametrize("seed", range(4))
def test_fusion_pixel_by_pixel(seed: int) -> None:
    classes, masks = _random_queries(seed)
    for settings in (EVERYTHING, FusionSettings(0.3, 0.1, filter_low_score=False), FusionSettings(0.0, 0.2)):
        found = panoptic_segments(classes, masks.__getitem__, 3, settings)
        assert found
        assert _as_tuples(found) == _by_pixels(classes, masks, 3, settings)
        assert torch.stack([segment.mask for segment in found]).sum(dim=0).max() == 1


@pytest.mark.parametrize("n_masks", [0, 1, 3, 8])
def test_fusion_in_pieces_is_as_fusion_at_once(monkeypatch: pytest.MonkeyPatch, n_masks: int) -> None:
    for seed in range(3):
        classes, masks = _random_queries(seed)
        whole = panoptic_segments(classes, masks.__getitem__, 3, EVERYTHING)
        sizes = []

        def source(chosen: torch.Tensor, masks: torch.Tensor = masks, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(len(chosen))
            return masks[chosen]

        with monkeypatch.context() as patched:
            patched.setattr(fusion, "_MOST_VALUES", n_masks * masks[0].numel() + 5)
            in_pieces = panoptic_segments(classes, source, 3, EVERYTHING)
        assert max(sizes) <= max(1, n_masks)
        assert _as_tuples(in_pieces) == _as_tuples(whole)
        assert [segment.score for segment in in_pieces] == [segment.score for segment in whole]


def test_a_picture_in_pieces(segmenter: UniversalSegmenter, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = segmenter.panoptic(view)
    assert len(whole) > 2
    monkeypatch.setattr(fusion, "_MOST_VALUES", 2 * 48 * 64)
    assert _as_tuples(segmenter.panoptic(view)) == _as_tuples(whole)


def test_nothing_but_void(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0]])
    assert panoptic_segments(classes, torch.zeros(2, 4, 4).__getitem__, 1) == []


# Pictures and clips


@pytest.mark.parametrize("number", range(len(SIZES_WH)))
def test_every_kind_of_map_has_the_size_of_its_picture(segmenter: UniversalSegmenter, number: int) -> None:
    width, height = SIZES_WH[number]
    view = segmenter.view(pictures()[number])
    segments = segmenter.panoptic(view)
    assert segments
    assert torch.stack([segment.mask for segment in segments]).sum(dim=0).max() == 1
    assert all(segment.mask.shape == (height, width) for segment in segments)
    instances = segmenter.instances(view)
    assert instances.masks.shape[1:] == (height, width)
    assert (instances.labels < 2).all()
    assert (instances.scores.diff() <= 0).all()
    semantic = segmenter.semantic(view)
    assert semantic.shape == (height, width)
    assert 0 <= int(semantic.min()) <= int(semantic.max()) < 3


def test_a_picture_is_a_clip_of_one_frame(segmenter: UniversalSegmenter, view: View) -> None:
    [segments] = list(segmenter.video([pictures()[0]]))
    assert _as_tuples(segments) == _as_tuples(segmenter.panoptic(view))


def _clip(n_frames: int) -> list[Image.Image]:
    still = np.asarray(picture(41, 30))
    return [Image.fromarray(np.roll(still, 3 * index, axis=1)) for index in range(n_frames)]


@pytest.mark.parametrize("n_frames", [2, 4, 7, 17])
def test_clips_of_many_lengths(segmenter: UniversalSegmenter, n_frames: int) -> None:
    frames = list(segmenter.video(_clip(n_frames)))
    assert len(frames) == n_frames
    for segments in frames:
        assert segments
        masks = torch.stack([segment.mask for segment in segments])
        assert masks.shape[1:] == (30, 41)
        assert masks.sum(dim=0).max() == 1


def test_a_still_clip_shows_the_same_in_every_frame_of_a_piece(lively: Assistant) -> None:
    """And a track keeps its class: labels are decided once for the whole clip."""
    segmenter = segmenter_of(lively.model, clips=ClipSettings(piece=2, short_piece=2, short_limit=15))
    frames = segmenter.video(_clip(6))
    labels: dict[int, set[tuple[int, float]]] = {}
    for segments in frames:
        for segment in segments:
            labels.setdefault(segment.query, set()).add((segment.label, segment.score))
    assert all(len(found) == 1 for found in labels.values())


def test_a_track_follows_its_query_from_piece_to_piece() -> None:
    """Three pieces; the second and third hold the same queries in other places."""
    random = torch.Generator().manual_seed(0)
    queries, classes = torch.randn(6, 8, generator=random), torch.randn(6, 4, generator=random)
    scores, masks = torch.randn(6, generator=random), torch.randn(2, 6, 3, 3, generator=random)
    orders = [torch.arange(6), torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([1, 2, 3, 4, 5, 0])]
    tracked = track(Piece(classes[o], masks[:, o], queries[o], scores[o]) for o in orders)
    torch.testing.assert_close(tracked.class_logits, classes)
    torch.testing.assert_close(tracked.scores, scores)
    assert torch.equal(torch.stack(list(tracked.frames())), masks.repeat(3, 1, 1, 1))


@pytest.mark.parametrize("place", [0, 1, 5])
def test_frames_of_two_sizes_are_an_error(segmenter: UniversalSegmenter, place: int) -> None:
    frames = _clip(6)
    frames[place] = pictures()[2]
    with pytest.raises(ModelError, match="20 x 33, 41 x 30"):
        list(segmenter.video(frames))


# Label spaces


def test_an_unknown_label_space_is_an_error(segmenter: UniversalSegmenter, view: View) -> None:
    for method in (segmenter.panoptic, segmenter.instances, segmenter.semantic):
        with pytest.raises(ModelError, match="shapes"):
            method(view, "coco")


def test_the_label_space_that_is_named_is_used() -> None:
    config = small_config()
    other = ClassSetConfig("other", 0, tuple(ClassConfig(n, f"c{n}", f"c{n}") for n in range(7)), 2)
    model, _ = untrained_model(dataclasses.replace(config, class_sets=(*config.class_sets, other)))
    segmenter = segmenter_of(model)
    view = segmenter.view(pictures()[0])
    labels = {segment.label for segment in segmenter.panoptic(view, "other")}
    assert max(labels) > 2
    assert all(segment.instance == 0 for segment in segmenter.panoptic(view, "other"))
    assert max(segment.label for segment in segmenter.panoptic(view)) <= 2
    assert _as_tuples(segmenter.panoptic(view)) == _as_tuples(segmenter.panoptic(view, "shapes"))


def test_a_model_without_label_spaces_says_so() -> None:
    model, tokenizer = untrained_model(dataclasses.replace(small_config(), class_sets=()))
    segmenter = segmenter_of(model)
    view = segmenter.view(pictures()[0])
    with pytest.raises(ModelError, match="no class embeddings"):
        segmenter.panoptic(view)
    assert len(segmenter.interactive(view, PROMPTS)) == len(PROMPTS)
    with pytest.raises(ModelError, match="no class embeddings"):
        Assistant(model, tokenizer).look(pictures()[0])
