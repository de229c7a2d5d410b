"""Losses of the language stages, against the same from the model's parts, sample by sample, mask by mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from omg_llava.config import SegTokenConfig
from omg_llava.model import OmgLlava, Percept
from omg_llava.prompts import Prompt
from omg_llava.training import losses as losses_module
from omg_llava.training.encoding import EncodedSample, Encoder, LanguageBatch
from omg_llava.training.language import LanguageObjective, LanguageOptions, Task
from omg_llava.training.losses import aligned_queries
from omg_llava.training.parts import train_only
from omg_llava.training.samples import TrainingSample
from omg_llava.visual_prompts import PromptSet

from ..lively import N_LAYERS, SIDE, lively_model, small_config
from .spoken import described, everything, pointed, prompted, prompts_of, segmenting, text_alone, write_pictures

N_POINTS = 80
LONG = 10_000
TRAINED = ("language", "projectors", "own_seg_decoder")
OPTIONS = LanguageOptions(max_text_tokens=LONG, n_points=N_POINTS)


def _build(embedding: str) -> tuple[OmgLlava, Any]:
    config = small_config()
    seg_token = SegTokenConfig(own_decoder=True, embedding=embedding)  # type: ignore[arg-type]
    config = dataclasses.replace(
        config, seg_token=seg_token, segmenter=dataclasses.replace(config.segmenter, decoder_layers=2)
    )
    return lively_model(config)


@pytest.fixture(scope="module")
def built() -> tuple[OmgLlava, Any]:
    return _build("last")


@pytest.fixture
def model(built: tuple[OmgLlava, Any]) -> Iterator[OmgLlava]:
    """Without gradients, before a test and after."""
    yield built[0]
    built[0].requires_grad_(False)
    for parameter in built[0].parameters():
        parameter.grad = None


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def encode(built: tuple[OmgLlava, Any]) -> Callable[..., EncodedSample]:
    def encode(sample: TrainingSample, limit: int = LONG, **options: Any) -> EncodedSample:
        return Encoder(built[1], built[0].config, limit).encode(sample, **options)

    return encode


@pytest.fixture(scope="module")
def samples(encode: Callable[..., EncodedSample], paths: list[Path]) -> list[EncodedSample]:
    return [encode(sample) for sample in everything(paths)]


def collate(samples: Sequence[EncodedSample]) -> LanguageBatch:
    return Encoder.collate(None, samples)  # type: ignore[arg-type]


def run(
    model: OmgLlava, samples: Sequence[EncodedSample], task: Task = "instruction", options: LanguageOptions = OPTIONS
) -> dict[str, torch.Tensor]:
    """Losses of a batch that is a step of its own, points drawn from seed 7."""
    objective, batch = LanguageObjective(model, task, options), collate(samples)
    torch.manual_seed(7)
    return objective(batch, objective.counts(batch))


# The same by hand


def sequence_of(model: OmgLlava, sample: EncodedSample, percept: Percept) -> tuple[torch.Tensor, list[int]]:
    """Embeddings and labels, one id after the other."""
    tokens = {True: iter([]), False: iter([])}
    if len(sample.is_mark):
        own = [_prompt_token(model, sample, percept, place) for place in range(len(sample.is_mark))]
        tokens = {
            kind: iter([t for t, mark in zip(own, sample.is_mark, strict=True) if mark == kind]) for kind in tokens
        }
    embeds, labels = [], []
    for token, label in zip(sample.ids.tolist(), sample.labels.tolist(), strict=True):
        if token == -200:
            piece = model.image_tokens(percept)
        elif token in (model.special.region, model.special.mark):
            piece = next(tokens[token == model.special.mark])
        else:
            piece = model.llm.get_input_embeddings().weight[token][None]
        embeds.append(piece)
        labels += [label] if len(piece) == 1 and token >= 0 else [-100] * len(piece)
    assert all(next(left, None) is None for left in tokens.values())
    return torch.cat(embeds), labels


def _prompt_token(model: OmgLlava, sample: EncodedSample, percept: Percept, place: int) -> torch.Tensor:
    """(1, D) of the prompt at a place, decoded alone."""
    for places, own in sample.prompts:
        if place in places:
            index = places.index(place)
            return model.prompt_tokens(percept, PromptSet(own.kind, own.values[index : index + 1], (SIDE, SIDE)))
    raise AssertionError(place)


def bilinear(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(h, w) at (P, 2) as (x, y) in 0..1; zero beyond the border."""
    height, width = image.shape
    padded = np.pad(image.astype(np.float64), 1)
    x, y = points[:, 0] * width + 0.5, points[:, 1] * height + 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, lower_share = x - left, y - top
    upper = padded[top, left] * (1 - right_share) + padded[top, left + 1] * right_share
    lower = padded[top + 1, left] * (1 - right_share) + padded[top + 1, left + 1] * right_share
    return upper * (1 - lower_share) + lower * lower_share


