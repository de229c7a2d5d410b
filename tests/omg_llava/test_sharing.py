"""What questions share changes nothing: prefixes, batches, decoders against the plain path, one token at a time."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from omg_llava.assistant import Assistant, Look, Question, Reply
from omg_llava.config import ablation_names
from omg_llava.generation import generate

from .lively import FAMILIES, lively_model, pictures, questions, small_config
from .plain_path import PlainAnswer, PlainPath


@pytest.fixture(scope="module")
def alone(lively: Assistant, looks: list[Look]) -> list[Reply]:
    """Every question asked by itself."""
    return [lively.ask([(looks[number], question)])[0] for number, question in questions()]


@pytest.fixture(scope="module")
def plain(lively: Assistant) -> list[PlainAnswer]:
    """Every question the plain way."""
    return [_plain(lively, number, question) for number, question in questions()]


def _plain(assistant: Assistant, number: int, question: Question) -> PlainAnswer:
    return PlainPath(assistant.model, assistant.tokenizer, pictures()[number]).answer(question)


def _same(found: Reply, expected: Reply) -> None:
    assert found.text == expected.text
    assert (found.finish, found.n_input_tokens, found.n_output_tokens) == (
        expected.finish,
        expected.n_input_tokens,
        expected.n_output_tokens,
    )
    _same_masks(found, expected.masks)


def _same_masks(found: Reply, expected: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> None:
    assert len(found.masks) == len(expected)
    for mask, wanted in zip(found.masks, expected, strict=True):
        assert torch.equal(mask, wanted), f"{int((mask != wanted).sum())} of {mask.numel()} pixels differ"


def _same_as_plain(assistant: Assistant, look: Look, question: Question, expected: PlainAnswer) -> Reply:
    """Ids, states and masks of one question; returns the reply."""
    model = assistant.model
    prepared = assistant.prepare(look, question)
    [written] = generate(model.llm, model.seg_state, [prepared.row], seg_id=model.special.seg)
    assert written.ids == expected.ids
    states = torch.stack(written.seg_states) if written.seg_states else expected.seg_states[:0]
    torch.testing.assert_close(states, expected.seg_states, atol=1e-4, rtol=1e-4)
    [reply] = assistant.answer([prepared])
    assert reply.text == assistant.tokenizer.decode(expected.ids)
    _same_masks(reply, expected.masks)
    return reply


def test_the_model_is_lively_and_sure_of_itself(
    alone: list[Reply], plain: list[PlainAnswer], looks: list[Look]
) -> None:
    """Otherwise the tests below would compare nothing."""
    assert len({reply.text for reply in alone}) == len(alone)
    assert {reply.finish for reply in alone} == {"stop", "length"}
    counts = [len(reply.masks) for reply in alone]
    assert len(set(counts)) > 3
    assert len({look.prefix.length for look in looks}) > 1
    assert all(0 < int(mask.sum()) < mask.numel() for reply in alone for mask in reply.masks)
    assert min(answer.margin for answer in plain) > 1e-3


def test_a_batch_answers_as_single_questions_do(lively: Assistant, looks: list[Look], alone: list[Reply]) -> None:
    together = lively.ask([(looks[number], question) for number, question in questions()])
    for found, expected in zip(together, alone, strict=True):
        _same(found, expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_batch_does_not_matter(
    lively: Assistant, looks: list[Look], alone: list[Reply], seed: int
) -> None:
    order = random.Random(seed).sample(range(8), 8)
    asked = questions()
    together = lively.ask([(looks[asked[place][0]], asked[place][1]) for place in order])
    for found, place in zip(together, order, strict=True):
        _same(found, alone[place])


def test_a_question_asked_twice_in_a_batch_gets_one_answer_twice(
    lively: Assistant, looks: list[Look], alone: list[Reply]
) -> None:
    number, question = questions()[1]
    for found in lively.ask([(looks[number], question)] * 3):
        _same(found, alone[1])


def test_two_looks_at_one_picture_are_as_one(lively: Assistant, looks: list[Look], alone: list[Reply]) -> None:
    again = lively.look(pictures()[1])
    first, second = lively.ask([(looks[1], questions()[1][1]), (again, questions()[4][1])])
    _same(first, alone[1])
    _same(second, alone[4])


@pytest.mark.parametrize("index", range(8))
def test_the_cached_prefix_changes_nothing(
    lively: Assistant, looks: list[Look], plain: list[PlainAnswer], index: int
) -> None:
    number, question = questions()[index]
    _same_as_plain(lively, looks[number], question, plain[index])


def test_input_tokens_are_counted_with_the_picture(lively: Assistant, looks: list[Look], alone: list[Reply]) -> None:
    for (number, question), reply in zip(questions(), alone, strict=True):
        path = PlainPath(lively.model, lively.tokenizer, pictures()[number])
        assert reply.n_input_tokens == len(path.prompt_embeds(question))


def _all_as_plain(assistant: Assistant) -> None:
    """Three questions, alone and in a batch; some must hold masks."""
    images = pictures()
    made = {number: assistant.look(images[number]) for number in (0, 1)}
    asked = [questions()[index] for index in (1, 2, 4)]
    expected = [_plain(assistant, number, question) for number, question in asked]
    assert min(answer.margin for answer in expected) > 1e-4
    alone = [
        _same_as_plain(assistant, made[number], question, answer)
        for (number, question), answer in zip(asked, expected, strict=True)
    ]
    assert sum(len(reply.masks) for reply in alone) > 1
    for found, reply in zip(assistant.ask([(made[n], question) for n, question in asked]), alone, strict=True):
        _same(found, reply)


@pytest.mark.parametrize("own_decoder", [False, True], ids=["frozen", "own"])
@pytest.mark.parametrize("embedding", ["last", "mean", "concat"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_seg_options(family: str, embedding: str, own_decoder: bool) -> None:
    config = small_config(family=family)
    seg_token = dataclasses.replace(config.seg_token, embedding=embedding, own_decoder=own_decoder)
    _all_as_plain(Assistant(*lively_model(dataclasses.replace(config, seg_token=seg_token))))


@pytest.mark.parametrize("name", ablation_names())
def test_ablations(name: str) -> None:
    _all_as_plain(Assistant(*lively_model(small_config(ablation=name))))
