"""Variants: three families of language models, and what each option of the ablation tables changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from omg_llava.assistant import Assistant, Look, Question, Reply
from omg_llava.checkpoint import load_model, save_model
from omg_llava.config import LoraConfig, OmgLlavaConfig, load_config
from omg_llava.errors import ModelError
from omg_llava.generation import Sampling
from omg_llava.lora import without_lora
from omg_llava.model import OmgLlava, Percept
from omg_llava.preprocessing import square_pixels
from omg_llava.untrained import with_language_family
from omg_llava.visual_prompts import PromptSet

from .lively import FAMILIES, SIDE, lively_model, pictures, questions, small_config
from .plain_path import PlainPath

DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}
WINDOW = {"sliding_window": 60}


def _replies(assistant: Assistant, indices: tuple[int, ...] = (0, 1, 4)) -> list[Reply]:
    images = pictures()
    made: dict[int, Look] = {}
    asked = [questions()[index] for index in indices]
    for number, _ in asked:
        made.setdefault(number, assistant.look(images[number]))
    return assistant.ask([(made[number], question) for number, question in asked])


def _same(found: list[Reply], expected: list[Reply]) -> None:
    assert [reply.text for reply in found] == [reply.text for reply in expected]
    assert any(reply.masks for reply in expected)
    for reply, wanted in zip(found, expected, strict=True):
        assert all(map(torch.equal, reply.masks, wanted.masks))
        assert len(reply.masks) == len(wanted.masks)


def _saved_and_loaded(assistant: Assistant, folder: Path, **options: Any) -> Assistant:
    save_model(assistant.model, assistant.tokenizer, folder)
    return Assistant(*load_model(folder, **options))


def _with_lora(config: OmgLlavaConfig) -> OmgLlavaConfig:
    pytest.importorskip("peft")
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.1)
    return dataclasses.replace(config, language=dataclasses.replace(config.language, lora=lora))


@pytest.mark.parametrize(
    ("family", "settings"),
    [*((family, {}) for family in FAMILIES), ("internlm2", DYNAMIC)],
    ids=[*FAMILIES, "dynamic positions"],
)
def test_a_saved_model_answers_as_before(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Rotary frequencies are made anew, not stored."""
    before = Assistant(*lively_model(small_config(family=family, settings=settings)))
    expected = _replies(before)
    after = _saved_and_loaded(before, tmp_path / "model")
    _same(_replies(after), expected)
    assert after.model.config == before.model.config


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_that_are_kept_apart(family: str, tmp_path: Path) -> None:
    before = Assistant(*lively_model(_with_lora(small_config(family=family))))
    expected = _replies(before)
    with without_lora(before.model.llm):
        assert [reply.text for reply in _replies(before)] != [reply.text for reply in expected]
    after = _saved_and_loaded(before, tmp_path / "model")
    assert [reply.text for reply in _replies(after)] == [reply.text for reply in expected]
    names = {name.split(".")[-4] for name, _ in after.model.named_parameters() if "lora_A" in name}
    assert ("lm_head" in names) == (family == "internlm2")


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("internlm2", {"<|im_end|>", "</s>"}),
        ("phi3", {"<|end|>", "</s>"}),
        ("qwen2", {"<|im_end|>", "<|endoftext|>", "</s>"}),
    ],
)
def test_an_answer_ends_at_the_familys_own_tokens(family: str, ends: set[str]) -> None:
    """A head that says nothing but one token."""
    model, tokenizer = lively_model(small_config(family=family))
    assistant = Assistant(model, tokenizer)
    look = assistant.look(pictures()[0])
    hidden = model.llm.config.hidden_size
    model.llm.model.norm.weight.copy_(torch.zeros(hidden))
    model.llm.lm_head = torch.nn.Linear(hidden, model.llm.config.vocab_size)
    model.llm.lm_head.weight.data.zero_()
    found = set()
    for token in ("</s>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<s>", "<|im_start|>", "a"):
        model.llm.lm_head.bias.data.zero_()[tokenizer.convert_tokens_to_ids(token)] = 1
        [reply] = assistant.ask([(look, Question("Why?", sampling=Sampling(3)))])
        if reply.finish == "stop":
            assert reply.text == token
            found.add(token)
        else:
            assert reply.text == token * 3
    assert found == ends


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chat_as_the_family_writes_it(family: str, lively: Assistant) -> None:
    """The plain path writes templates of its own; three turns."""
    history = questions()[5][1].history
    question = Question("And where?", history=history, sampling=Sampling(6))
    assistant = Assistant(*lively_model(small_config(family=family)))
    path = PlainPath(assistant.model, assistant.tokenizer, pictures()[0])
    [reply] = assistant.ask([(assistant.look(pictures()[0]), question)])
    assert reply.text == assistant.tokenizer.decode(path.answer(question).ids)
    assert reply.n_input_tokens == len(path.prompt_embeds(question))