def plain_mask_losses(predictions: np.ndarray, targets: np.ndarray, n_points: int) -> tuple[float, float]:
    """Dice and cross entropy of (L + 1, N, h, w) against (N, H, W), points drawn from seed 7."""
    torch.manual_seed(7)
    n, n_unsure = len(targets), n_points * 3 // 4
    dice = bce = 0.0
    for logits in predictions:
        candidates = torch.rand(n, 3 * n_points, 2).numpy()
        rest = torch.rand(n, n_points - n_unsure, 2).numpy()
        for index in range(n):
            unsure = np.argsort(np.abs(bilinear(logits[index], candidates[index])), kind="stable")[:n_unsure]
            points = np.concatenate((candidates[index][unsure], rest[index]))
            found, wanted = bilinear(logits[index], points), bilinear(targets[index], points)
            share = 1 / (1 + np.exp(-found))
            dice += 5 * (1 - (2 * (share * wanted).sum() + 1) / (share.sum() + wanted.sum() + 1)) / (n + 1e-4)
            errors = np.logaddexp(0, found) - wanted * found
            bce += 5 * errors.sum() / (n * n_points + 1e-4)
    return 0.1 * dice, 0.4 * bce


def by_hand(model: OmgLlava, samples: Sequence[EncodedSample], n_points: int = N_POINTS) -> dict[str, float]:
    """Losses of the instruction stage, each sample and each mask alone."""
    entropies, predictions, targets = [], [], []
    for sample in samples:
        [percept] = model.perceive(sample.pixels[None])
        embeds, labels = sequence_of(model, sample, percept)
        output = model.llm.model(inputs_embeds=embeds[None], output_hidden_states=True)
        wanted = torch.tensor(labels[1:])
        scores = output.last_hidden_state[0, :-1] @ model.llm.lm_head.weight.T
        entropies.append(F.cross_entropy(scores, wanted, reduction="none")[wanted != -100])
        states = output.last_hidden_state[0]
        if model.config.seg_token.embedding == "mean":
            assert len(output.hidden_states) == N_LAYERS + 1
            states = sum(output.hidden_states)[0] / (N_LAYERS + 1)
        places = [place for place, label in enumerate(labels) if label == model.special.seg]
        for place, target in zip(places, sample.masks, strict=False):
            steps = model.decode_seg(percept.features, states[place][None], keep_steps=True).steps
            assert len(steps) == model.config.segmenter.decoder_layers + 1
            predictions.append(np.stack([step.mask_logits[0, 0, 0].numpy() for step in steps]))
            targets.append(target.numpy())
    losses = {"text": float(torch.cat(entropies).mean())}
    if predictions:
        losses["dice"], losses["bce"] = plain_mask_losses(np.stack(predictions, axis=1), np.stack(targets), n_points)
    return losses


@pytest.mark.parametrize("embedding", ["last", "mean"])
@torch.no_grad()
def test_losses_are_those_of_the_parts(
    built: tuple[OmgLlava, Any], samples: list[EncodedSample], embedding: str
) -> None:
    """All kinds of samples in one batch, in two orders."""
    model = built[0] if embedding == "last" else _build(embedding)[0]
    for batch in (samples, samples[::-1]):
        found = {name: float(value) for name, value in run(model, batch).items()}
        expected = by_hand(model, batch)
        assert expected.keys() == found.keys() == {"text", "dice", "bce"}
        assert found == pytest.approx(expected, rel=1e-4)
        assert all(value > 0.1 for value in expected.values())


