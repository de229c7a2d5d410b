"""What an assistant writes, draws, scores and refuses, on a lively small model."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from omg_llava.assistant import Assistant, Look, Question, Reply
from omg_llava.conversation import TEMPLATES, Turn, conversation_text, encode
from omg_llava.errors import ModelError
from omg_llava.generation import Sampling
from omg_llava.prompts import Prompt
from omg_llava.stopping import StopRule

from .lively import LIMIT, SIZES_WH, pictures, questions, rectangle
from .plain_path import PlainPath

POINT = Prompt("point", np.array([10.0, 20.0], np.float32))
BOX = Prompt("box", np.array([3.0, 5.0, 40.0, 30.0], np.float32))
MASK = Prompt("mask", rectangle(*SIZES_WH[0], (20, 10, 50, 40)))


def ask(assistant: Assistant, look: Look, text: str, *, limit: int = LIMIT, **changes: Any) -> Reply:
    """One question alone."""
    changes.setdefault("sampling", Sampling(limit))
    return assistant.ask([(look, Question(text, **changes))])[0]


@pytest.fixture(scope="module")
def path(lively: Assistant) -> PlainPath:
    """About the first picture."""
    return PlainPath(lively.model, lively.tokenizer, pictures()[0])


@pytest.fixture(scope="module")
def with_masks(lively: Assistant, looks: list[Look]) -> Reply:
    """The answer to question 1, which holds several `[SEG]` and ends by itself."""
    number, question = questions()[1]
    return lively.ask([(looks[number], question)])[0]


def _ids(assistant: Assistant, text: str) -> list[int]:
    return assistant.tokenizer.encode(text, add_special_tokens=False)


# [SEG] and masks


def test_every_seg_has_its_own_mask(with_masks: Reply) -> None:
    assert with_masks.text.count("[SEG]") == len(with_masks.masks) > 1
    assert all(mask.shape == SIZES_WH[1][::-1] and mask.dtype == torch.bool for mask in with_masks.masks)
    assert len({mask.numpy().tobytes() for mask in with_masks.masks}) == len(with_masks.masks)


def test_a_seg_that_the_limit_made_the_last_token_has_no_mask(
    lively: Assistant, looks: list[Look], with_masks: Reply
) -> None:
    number, question = questions()[1]
    ids = _ids(lively, with_masks.text)
    for count, place in enumerate([i for i, token in enumerate(ids) if token == lively.model.special.seg]):
        for limit, expected in ((place + 1, count), (place + 2, count + 1)):
            cut = ask(lively, looks[number], question.text, limit=limit)
            assert cut.text == lively.tokenizer.decode(ids[:limit])
            assert cut.n_output_tokens == limit
            assert len(cut.masks) == expected
            assert all(map(torch.equal, cut.masks, with_masks.masks))


def test_plain_text_has_no_special_tokens(lively: Assistant, looks: list[Look], with_masks: Reply) -> None:
    assert with_masks.text.endswith("<|im_end|>")
    assert "[SEG]" not in with_masks.plain_text
    assert "<" not in with_masks.plain_text
    assert with_masks.plain_text == with_masks.text.replace("[SEG]", "").replace("<|im_end|>", "").strip()


def test_an_answer_of_one_token(lively: Assistant, looks: list[Look]) -> None:
    reply = ask(lively, looks[0], "What is it?", limit=1)
    assert (reply.n_output_tokens, reply.finish, reply.masks) == (1, "length", ())


def test_no_questions_no_answers(lively: Assistant) -> None:
    assert lively.ask([]) == []


# Sampling


def _sampled(seed: int, **changes: Any) -> Sampling:
    return dataclasses.replace(Sampling(LIMIT, temperature=0.9, seed=seed), **changes)


def test_sampling_is_repeated_by_its_seed_alone(lively: Assistant, looks: list[Look]) -> None:
    asked = [(looks[0], Question("What is it?", sampling=_sampled(seed))) for seed in range(4)]
    alone = [lively.ask([pair])[0].text for pair in asked]
    assert len(set(alone)) == 4
    assert [lively.ask([pair])[0].text for pair in asked] == alone
    beside = [(looks[number], question) for number, question in questions()]
    mixed = lively.ask([asked[2], *beside[:3], asked[0], *beside[3:], asked[3], asked[1]])
    assert [mixed[place].text for place in (4, 11, 0, 10)] == alone


def test_a_greedy_row_beside_sampled_ones_stays_greedy(lively: Assistant, looks: list[Look], with_masks: Reply) -> None:
    number, question = questions()[1]
    sampled = dataclasses.replace(question, sampling=_sampled(3))
    replies = lively.ask([(looks[number], sampled), (looks[number], question)])
    assert replies[1].text == with_masks.text != replies[0].text


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}, {"temperature": 1e-40}])
def test_the_narrowest_sampling_is_greedy(
    lively: Assistant, looks: list[Look], with_masks: Reply, changes: dict[str, Any]
) -> None:
    number, question = questions()[1]
    assert ask(lively, looks[number], question.text, sampling=_sampled(5, **changes)).text == with_masks.text


def test_sampled_tokens_are_as_frequent_as_they_are_probable(
    lively: Assistant, looks: list[Look], path: PlainPath
) -> None:
    """The first token: softmax over the best `top_k`, of these the smallest set that reaches `top_p`."""
    settings = {"temperature": 1.5, "top_k": 12, "top_p": 0.8}
    question = Question("What is it?")
    logits = path.logits(path.prompt_embeds(question), [])[-1].double() / settings["temperature"]
    order = logits.argsort(descending=True)[: settings["top_k"]]
    shares = logits[order].softmax(dim=0)
    n_kept = next(n for n in range(1, 99) if shares[:n].sum() >= settings["top_p"])
    assert 2 < n_kept < settings["top_k"]
    expected = dict(zip(order[:n_kept].tolist(), (shares[:n_kept] / shares[:n_kept].sum()).tolist(), strict=True))
    n = 600
    rows = [dataclasses.replace(question, sampling=Sampling(1, seed=seed, **settings)) for seed in range(n)]
    found = Counter(
        _ids(lively, reply.text)[0]
        for start in range(0, n, 200)
        for reply in lively.ask([(looks[0], row) for row in rows[start : start + 200]])
    )
    assert set(found) == set(expected)
    for token, share in expected.items():
        assert abs(found[token] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


# Stop strings


@pytest.fixture(scope="module")
def cut(lively: Assistant, with_masks: Reply) -> tuple[str, str]:
    """A string of two letters in the middle of question 1's answer, and what stands before its first place."""
    text = with_masks.text
    stop = next(pair for pair in re.findall("(?<=])[a-z]{2}", text) if "[SEG]" in text.partition(pair)[0])
    before = text.partition(stop)[0]
    return stop, before