@pytest.mark.parametrize("family", ["phi3", "qwen2"])
def test_a_sliding_window_counts_tokens_and_not_padding(family: str) -> None:
    """A short question beside a long one is padded between picture and words, by more than the window here."""
    settings = {**WINDOW, "use_sliding_window": True, "max_window_layers": 0} if family == "qwen2" else WINDOW
    assistant = Assistant(*lively_model(small_config(family=family, settings=settings)))
    look = assistant.look(pictures()[0])
    texts = ["What is it?", "What is it? " * 8, "Who?"]
    asked = [(look, Question(text, sampling=Sampling(12))) for text in texts]
    alone = [assistant.ask([pair])[0] for pair in asked]
    path = PlainPath(assistant.model, assistant.tokenizer, pictures()[0])
    for (_, question), reply in zip(asked, alone, strict=True):
        assert reply.text == assistant.tokenizer.decode(path.answer(question).ids)
    assert [reply.text for reply in assistant.ask(asked)] == [reply.text for reply in alone]


def test_an_unknown_family_is_an_error() -> None:
    with pytest.raises(ModelError, match="internlm2, phi3, qwen2"):
        with_language_family(load_config("omg_llava_bytes"), "gpt")


# The options of the ablation tables; that they answer consistently is shown in test_sharing.py


def _tokens(model: OmgLlava, percept: Percept, **changes: torch.Tensor) -> torch.Tensor:
    """What the language model sees of a picture whose prior is another."""
    return model.image_tokens(dataclasses.replace(percept, prior=dataclasses.replace(percept.prior, **changes)))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """The first picture on the square, a batch of one."""
    return square_pixels(pictures()[0], small_config().image)[0][None]


@pytest.mark.parametrize(
    ("ablation", "uses_prior", "uses_queries"),
    [("table5_m0", False, False), ("table5_m1", True, False), ("table5_m2", True, True), ("table8_m1", True, True)],
)
def test_what_the_language_model_sees(
    pixels: torch.Tensor, ablation: str, uses_prior: bool, uses_queries: bool
) -> None:
    model, _ = lively_model(small_config(ablation=ablation))
    [percept] = model.perceive(pixels)
    n_cells = model.config.tokens_side**2
    tokens = model.image_tokens(percept)
    assert len(tokens) == n_cells + uses_queries * (1 + int(percept.prior.kept.sum()))
    other_prior = _tokens(model, percept, prior=percept.prior.prior + 1)
    assert torch.equal(other_prior[:n_cells], tokens[:n_cells]) != uses_prior
    if uses_queries:
        assert torch.equal(tokens[n_cells], model.projector.separator.weight[0])
        depends_on_pixels = not torch.allclose(other_prior[n_cells + 1 :], tokens[n_cells + 1 :], atol=1e-6)
        assert depends_on_pixels == (ablation == "table8_m1")
        everyone = _tokens(model, percept, kept=torch.ones_like(percept.prior.kept))
        assert len(everyone) == n_cells + 1 + model.config.segmenter.n_queries


@pytest.mark.parametrize(("ablation", "own"), [("table8_m0", False), ("table8_m2", True)])
def test_whose_projector_prompts_have(pixels: torch.Tensor, ablation: str, own: bool) -> None:
    model, _ = lively_model(small_config(ablation=ablation))
    [percept] = model.perceive(pixels)
    prompts = PromptSet("point", torch.tensor([[40.0, 50.0]]), (SIDE, SIDE))
    image, prompted = model.image_tokens(percept), model.prompt_tokens(percept, prompts)
    model.projector.query.mlp[2].bias += 1
    assert not torch.allclose(model.image_tokens(percept), image)
    assert torch.allclose(model.prompt_tokens(percept, prompts), prompted + (0 if own else 1), atol=1e-5)


@pytest.mark.parametrize(("ablation", "own"), [(None, False), ("own_decoder", True)])
def test_whose_decoder_masks_come_from(pixels: torch.Tensor, ablation: str | None, own: bool) -> None:
    model, _ = lively_model(small_config(ablation=ablation))
    [percept] = model.perceive(pixels)
    states = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    before = model.decode_seg(percept.features, states).mask_logits
    objects = model.perception.objects(percept.features).mask_logits
    model.perception.decoder.mask_embed[4].bias += 1
    assert torch.equal(model.decode_seg(percept.features, states).mask_logits, before) == own
    assert not torch.equal(model.perception.objects(percept.features).mask_logits, objects)


@pytest.mark.parametrize("layers", [(), (0, 2), (1,)])
def test_a_state_from_chosen_layers(lively: Assistant, layers: tuple[int, ...]) -> None:
    """Table 10's concatenation; layer 0 is the embeddings, and none named means all."""
    config = small_config()
    seg_token = dataclasses.replace(config.seg_token, embedding="concat", layers=layers)
    model, _ = lively_model(dataclasses.replace(config, seg_token=seg_token))
    embeds = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    states = model.llm.model(inputs_embeds=embeds, output_hidden_states=True).hidden_states
    chosen = torch.cat([states[layer] for layer in layers or range(len(states))], dim=-1)
    found = model.read(embeds, torch.ones(1, 5, dtype=torch.bool), torch.arange(5)[None]).seg
    assert torch.allclose(found, model.seg_state.concat(chosen), atol=1e-5)