def test_what_is_counted(model: OmgLlava, samples: list[EncodedSample]) -> None:
    objective = LanguageObjective(model, "instruction", OPTIONS)
    answers = ("<p> It </p> [SEG].", "<p> Others </p> [SEG], and [SEG].", "Nothing at all.", "...", "All.")
    answers += ("It is [SEG].", "Blocks of many colours.", "<p> That </p> [SEG].")
    special = ("<p>", "</p>", "[SEG]")
    n_tokens = sum(len(text) + 1 - sum(text.count(token) * (len(token) - 1) for token in special) for text in answers)
    assert objective.counts(collate(samples)) == {"tokens": n_tokens, "pictures": 5, "masks": 5}


# Prompts


def _spliced(
    model: OmgLlava, batch: LanguageBatch, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, list[Percept]]:
    """What the language model is given, and what was seen."""
    given: dict[str, Any] = {}
    perceive, read = model.perceive, model.read

    def perceiving(pixels: torch.Tensor) -> list[Percept]:
        given["percepts"] = perceive(pixels)
        return given["percepts"]

    def reading(embeds: torch.Tensor, *masks: torch.Tensor) -> Any:
        given["embeds"] = embeds
        return read(embeds, *masks)

    with monkeypatch.context() as patch:
        patch.setattr(model, "perceive", perceiving)
        patch.setattr(model, "read", reading)
        objective = LanguageObjective(model, "instruction", OPTIONS)
        objective(batch, objective.counts(batch))
    return given["embeds"], given["percepts"]


def _placeholders(model: OmgLlava, sample: EncodedSample, percept: Percept) -> list[int]:
    """For each prompt, its place in what the language model is given."""
    n_more = len(model.image_tokens(percept)) - 1
    places = {True: [], False: []}
    n_images = 0
    for index, token in enumerate(sample.ids.tolist()):
        n_images += token == -200
        if token in (model.special.region, model.special.mark):
            places[token == model.special.mark].append(index + n_more * n_images)
    return [places[mark].pop(0) for mark in sample.is_mark.tolist()]