def test_a_stop_string_of_several_tokens_ends_the_answer_before_it(
    lively: Assistant, looks: list[Look], cut: tuple[str, str]
) -> None:
    number, question = questions()[1]
    stop, before = cut
    stopped = ask(lively, looks[number], question.text, stop=("never said", stop))
    assert stopped.text == before
    assert stopped.plain_text == before.replace("[SEG]", "")
    assert stopped.finish == "stop"
    assert stopped.n_output_tokens == len(_ids(lively, before)) + 2
    assert len(stopped.masks) == before.count("[SEG]")


def test_a_seg_that_a_stop_string_cut_off_has_no_mask(lively: Assistant, looks: list[Look], with_masks: Reply) -> None:
    number, question = questions()[1]
    stop = next(iter(re.findall(r"\[SEG\][a-z]", with_masks.text)))
    stopped = ask(lively, looks[number], question.text, stop=(stop,))
    assert stopped.text == with_masks.text.partition(stop)[0]
    assert len(stopped.masks) == stopped.text.count("[SEG]")


def test_a_stop_string_ends_its_own_row_only(
    lively: Assistant, looks: list[Look], with_masks: Reply, cut: tuple[str, str]
) -> None:
    number, question = questions()[1]
    stopped = dataclasses.replace(question, stop=cut[:1])
    replies = lively.ask([(looks[number], stopped), (looks[number], question), (looks[number], stopped)])
    assert [reply.text for reply in replies] == [cut[1], with_masks.text, cut[1]]


