"""Samples as tokens and tensors, against what xtuner's rules make of them when written down anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omg_llava.conversation import TEMPLATES, Turn, conversation_text, encode
from omg_llava.errors import ModelError
from omg_llava.prompts import Prompt
from omg_llava.training.encoding import EncodedSample, Encoder, encode_exchanges
from omg_llava.training.samples import Exchange, TrainingSample
from omg_llava.untrained import byte_tokenizer

from ..lively import lively_model, picture, rectangle, small_config
from .byte_text import ids_of

SIDE = 128
LONG = 10_000
TURNS = (
    Exchange("Please segment the dog in this image.", "<p> Dog </p> [SEG]."),
    Exchange("Wo sind die Bäume? 🌳\n\nAnd <|im_end|>, typed.", "Here [SEG] and there [SEG], </s> typed."),
    Exchange("", "Nothing."),
    Exchange("region1 <region>, Mark 1 <mark> ?", ""),
)
ASKED = {
    "internlm2": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "phi3": "<|user|>\n{}<|end|>\n<|assistant|>\n",
}
ASKED["qwen2"] = ASKED["internlm2"]
ENDS = {"internlm2": "<|im_end|>", "qwen2": "<|im_end|>", "phi3": "<|end|>"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, small_config(), LONG)


def expected(
    exchanges: Sequence[Exchange], family: str = "internlm2", *, has_image: bool = True, start: Sequence[int] = (1,)
) -> tuple[list[int], list[int]]:
    """Ids and labels by the rules: a start token once; questions and what stands between turns are not learned."""
    ids, labels = list(start), [-100] * len(start)
    for number, exchange in enumerate(exchanges):
        before, behind = ASKED[family].split("{}")
        asked = ids_of(before) + ([-200, *ids_of("\n")] if has_image and number == 0 else [])
        asked += ids_of(exchange.question + behind)
        answered = ids_of(exchange.answer + ENDS[family])
        ids += asked + answered + ids_of("\n")
        labels += [-100] * len(asked) + answered + [-100]
    return ids, labels


def encoded(
    tokenizer: Any,
    exchanges: Sequence[Exchange],
    family: str = "internlm2",
    *,
    has_image: bool = True,
    limit: int = LONG,
) -> tuple[list[int], list[int]]:
    ids, labels = encode_exchanges(tokenizer, TEMPLATES[family], exchanges, has_image=has_image, limit=limit)
    assert ids.dtype == labels.dtype == torch.int64
    return ids.tolist(), labels.tolist()


# Ids and labels


@pytest.mark.parametrize("has_image", [True, False], ids=["picture", "text alone"])
@pytest.mark.parametrize("family", ["internlm2", "phi3", "qwen2"])
def test_a_conversation_by_the_rules(tokenizer: Any, family: str, has_image: bool) -> None:
    for n_turns in range(1, len(TURNS) + 1):
        found = encoded(tokenizer, TURNS[:n_turns], family, has_image=has_image)
        assert found == expected(TURNS[:n_turns], family, has_image=has_image)
    ids, labels = found
    assert ids.count(-200) == has_image
    learned = [token for token in labels if token != -100]
    assert tokenizer.decode(learned) == "".join(turn.answer + ENDS[family] for turn in TURNS)


def test_without_a_start_token_there_is_none(tokenizer: Any) -> None:
    bare = byte_tokenizer()
    bare.bos_token = None
    assert encoded(bare, TURNS) == expected(TURNS, start=())


def test_a_tokenizer_that_adds_tokens_is_not_asked_to() -> None:
    _, adding = lively_model(small_config())
    assert adding.encode("x")[0] == 1
    assert encoded(adding, TURNS) == expected(TURNS)


@pytest.mark.parametrize("has_image", [True, False], ids=["picture", "text alone"])
def test_what_is_learned_follows_the_prompt_of_evaluation(has_image: bool) -> None:
    """The ids before each answer are those that the model is asked with."""
    _, adding = lively_model(small_config())
    ids, labels = encoded(adding, TURNS, has_image=has_image)
    template = TEMPLATES["internlm2"]
    turns: list[Turn] = []
    for number, exchange in enumerate(TURNS):
        turns.append(Turn("user", exchange.question))
        asked = encode(adding, conversation_text(template, turns, has_image=has_image), has_image=has_image)
        assert ids[: len(asked)] == asked
        answered = ids_of(exchange.answer + ENDS["internlm2"])
        assert labels[len(asked) : len(asked) + len(answered) + 1] == [*answered, -100]
        turns.append(Turn("assistant", exchange.answer))
        assert number < len(TURNS)


def test_beyond_the_limit_all_is_cut(tokenizer: Any) -> None:
    """The picture counts as one."""
    ids, labels = expected(TURNS[:2])
    for limit in range(1, len(ids) + 3):
        assert encoded(tokenizer, TURNS[:2], limit=limit) == (ids[:limit], labels[:limit])


# Pictures, masks, prompts


def save(folder: Path, width: int, height: int) -> Path:
    path = folder / f"{width}x{height}.png"
    picture(width, height).save(path)
    return path


def placed(mask: np.ndarray) -> np.ndarray:
    """A map in the middle of a square, the nearest cell of it for each of the network's pixels."""
    height, width = mask.shape
    edge = max(width, height)
    square = np.zeros((edge, edge), mask.dtype)
    top, left = (edge - height) // 2, (edge - width) // 2
    square[top : top + height, left : left + width] = mask
    nearest = np.arange(SIDE) * edge // SIDE
    return square[np.ix_(nearest, nearest)]