@torch.no_grad()
def test_every_prompt_lands_at_its_placeholder(
    model: OmgLlava, samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [samples[4], samples[2], samples[1], samples[0], samples[2]]
    embeds, percepts = _spliced(model, collate(batch), monkeypatch)
    for row, sample in enumerate(batch):
        for prompt, place in enumerate(_placeholders(model, sample, percepts[row])):
            expected = _prompt_token(model, sample, percepts[row], prompt)[0]
            torch.testing.assert_close(embeds[row, place], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changed", range(5))
@torch.no_grad()
def test_another_prompt_changes_its_own_token_alone(
    model: OmgLlava,
    encode: Callable[..., EncodedSample],
    samples: list[EncodedSample],
    paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    changed: int,
) -> None:
    others: dict[str, np.ndarray] = {
        "mask": prompts_of(1)[0].value[::-1].copy(),
        "point": np.array([2.0, 90.0], np.float32),
        "box": np.array([20.0, 50.0, 41.0, 99.0], np.float32),
    }
    sample = prompted(paths)
    prompts = list(sample.prompts)
    old = prompts[changed]
    prompts[changed] = Prompt(old.kind, others[old.kind], old.as_mark)
    again = encode(dataclasses.replace(sample, prompts=tuple(prompts)))
    before, percepts = _spliced(model, collate([samples[4], samples[2]]), monkeypatch)
    after, _ = _spliced(model, collate([samples[4], again]), monkeypatch)
    place = _placeholders(model, again, percepts[1])[changed]
    differs = ((before - after).abs() > 1e-4).any(dim=-1)
    assert [list(at) for at in differs.nonzero().tolist()] == [[1, place]]


@torch.no_grad()
def test_a_cut_off_placeholder_takes_no_prompt_from_another_sample(
    model: OmgLlava,
    encode: Callable[..., EncodedSample],
    samples: list[EncodedSample],
    paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = samples[2]
    second_mark = [place for place, token in enumerate(whole.ids.tolist()) if token == model.special.mark][1]
    cut = encode(prompted(paths), limit=second_mark)
    embeds, percepts = _spliced(model, collate([cut, samples[4]]), monkeypatch)
    [place] = _placeholders(model, samples[4], percepts[1])
    expected = _prompt_token(model, samples[4], percepts[1], 0)[0]
    torch.testing.assert_close(embeds[1, place], expected, atol=1e-5, rtol=1e-4)


# Precision


def _watched(model: OmgLlava, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[bool]]:
    """Whether parts of the model ran in half precision."""
    seen: dict[str, set[bool]] = {}

    def watch(owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return method(*given, **named)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((model.perception, "features"), (model.perception, "prompted"), (model, "decode_seg")):
        watch(owner, name)
    watch(model, "read")
    return seen


@torch.no_grad()
def test_perception_and_masks_keep_their_precision(
    model: OmgLlava, samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watched(model, monkeypatch)
    exact = run(model, samples)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(model, samples)
    assert seen["read"] == {False, True}
    assert seen["features"] == seen["decode_seg"] == {False}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in exact.items()}, rel=0.1
    )


@torch.no_grad()
def test_prompts_keep_their_precision(
    model: OmgLlava, samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watched(model, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        run(model, [samples[2]])
    assert seen["prompted"] == {False}


# Accumulation


def _same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same points for every mask, in whatever batch it is."""
    points = torch.rand(1, N_POINTS, 2, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(losses_module, "uncertain_points", lambda logits, *_: points.expand(len(logits), -1, -1))


def _gradients(model: OmgLlava) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return found


@pytest.mark.parametrize("task", ["text", "alignment", "instruction"])
def test_micro_batches_of_a_step_are_as_one_batch(
    model: OmgLlava,
    encode: Callable[..., EncodedSample],
    samples: list[EncodedSample],
    paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    task: Task,
) -> None:
    """Four, with unlike numbers of tokens, pictures and masks in each."""
    _same_points(monkeypatch)
    train_only(model, {"text": ("language",), "alignment": ("projectors",), "instruction": TRAINED}[task])
    objective = LanguageObjective(model, task, OPTIONS)
    cuts = [samples[:1], samples[1:3], samples[3:4], samples[4:]]
    if task == "text":
        cuts = [
            [encode(s, has_pixels=False)] for s in (segmenting(paths), text_alone(), described(paths), text_alone())
        ]
    if task == "alignment":
        # In the last picture one query owns all tokens and is left out: pictures would count unlike.
        cuts[3] = samples[:2]
    parts, whole = [collate(cut) for cut in cuts], collate([sample for cut in cuts for sample in cut])
    own = [objective.counts(part) for part in parts]
    counts = {name: sum(each[name] for each in own) for name in own[0]}
    assert counts == objective.counts(whole)
    expected, wanted = _step(model, objective, [whole], counts)
    found, gradients = _step(model, objective, parts, counts)
    assert found == pytest.approx(expected, rel=1e-4)
    assert sum(bool(value.any()) for value in wanted.values()) > 10
    for name in wanted.keys() | gradients.keys():
        # Without a mask a batch gives zeros where one with masks may give nothing.
        value = wanted.get(name, torch.zeros(()))
        limit = 1e-4 * float(value.abs().max()) + 1e-7
        torch.testing.assert_close(gradients[name], value.expand_as(gradients[name]), atol=limit, rtol=1e-3, msg=name)


def _step(
    model: OmgLlava, objective: LanguageObjective, parts: Sequence[LanguageBatch], counts: dict[str, float]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Sums of losses and gradients over the parts of a step."""
    total: dict[str, float] = {}
    for part in parts:
        losses = objective(part, counts)
        torch.stack(list(losses.values())).sum().backward()
        total = {name: total.get(name, 0.0) + float(value.detach()) for name, value in losses.items()}
    return total, _gradients(model)


# Masks that are missing


@torch.no_grad()
def test_a_lost_seg_drops_the_masks_of_its_batch(
    model: OmgLlava, encode: Callable[..., EncodedSample], samples: list[EncodedSample], paths: list[Path]
) -> None:
    last_seg = (samples[0].ids == model.special.seg).nonzero()[-1, 0]
    cut = encode(segmenting(paths), limit=int(last_seg))
    batch = [cut, samples[4]]
    assert len(cut.masks) == 3 and int((cut.labels == model.special.seg).sum()) == 2
    objective = LanguageObjective(model, "instruction", OPTIONS)
    assert objective.counts(collate(batch))["masks"] == 0
    found = run(model, batch)
    assert float(found["dice"]) == float(found["bce"]) == 0.0
    assert float(found["text"]) == pytest.approx(by_hand(model, batch)["text"], rel=1e-4)
    assert objective.counts(collate([cut]))["masks"] == 0
    assert objective.counts(collate([samples[4]]))["masks"] == 1


@torch.no_grad()
def test_counts_that_agree_in_sum_alone_pair_nothing(
    model: OmgLlava, encode: Callable[..., EncodedSample], samples: list[EncodedSample], paths: list[Path]
) -> None:
    """One sample has lost a `[SEG]`, another has one without a mask."""
    last_seg = (samples[0].ids == model.special.seg).nonzero()[-1, 0]
    cut, more = (
        encode(segmenting(paths), limit=int(last_seg)),
        dataclasses.replace(samples[0], masks=samples[0].masks[:2]),
    )
    assert [len(cut.masks) - 2, len(more.masks) - 3] == [1, -1]
    assert float(run(model, [cut, more])["bce"]) == 0.0


@torch.no_grad()
def test_a_lost_seg_may_cost_its_own_mask_alone(
    model: OmgLlava, encode: Callable[..., EncodedSample], samples: list[EncodedSample], paths: list[Path]
) -> None:
    options = dataclasses.replace(OPTIONS, unmatched="cut")
    last_seg = (samples[0].ids == model.special.seg).nonzero()[-1, 0]
    batch = [encode(segmenting(paths), limit=int(last_seg)), samples[4]]
    objective = LanguageObjective(model, "instruction", options)
    assert objective.counts(collate(batch))["masks"] == 3
    found = run(model, batch, options=options)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(by_hand(model, batch), rel=1e-4)
    whole = run(model, [samples[0], samples[4]], options=options)
    assert whole.keys() == found.keys()
    assert {name: float(value) for name, value in whole.items()} == pytest.approx(
        by_hand(model, [samples[0], samples[4]]), rel=1e-4
    )


@pytest.mark.parametrize("unmatched", ["drop_batch", "cut"])
def test_without_masks_their_losses_and_gradients_are_zero(
    model: OmgLlava, samples: list[EncodedSample], unmatched: Any
) -> None:
    train_only(model, TRAINED)
    options = dataclasses.replace(OPTIONS, unmatched=unmatched)
    found = run(model, [samples[3], samples[1]], options=options)
    assert found.keys() == {"text", "dice", "bce"}
    assert float(found["dice"].detach()) == float(found["bce"].detach()) == 0.0
    torch.stack(list(found.values())).sum().backward()
    gradients = _gradients(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    masks_only = {name for name in trained if name.startswith(("text_projector.", "own_seg_decoder.", "seg_state."))}
    assert len(masks_only) > 20
    assert gradients.keys() == trained
    assert not any(bool(gradients[name].any()) for name in masks_only)
    assert all(bool(gradients[name].any()) for name in ("projector.pixel.0.weight", "llm.lm_head.weight"))


def test_masks_teach_the_way_to_them(model: OmgLlava, samples: list[EncodedSample]) -> None:
    """What is trained has gradients from the masks: language model, projectors, the decoder."""
    train_only(model, TRAINED)
    found = run(model, [samples[0]])
    (found["dice"] + found["bce"]).backward()
    taught = {name for name, value in _gradients(model).items() if value.any()}
    for part in ("llm.model.layers.0.", "text_projector.", "own_seg_decoder.", "projector.pixel.", "projector.query."):
        assert any(name.startswith(part) for name in taught), part
    assert not any(name.startswith(("perception.", "llm.lm_head.")) for name in taught)


# Text alone, and alignment


@torch.no_grad()
def test_the_text_task_sees_no_picture(
    model: OmgLlava, encode: Callable[..., EncodedSample], paths: list[Path]
) -> None:
    batch = [encode(sample, has_pixels=False) for sample in (segmenting(paths), text_alone(), described(paths))]
    entropies = []
    for sample in batch:
        output = model.llm.model(inputs_embeds=model.llm.get_input_embeddings()(sample.ids)[None])
        wanted = sample.labels[1:]
        scores = output.last_hidden_state[0, :-1] @ model.llm.lm_head.weight.T
        entropies.append(F.cross_entropy(scores, wanted, reduction="none")[wanted != -100])
    blind = [dataclasses.replace(sample, pixels=torch.full_like(sample.pixels, torch.nan)) for sample in batch]
    found = run(model, blind, "text")
    assert found.keys() == {"text"}
    assert float(found["text"]) == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-5)


@torch.no_grad()
def test_the_text_task_reads_questions_about_prompts(
    model: OmgLlava, encode: Callable[..., EncodedSample], paths: list[Path]
) -> None:
    assert torch.isfinite(run(model, [encode(pointed(paths), has_pixels=False)], "text")["text"])


@torch.no_grad()
def test_a_batch_in_which_nothing_is_learned_costs_nothing(
    model: OmgLlava, encode: Callable[..., EncodedSample], paths: list[Path]
) -> None:
    """All answers lie behind the limit."""
    cut = encode(segmenting(paths), limit=10)
    assert (cut.labels == -100).all()
    assert {name: float(value) for name, value in run(model, [cut, cut]).items()} == {"text": 0, "dice": 0, "bce": 0}


@torch.no_grad()
def test_alignment_brings_queries_back(model: OmgLlava, samples: list[EncodedSample]) -> None:
    batch = [samples[0], samples[1], samples[3]]
    found = run(model, batch, "alignment")
    assert found.keys() == {"text", "alignment"}
    assert float(found["text"]) == pytest.approx(by_hand(model, batch)["text"], rel=1e-4)
    n = total = 0.0
    for sample in batch:
        [percept] = model.perceive(sample.pixels[None])
        owned = np.bincount(percept.prior.owner.numpy(), minlength=len(percept.objects))
        for query, count in zip(percept.objects, owned, strict=True):
            if count < len(percept.prior.owner):
                back = torch.cat(model.text_projector(model.projector.query(query[None])), dim=-1)[0]
                total += float((back - query).double().square().sum())
                n += len(query)
    assert n > 100
    assert float(found["alignment"]) == pytest.approx(10 * total / n, rel=1e-4)


@torch.no_grad()
def test_a_query_that_owns_the_picture_is_not_aligned(
    model: OmgLlava, samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official mask, which is inverted."""
    perceive = model.perceive

    def owned_by_the_first(pixels: torch.Tensor) -> list[Percept]:
        percepts = perceive(pixels)
        priors = [dataclasses.replace(p.prior, owner=torch.zeros_like(p.prior.owner)) for p in percepts]
        return [dataclasses.replace(p, prior=prior) for p, prior in zip(percepts, priors, strict=True)]

    monkeypatch.setattr(model, "perceive", owned_by_the_first)
    [percept] = owned_by_the_first(samples[3].pixels[None])
    assert aligned_queries(percept.prior.owner, len(percept.objects)).tolist() == [False] + [True] * 11
    wanted = percept.objects[1:]
    back = torch.cat(model.text_projector(model.projector.query(wanted)), dim=-1)
    expected = 10 * float((back - wanted).square().mean())
    assert float(run(model, [samples[3]], "alignment")["alignment"]) == pytest.approx(expected, rel=1e-4)


def test_alignment_teaches_the_projectors_alone(model: OmgLlava, samples: list[EncodedSample]) -> None:
    train_only(model, ("projectors",))
    run(model, [samples[3]], "alignment")["alignment"].backward()
    taught = {name.partition(".")[0] for name, value in _gradients(model).items() if value.any()}
    assert taught == {"projector", "text_projector"}