@pytest.mark.parametrize("word", ["\n\n", "a\nb", "Q:", "word " * 20, "né", "\n", "<|end|>"])
def test_stop_strings_of_all_kinds(lively: Assistant, word: str) -> None:
    ids = _ids(lively, f"some text {word}")
    rule = StopRule(lively.tokenizer, (), (), (word,))
    ends = [rule.ends(ids[: n + 1]) for n in range(len(ids))]
    assert ends[-1]
    assert not any(ends[:-1])
    assert rule.cut(f"some text {word} and {word}") == "some text "
    assert rule.cut("nothing of the kind") == "nothing of the kind"
    assert StopRule(lively.tokenizer, (), (), ("third", word, "at")).cut(f"first {word} third at") == "first "


def test_an_empty_stop_string_ends_nothing(lively: Assistant, looks: list[Look], with_masks: Reply) -> None:
    number, question = questions()[1]
    assert ask(lively, looks[number], question.text, stop=("",)).text == with_masks.text


def test_end_tokens_end_an_answer(lively: Assistant) -> None:
    rule = StopRule(lively.tokenizer, {2}, ("<|im_end|>",))
    assert rule.ends(_ids(lively, "abc</s>"))
    assert rule.ends(_ids(lively, "abc<|im_end|>"))
    assert not rule.ends(_ids(lively, "<|im_end|>abc"))
    assert not rule.ends(_ids(lively, "abc<|end|>"))


# Choices


CHOICES = ("a", "a dog", "two cats and <p> a dog </p> [SEG].", "zebra", "a")


def test_choices_are_scored_as_by_one_pass_over_each(lively: Assistant, looks: list[Look], path: PlainPath) -> None:
    question = Question("Who is <region>?", (BOX,), history=(Turn("user", "Hello"), Turn("assistant", "Yes?")))
    found = lively.score_choices(looks[0], question, CHOICES)
    for (total, n_tokens), choice in zip(found, CHOICES, strict=True):
        ids = _ids(lively, choice)
        prompt = path.prompt_embeds(question)
        logits = path.logits(prompt, ids)[len(prompt) - 1 : -1].double().log_softmax(dim=-1)
        expected = sum(float(row[token]) for row, token in zip(logits, ids, strict=True))
        assert n_tokens == len(ids)
        assert total == pytest.approx(expected, abs=1e-3, rel=1e-5)
    assert found[0] == pytest.approx(found[4])
    assert len({round(total, 3) for total, _ in found}) == 4


def test_a_choice_scores_the_same_alone(lively: Assistant, looks: list[Look]) -> None:
    question = Question("Who?")
    together = lively.score_choices(looks[3], question, CHOICES)
    for choice, (total, n_tokens) in zip(CHOICES, together, strict=True):
        [(alone, n_alone)] = lively.score_choices(looks[3], question, [choice])
        assert n_alone == n_tokens
        assert alone == pytest.approx(total, abs=1e-4)


def test_the_probabilities_of_all_first_tokens_sum_to_one(lively: Assistant, looks: list[Look]) -> None:
    spoken = [lively.tokenizer.decode([token]) for token in range(10, 138)]
    choices = [text for text in spoken if len(_ids(lively, text)) == 1]
    assert len(choices) > 90
    scores = lively.score_choices(looks[0], Question("Who?"), choices)
    assert 0.3 < sum(np.exp(total) for total, _ in scores) < 1


def test_a_choice_without_tokens_is_an_error(lively: Assistant, looks: list[Look]) -> None:
    with pytest.raises(ModelError, match="the choice"):
        lively.score_choices(looks[0], Question("Who?"), ["a", ""])