def placed_pixels(path: Path) -> np.ndarray:
    original = np.asarray(Image.open(path))
    height, width = original.shape[:2]
    edge = max(width, height)
    square = np.empty((edge, edge, 3), np.uint8)
    square[:] = (122, 116, 104)
    top, left = (edge - height) // 2, (edge - width) // 2
    square[top : top + height, left : left + width] = original
    resized = np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    scaled = (resized / 255 - (0.4814, 0.4578, 0.4082)) / (0.2686, 0.2613, 0.2757)
    return scaled.transpose(2, 0, 1)


def counts_mask(width: int, height: int) -> np.ndarray:
    """Two parts that overlap: the pixels of both hold 2."""
    first, second = rectangle(width, height, (3, 2, 30, 20)), rectangle(width, height, (20, 11, 39, 29))
    return first.astype(np.uint8) + second


SIZES_WH = ((64, 48), (41, 100), (64, 64), (200, 61))


@pytest.mark.parametrize("size_wh", SIZES_WH, ids=str)
def test_pixels_and_masks_lie_in_the_square(encoder: Encoder, tmp_path: Path, size_wh: tuple[int, int]) -> None:
    masks = (
        counts_mask(*size_wh),
        np.zeros(size_wh[::-1], np.uint8),
        rectangle(*size_wh, (0, 0, 41, 48)).astype(np.uint8),
    )
    sample = TrainingSample(save(tmp_path, *size_wh), TURNS[:2], masks=masks)
    found = encoder.encode(sample)
    assert found.pixels.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(found.pixels.numpy(), placed_pixels(sample.picture), atol=1e-5)
    assert found.masks.dtype == torch.uint8
    assert np.array_equal(found.masks.numpy(), np.stack([placed(mask) for mask in masks]))
    assert set(found.masks[0].unique().tolist()) == {0, 1, 2}
    assert (found.ids.tolist(), found.labels.tolist()) == expected(TURNS[:2])


def mixed_prompts(width: int, height: int) -> tuple[Prompt, ...]:
    """Every kind twice, in no order; two speak of themselves in the way of another kind."""
    return (
        Prompt("mask", rectangle(width, height, (10, 20, 30, 44))),
        Prompt("point", np.array([10.5, 20.0], np.float32)),
        Prompt("box", np.array([3.0, 5.0, 40.0, 30.0], np.float32)),
        Prompt("point", np.array([0.0, 47.0], np.float32), as_mark=False),
        Prompt("mask", rectangle(width, height, (0, 0, 4, 4))),
        Prompt("box", np.array([0.0, 0.0, float(width), float(height)], np.float32), as_mark=True),
    )


def test_prompts_of_several_kinds_keep_their_order(encoder: Encoder, tmp_path: Path) -> None:
    width, height = 64, 48
    prompts = mixed_prompts(width, height)
    found = encoder.encode(TrainingSample(save(tmp_path, width, height), TURNS[3:], prompts))
    assert found.is_mark.dtype == torch.bool
    assert found.is_mark.tolist() == [False, True, False, False, False, True]
    values: dict[int, torch.Tensor] = {}
    for places, own in found.prompts:
        assert own.input_hw == (SIDE, SIDE) and own.place_hw is None
        assert len(places) == len(own.values)
        assert {prompts[place].kind for place in places} == {own.kind}
        values |= dict(zip(places, own.values, strict=True))
    assert sorted(values) == list(range(len(prompts)))
    top, scale = (width - height) // 2, SIDE / width
    for place, prompt in enumerate(prompts):
        if prompt.kind == "mask":
            wanted = placed(prompt.value.astype(np.uint8))
        else:
            wanted = (prompt.value.reshape(-1, 2) + np.array([0, top])).reshape(-1) * scale
        np.testing.assert_allclose(values[place].numpy(), wanted, atol=1e-5)


def test_text_alone_has_no_picture(encoder: Encoder) -> None:
    found = encoder.encode(TrainingSample(None, TURNS[:3]))
    assert (found.ids.tolist(), found.labels.tolist()) == expected(TURNS[:3], has_image=False)
    assert torch.equal(found.pixels, torch.zeros(3, SIDE, SIDE))
    assert found.masks.shape == (0, SIDE, SIDE)
    assert found.prompts == () and len(found.is_mark) == 0


