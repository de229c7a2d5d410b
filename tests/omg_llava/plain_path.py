"""OMG-LLaVA's answer to one question by the plainest means: no cache, no batch, no prefix, one mask at a time.

Written from the specification for comparison; of the package it uses the networks only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from omg_llava.assistant import Question
from omg_llava.model import OmgLlava, Percept
from omg_llava.preprocessing import square_pixels
from omg_llava.prompts import Prompt
from omg_llava.visual_prompts import PromptSet

_CHATS = {
    "internlm2": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "qwen2": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "phi3": ("<|user|>\n{}<|end|>\n<|assistant|>\n", "<|end|>"),
}


@dataclass(frozen=True)
class PlainAnswer:
    """An answer, with the least distance between the best two logits of its steps."""

    ids: list[int]
    seg_states: torch.Tensor
    masks: list[torch.Tensor]
    margin: float


class PlainPath:
    """One model about one picture."""

    def __init__(self, model: OmgLlava, tokenizer: Any, image: Image.Image) -> None:
        self.model, self.tokenizer, self.image = model, tokenizer, image
        self.edge = max(image.size)
        self.left, self.top = (self.edge - image.width) // 2, (self.edge - image.height) // 2
        pixels, _ = square_pixels(image, model.config.image)
        self.percept: Percept = model.perceive(pixels[None])[0]

    def answer(self, question: Question) -> PlainAnswer:
        """Greedy, the whole sequence anew for every token."""
        prompt = self.prompt_embeds(question)
        ids: list[int] = []
        margins = []
        while len(ids) < question.sampling.max_new_tokens:
            best = self.logits(prompt, ids)[-1].topk(2)
            margins.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
            if self._is_over(ids, question):
                break
        states = self.seg_states(prompt, ids)
        return PlainAnswer(ids, states, [self.mask(state) for state in states], min(margins))

    def logits(self, prompt: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """(L, vocabulary) over the prompt and what was written."""
        return self.model.llm(inputs_embeds=self._sequence(prompt, ids), use_cache=False).logits[0].float()

    def prompt_embeds(self, question: Question) -> torch.Tensor:
        """(L, D): start token, template, picture, turns, with prompts in their places."""
        chat, suffix = _CHATS[self.model.config.language.family]
        turns = [(turn.role, turn.text) for turn in question.history] + [("user", question.text)]
        texts = [chat.format(text) if role == "user" else f"{text}{suffix}\n" for role, text in turns]
        before, after = "".join(texts).split(turns[0][1], 1)
        ids = [self.tokenizer.bos_token_id, *self.tokenizer.encode(before, add_special_tokens=False)]
        rows = [self._embed(ids), self.model.image_tokens(self.percept)]
        is_mark = [prompt.kind == "point" if prompt.as_mark is None else prompt.as_mark for prompt in question.prompts]
        given = {
            token: iter([prompt for prompt, mark in zip(question.prompts, is_mark, strict=True) if mark == wanted])
            for token, wanted in ((self.model.special.region, False), (self.model.special.mark, True))
        }
        for token in self.tokenizer.encode(f"\n{turns[0][1]}{after}", add_special_tokens=False):
            rows.append(self._prompt_token(next(given[token])) if token in given else self._embed([token]))
        return torch.cat(rows)

    def seg_states(self, prompt: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """(S, D): of the `[SEG]` that were put in, from one pass over everything but the last token."""
        sequence = self._sequence(prompt, ids[:-1])
        output = self.model.llm.model(inputs_embeds=sequence, use_cache=False, output_hidden_states=True)
        wanted = [place for place, token in enumerate(ids[:-1]) if token == self.model.special.seg]
        states = [layer[0, [len(prompt) + place for place in wanted]] for layer in output.hidden_states]
        match self.model.config.seg_token.embedding:
            case "last":
                return states[-1]
            case "mean":
                return sum(states) / len(states)
            case "concat":
                layer = self.model.seg_state.concat
                return torch.cat(states, dim=-1) @ layer.weight.T + layer.bias

    def mask_logits(self, state: torch.Tensor) -> torch.Tensor:
        """(SIDE / 4, SIDE / 4) of one `[SEG]`: a batch of one query that attends to itself."""
        queries, positions = self.model.text_projector(state[None])
        decoded = self.model.seg_decoder(queries[None], positions[None], self.percept.features, isolated=False)
        return decoded.mask_logits[0, 0, 0]

    def mask(self, state: torch.Tensor) -> torch.Tensor:
        """(height, width) bool in original pixels."""
        logits = self.mask_logits(state)[None, None]
        square = F.interpolate(logits, (self.edge, self.edge), mode="bilinear", align_corners=False)[0, 0]
        return square[self.top :, self.left :][: self.image.height, : self.image.width] > 0

    def _sequence(self, prompt: torch.Tensor, ids: list[int]) -> torch.Tensor:
        return torch.cat((prompt, self._embed(ids)))[None]

    def _embed(self, ids: list[int]) -> torch.Tensor:
        return self.model.llm.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))

    def _prompt_token(self, prompt: Prompt) -> torch.Tensor:
        """(1, D): the prompt alone, on the square."""
        side = self.model.config.image.side
        value = torch.tensor(prompt.value)
        if prompt.kind == "mask":
            square = torch.zeros(self.edge, self.edge)
            square[self.top : self.top + self.image.height, self.left : self.left + self.image.width] = value.float()
            value = F.interpolate(square[None, None], (side, side), mode="nearest")[0, 0]
        else:
            value = (value + torch.tensor([self.left, self.top] * (len(value) // 2))) * (side / self.edge)
        return self.model.prompt_tokens(self.percept, PromptSet(prompt.kind, value[None], (side, side)))

    def _is_over(self, ids: list[int], question: Question) -> bool:
        text = self.tokenizer.decode(ids).replace("\n", "").replace("\r", "")
        suffix = _CHATS[self.model.config.language.family][1]
        return any(text.endswith(word) for word in (suffix, self.tokenizer.eos_token, *question.stop))