@pytest.mark.parametrize("text", ["<mark>", "a <region> b"])
def test_a_choice_with_a_placeholder_is_an_error(lively: Assistant, looks: list[Look], text: str) -> None:
    """`<mark>` has no row in the vocabulary, and nothing could stand for either."""
    with pytest.raises(ModelError, match=text.strip("ab ")):
        lively.score_choices(looks[0], Question("Who?"), ["a", text])


def test_scoring_needs_no_room_for_an_answer(lively: Assistant, looks: list[Look]) -> None:
    limit = lively.model.config.language.max_positions
    [(total, _)] = lively.score_choices(looks[0], Question("Who?", sampling=Sampling(limit)), ["a"])
    assert total < 0


# Conversations


def test_history_reaches_the_model(lively: Assistant, looks: list[Look]) -> None:
    turns = (Turn("user", "Who is there?"), Turn("assistant", "A dog."))
    other = (Turn("user", "Who is there?"), Turn("assistant", "A cat."))
    replies = [ask(lively, looks[0], "And where?", history=history) for history in ((), turns, other)]
    assert len({reply.text for reply in replies}) == 3
    assert replies[0].n_input_tokens < replies[1].n_input_tokens == replies[2].n_input_tokens


def test_one_start_token(lively: Assistant) -> None:
    """The tokenizer would put one before every text."""
    turns = [Turn("user", "Who?"), Turn("assistant", "A dog."), Turn("user", "Where?")]
    text = conversation_text(TEMPLATES["internlm2"], turns, has_image=True)
    ids = encode(lively.tokenizer, text, has_image=True)
    assert lively.tokenizer.encode("x")[0] == lively.tokenizer.bos_token_id
    assert ids.count(lively.tokenizer.bos_token_id) == 1
    assert ids[0] == lively.tokenizer.bos_token_id
    assert ids.count(-200) == 1


@pytest.mark.parametrize("text", ["Is <image> a word?", "<image>", "<image><image>\n<image>"])
def test_an_image_that_a_user_typed_stays_text(
    lively: Assistant, looks: list[Look], path: PlainPath, text: str
) -> None:
    question = Question(text, sampling=Sampling(LIMIT))
    [reply] = lively.ask([(looks[0], question)])
    assert reply.text == lively.tokenizer.decode(path.answer(question).ids)
    assert reply.n_input_tokens == ask(lively, looks[0], "").n_input_tokens + len(text)


def test_an_image_in_the_history_stays_text(lively: Assistant, looks: list[Look], path: PlainPath) -> None:
    turns = (Turn("user", "What is <image>?"), Turn("assistant", "<image>"))
    question = Question("And <image>?", history=turns, sampling=Sampling(LIMIT))
    assert lively.ask([(looks[0], question)])[0].text == lively.tokenizer.decode(path.answer(question).ids)


def test_prompts_of_mixed_kinds_each_take_their_place(lively: Assistant, looks: list[Look], path: PlainPath) -> None:
    marked = dataclasses.replace(BOX, as_mark=True)
    regional = dataclasses.replace(POINT, value=np.array([60.0, 2.0], np.float32), as_mark=False)
    texts = set()
    for prompts in [(MASK, POINT, BOX, marked, regional), (BOX, marked, MASK, POINT, regional)]:
        question = Question("<region>, <mark>? <region> <mark> or <region>", prompts, sampling=Sampling(LIMIT))
        [reply] = lively.ask([(looks[0], question)])
        assert reply.text == lively.tokenizer.decode(path.answer(question).ids)
        texts.add(reply.text)
    assert len(texts) == 2


def test_placeholders_in_the_history_take_their_prompts(lively: Assistant, looks: list[Look], path: PlainPath) -> None:
    turns = (Turn("user", "What is <region>?"), Turn("assistant", "A dog."))
    question = Question("And <region>?", (BOX, MASK), turns, Sampling(LIMIT))
    assert lively.ask([(looks[0], question)])[0].text == lively.tokenizer.decode(path.answer(question).ids)