def test_a_picture_that_is_left_out_is_not_opened(encoder: Encoder, tmp_path: Path) -> None:
    sample = TrainingSample(tmp_path / "nowhere.png", TURNS[:2], masks=(counts_mask(64, 48),) * 3)
    found = encoder.encode(sample, has_pixels=False)
    assert (found.ids.tolist(), found.labels.tolist()) == expected(TURNS[:2], has_image=False)
    assert not found.pixels.any() and len(found.masks) == 0 and found.prompts == ()


def test_a_picture_without_masks_has_none(encoder: Encoder, tmp_path: Path) -> None:
    assert encoder.encode(TrainingSample(save(tmp_path, 64, 48), TURNS[2:3])).masks.shape == (0, SIDE, SIDE)


def test_the_encoder_knows_its_limit_and_its_family(tokenizer: Any, tmp_path: Path) -> None:
    encoder = Encoder(tokenizer, small_config(family="phi3"), 40)
    found = encoder.encode(TrainingSample(save(tmp_path, 64, 48), TURNS))
    ids, labels = expected(TURNS, "phi3")
    assert (found.ids.tolist(), found.labels.tolist()) == (ids[:40], labels[:40])


def test_a_prompt_beside_the_picture_is_a_model_error(encoder: Encoder, tmp_path: Path) -> None:
    prompts = (Prompt("point", np.array([63.0, 60.0], np.float32)),)
    with pytest.raises(ModelError, match="outside"):
        encoder.encode(TrainingSample(save(tmp_path, 64, 48), TURNS[3:], prompts))


@pytest.mark.parametrize("size_wh", [(48, 64), (64, 64), (32, 24)], ids=str)
def test_a_mask_of_another_size_than_the_picture_is_a_model_error(
    encoder: Encoder, tmp_path: Path, size_wh: tuple[int, int]
) -> None:
    """A picture that was turned or shrunk after it was annotated must not be learned from."""
    sample = TrainingSample(
        save(tmp_path, 64, 48), TURNS[:1], masks=(rectangle(*size_wh, (3, 3, 20, 20)).astype(np.uint8),)
    )
    with pytest.raises(ModelError, match="mask"):
        encoder.encode(sample)


@pytest.mark.parametrize("content", [None, b"no picture", "cut"], ids=["missing", "no picture", "cut off"])
def test_a_picture_that_cannot_be_read_is_a_model_error(
    encoder: Encoder, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "broken.png"
    if content == "cut":
        path.write_bytes(save(tmp_path, 64, 48).read_bytes()[:150])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        encoder.encode(TrainingSample(path, TURNS[:1], masks=(counts_mask(64, 48),)))
    assert "broken.png" in str(caught.value)


# Batches


def test_a_batch_is_padded_at_the_right(encoder: Encoder, tmp_path: Path) -> None:
    samples: list[EncodedSample] = [
        encoder.encode(TrainingSample(save(tmp_path, 64, 48), TURNS[:2], masks=(counts_mask(64, 48),) * 3)),
        encoder.encode(TrainingSample(None, TURNS[2:3])),
        encoder.encode(TrainingSample(save(tmp_path, 41, 100), TURNS[3:], mixed_prompts(41, 100))),
    ]
    batch = encoder.collate(samples)
    lengths = [len(sample.ids) for sample in samples]
    assert batch.ids.shape == batch.labels.shape == batch.attention_mask.shape == (3, max(lengths))
    for row, sample in enumerate(samples):
        end = lengths[row]
        assert torch.equal(batch.ids[row, :end], sample.ids) and not batch.ids[row, end:].any()
        assert torch.equal(batch.labels[row, :end], sample.labels) and (batch.labels[row, end:] == -100).all()
        assert batch.attention_mask[row].tolist() == [True] * end + [False] * (max(lengths) - end)
        assert torch.equal(batch.pixels[row], sample.pixels)
        assert batch.prompts[row] is sample.prompts
        assert batch.is_mark[row] is sample.is_mark
        assert batch.masks[row] is sample.masks


def test_a_batch_moves_as_a_whole(encoder: Encoder, tmp_path: Path) -> None:
    sample = encoder.encode(TrainingSample(save(tmp_path, 64, 48), TURNS[3:], mixed_prompts(64, 48)))
    batch = encoder.collate([sample, sample])
    moved = batch.to(torch.device("meta"), non_blocking=True)
    for name in ("ids", "labels", "attention_mask", "pixels"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    for own, other in zip(batch.prompts, moved.prompts, strict=True):
        for (places, before), (same_places, after) in zip(own, other, strict=True):
            assert (places, before.kind, before.input_hw) == (same_places, after.kind, after.input_hw)
            assert after.values.device.type == "meta" and after.values.shape == before.values.shape
    assert all(item.device.type == "meta" for item in (*moved.is_mark, *moved.masks))
