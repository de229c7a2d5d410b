"""Stages e, f, g: projectors, the language model over whole sequences, generation, [SEG] masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omg_llava.assistant import Assistant
from omg_llava.features import VisualFeatures
from omg_llava.generation import Row, Sampling, generate, prefill
from omg_llava.lora import without_lora
from omg_llava.model import OmgLlava
from omg_llava.preprocessing import SquareFrame
from omg_llava.sequence import Placeholders, SplicedBatch, splice, splice_batch
from omg_llava.stopping import StopRule
from omg_llava.vocabulary import IGNORED, IMAGE

from .prompted import prompt_tokens

pytestmark = pytest.mark.golden


def test_special_tokens(goldens: Any, model: OmgLlava) -> None:
    recorded, special = goldens.config["tokens"], model.special
    assert (recorded["image"], recorded["ignore"]) == (IMAGE, IGNORED)
    for name in ("seg", "p_open", "p_close", "region", "mark"):
        assert getattr(special, name) == recorded[name], name
    assert (recorded["base_vocab"], recorded["tokenizer_length"]) == (special.seg, special.mark + 1)
    assert recorded["embedding_rows"] == len(model.llm.get_input_embeddings().weight) == special.mark


def test_projectors(goldens: Any, model: OmgLlava) -> None:
    stage = goldens.stage("e_projectors")
    prior = goldens.stage("d_prior")
    embeddings = prior["query_pos_feat"]
    stage.check("query_proj", model.projector.query.widen(embeddings))
    stage.check("query_tokens", model.projector.query(embeddings))
    stage.check("pixel_tokens", model.projector.pixel(prior["visual_feat"]))
    stage.check("text2vision", torch.cat(model.text_projector(stage["text_hidden"]), dim=-1))


@pytest.fixture(scope="module")
def images(goldens: Any, model: OmgLlava) -> list[torch.Tensor]:
    with torch.no_grad():
        percepts = model.perceive(goldens.stage("a_backbone")["images"])
        return [model.image_tokens(percept) for percept in percepts]


def _batch(stage: Any, model: OmgLlava, images: list[torch.Tensor], features: VisualFeatures) -> SplicedBatch:
    regions, marks = (prompt_tokens(stage, model, features, name) for name in ("regions", "points"))
    for name, tokens in (("region_embeddings", regions), ("mark_embeddings", marks)):
        if name in stage:
            stage.check(name, tokens)
    placeholders = Placeholders(model.special, images, regions, marks)
    batch = splice_batch(stage["input_ids"], stage["attention_mask"], stage["labels"], model.embed, placeholders)
    placeholders.check_all_used()
    return batch


def test_whole_sequences(goldens: Any, model: OmgLlava, images: list[torch.Tensor], features: VisualFeatures) -> None:
    stage = goldens.stage("f_llm")
    batch = _batch(stage, model, images, features)
    valid = batch.attention_mask
    stage.check("inputs_embeds", batch.embeds)
    stage.check("new_labels", batch.labels)
    stage.check("new_attention_mask", valid)
    stage.check("new_position_ids", batch.position_ids)
    inputs = {"inputs_embeds": batch.embeds, "attention_mask": valid, "position_ids": batch.position_ids}
    states = model.llm.model(**inputs, output_hidden_states=True).hidden_states
    for match, _ in stage.matching(r"hidden_(\d+)"):
        stage.check(match[0], states[int(match[1])], valid)
    hidden = model.read(batch.embeds, valid, batch.position_ids)
    stage.check("logits", model.logits(hidden.last), valid)
    shifted = model.logits(hidden.last)[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(shifted, batch.labels[:, 1:].flatten(), ignore_index=IGNORED)
    stage.check("loss_text", loss[None])
    seg = batch.labels == model.special.seg
    stage.check("seg_position_mask", seg)
    stage.check("seg_query", torch.cat(model.text_projector(hidden.seg[seg]), dim=-1))
    with without_lora(model.llm):
        bare = model.read(batch.embeds, valid, batch.position_ids).last
        stage.check("last_hidden_without_lora", bare, valid)
        stage.check("logits_without_lora", model.logits(bare), valid)
    stage.check("logits", model.logits(model.read(batch.embeds, valid, batch.position_ids).last), valid)


def _row(goldens: Any, assistant: Assistant, image: torch.Tensor, sampling: Sampling) -> tuple[Row, torch.Tensor]:
    """The recorded prompt, cut behind the picture as an assistant cuts it."""
    model, ids = assistant.model, goldens.stage("g_generate")["input_ids"][0]
    cut = ids.tolist().index(IMAGE) + 1
    parts = []
    for part, pictures in ((ids[:cut], [image]), (ids[cut:], [])):
        empty = image[:0]
        embeds, _ = splice(part, part, model.embed, Placeholders(model.special, pictures, empty, empty))
        parts.append(embeds)
    prefix = prefill(model.llm, model.seg_state, parts[0])
    stop = StopRule(assistant.tokenizer, {goldens.config["tokens"]["eos"]}, ())
    return Row(prefix, parts[1], sampling, stop), torch.cat(parts)


def test_generation(goldens: Any, assistant: Assistant, images: list[torch.Tensor], features: VisualFeatures) -> None:
    """Through the cached prefix, as questions are answered."""
    stage, model, eos = goldens.stage("g_generate"), assistant.model, goldens.config["tokens"]["eos"]
    # An answer that ended by itself has to do so again, with room to go on.
    limit = len(stage["sequences"]) + (int(stage["sequences"][-1]) == eos)
    row, embeds = _row(goldens, assistant, images[0], Sampling(max_new_tokens=limit))
    stage.check("inputs_embeds", embeds[None])
    [result] = generate(model.llm, model.seg_state, [row], seg_id=model.special.seg, trace=True)
    stage.check("sequences", torch.tensor(result.ids))
    stage.check("step_logits", torch.stack(result.logits))
    prompt = model.read(embeds[None], torch.ones(1, len(embeds), dtype=torch.bool), torch.arange(len(embeds))[None])
    stage.check("last_hidden", torch.cat((prompt.last[0], *(state[None] for state in result.states[1:]))))
    assert len(result.seg_states) == result.ids[:-1].count(model.special.seg)
    if result.seg_states:
        _check_generated_masks(stage, model, features, torch.stack(result.seg_states))
    else:
        assert all(len(stage.recorded(match[0])) == 0 for match, _ in stage.matching("seg_.*"))


def _check_generated_masks(stage: Any, model: OmgLlava, features: VisualFeatures, states: torch.Tensor) -> None:
    stage.check("seg_hidden", states)
    stage.check("seg_query", torch.cat(model.text_projector(states), dim=-1))
    decoded = model.decode_seg(features.of(0), states)
    stage.check("seg_mask_logits", decoded.mask_logits[0])
    for match, _ in stage.matching(r"seg_masks_w(\d+)_h(\d+)"):
        frame = SquareFrame(int(match[1]), int(match[2]), features.input_hw[0])
        stage.check(match[0], torch.stack([frame.to_original(logits[0]) for logits in decoded.mask_logits[0]]))


def test_seg_decoder(goldens: Any, model: OmgLlava, features: VisualFeatures) -> None:
    stage = goldens.stage("g_seg")
    owners = stage["batch_idx"]
    stage.check("seg_query", torch.cat(model.text_projector(stage["hidden"]), dim=-1))
    n_steps = len(model.seg_decoder.layers) + 1
    found = torch.zeros(n_steps, *stage["mask_logits_0"].shape)
    for image in owners.unique().tolist():
        places = (owners == image).nonzero()[:, 0]
        decoded = model.decode_seg(features.of(image), stage["hidden"][places], keep_steps=True)
        found[:, places] = torch.stack([step.mask_logits[0] for step in decoded.steps])
    for number in range(n_steps):
        stage.check(f"mask_logits_{number}", found[number])
    for match, _ in stage.matching(r"masks_w(\d+)_h(\d+)"):
        frame = SquareFrame(int(match[1]), int(match[2]), features.input_hw[0])
        stage.check(match[0], torch.stack([frame.to_original(logits[0]) for logits in found[-1]]))