@pytest.mark.parametrize(
    ("text", "prompts", "message"),
    [
        ("What is <mark>?", (), "1 <mark> for 0 prompts"),
        ("What is <region>?", (), "1 <region> for 0 prompts"),
        ("What is <region>?", (BOX, MASK), "1 <region> for 2 prompts"),
        ("What is <region> and <region>?", (BOX,), "2 <region> for 1 prompts"),
        ("What is <region>?", (POINT,), "1 <region> for 0 prompts"),
        ("What is it?", (POINT,), "0 <mark> for 1 prompts"),
    ],
)
def test_placeholders_and_prompts_must_agree(
    lively: Assistant, looks: list[Look], text: str, prompts: tuple[Prompt, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        ask(lively, looks[0], text, prompts=prompts)


@pytest.mark.parametrize("token", ["<mark>", "<region>"])
def test_a_placeholder_in_the_history_without_a_prompt_is_an_error(
    lively: Assistant, looks: list[Look], token: str
) -> None:
    turns = (Turn("user", f"What is {token}?"), Turn("assistant", "A dog."))
    with pytest.raises(ModelError, match=f"1 {token} for 0 prompts"):
        ask(lively, looks[0], "And now?", history=turns)


def _point(*xy: float) -> Prompt:
    return Prompt("point", np.array(xy, np.float32))


def _box(*xyxy: float) -> Prompt:
    return Prompt("box", np.array(xyxy, np.float32))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (_point(70, 10), "prompt 2"),
        (_point(10, 60), "inside the picture of 64 x 48"),
        (_point(-5, 10), "lies outside"),
        (_point(float("nan"), 10), "nan"),
        (_point(10, float("inf")), "inf"),
        (_box(10, 10, 70, 20), "lies outside"),
        (_box(10, 10, 10, 20), "empty"),
        (_box(20, 10, 10, 20), "empty"),
        (Prompt("mask", rectangle(48, 64, (0, 0, 5, 5))), "48 x 64 pixels"),
    ],
)
def test_a_prompt_that_is_not_on_the_picture_is_an_error(
    lively: Assistant, looks: list[Look], prompt: Prompt, message: str
) -> None:
    names = " ".join(each.placeholder for each in (BOX, prompt))
    with pytest.raises(ModelError, match=message):
        ask(lively, looks[0], names, prompts=(BOX, prompt))


def test_a_prompt_on_the_very_border_is_fine(lively: Assistant, looks: list[Look]) -> None:
    width, height = SIZES_WH[0]
    prompts = (_box(0, 0, width, height), _point(width, height), _point(0, 0))
    assert ask(lively, looks[0], "<region> <mark> <mark>", prompts=prompts).n_output_tokens


def test_the_context_is_used_to_the_last_token_and_not_beyond(lively: Assistant, looks: list[Look]) -> None:
    limit = lively.model.config.language.max_positions
    used = ask(lively, looks[0], "", limit=1).n_input_tokens
    fits = limit - used - 5
    assert ask(lively, looks[0], "x" * fits, limit=5).n_input_tokens == limit - 5
    for text, history in (("x" * (fits + 1), ()), ("x" * fits, (Turn("user", "a"), Turn("assistant", "b")))):
        with pytest.raises(ModelError, match=rf"\d+ tokens(.|\n)*at most {limit}"):
            ask(lively, looks[0], text, limit=5, history=history)


def test_a_long_answer_uses_its_prefix_no_differently(lively: Assistant, looks: list[Look], path: PlainPath) -> None:
    """Further than any answer above: 80 tokens, a stop word that never comes."""
    question = Question("Tell me all", sampling=Sampling(80))
    expected = path.answer(question)
    assert ask(lively, looks[0], "Tell me all", limit=80).text == lively.tokenizer.decode(expected.ids)
