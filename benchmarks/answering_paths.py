"""Three ways to put the same questions to the same weights, for `answering.py`; and what is asked."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from omg_llava_flops import Load
from PIL import Image
from torch import nn
from transformers import DynamicCache

from omg_llava import wording
from omg_llava.assistant import Assistant, Look, Question
from omg_llava.config import load_config
from omg_llava.conversation import Turn, conversation_text, encode
from omg_llava.generation import Sampling
from omg_llava.language_model import run_transformer
from omg_llava.model import Percept
from omg_llava.preprocessing import SquareFrame, square_pixels
from omg_llava.sequence import Placeholders, splice
from omg_llava.stopping import StopRule
from omg_llava.untrained import untrained_model
from omg_llava.vocabulary import IGNORED

Asked = Sequence[tuple[Image.Image, Sequence[str]]]
"""Pictures and what is asked about each."""
Answer = tuple[str, tuple[torch.Tensor, ...]]
"""Text, and masks (height, width) in original pixels."""

PICTURE_SIZE = (640, 480)
_GAIN = 4.0
_THINGS = ("dog", "red car", "man on the left", "second cup from the right", "tree", "woman in a blue coat", "bench")


def asked(load: Load, n_pictures: int, seed: int = 0) -> Asked:
    """Made-up pictures, and questions in the words of refCOCO where answers hold a mask and of POPE elsewhere."""
    random = np.random.default_rng(seed)
    wordings = wording.REFER_SEGMENT if load.n_segs else "Is there a {text} in the image?"
    things = [f"{thing}{'' if turn == 0 else f' {turn + 1}'}" for turn in range(3) for thing in _THINGS]
    questions = [wordings.replace("{text}", thing) for thing in things[: load.n_questions]]
    return [(_picture(random), questions) for _ in range(n_pictures)]


def _picture(random: np.random.Generator) -> Image.Image:
    """Soft coloured patches under a little noise."""
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(PICTURE_SIZE, Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + random.integers(-8, 9, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


class AnswerForm:
    """Gives answers their length and their `[SEG]`, and leaves the choice of all other tokens to the model.

    Untrained weights end no answer. A hook adds to the logits of each step: minus infinity to all but lower-case
    letters, or to all but the `[SEG]` or the end token where one is due. Rows of a batch write in step, so that one
    count serves them all.
    """

    def __init__(self, assistant: Assistant, load: Load) -> None:
        special, tokenizer = assistant.model.special, assistant.tokenizer
        letters = tokenizer.convert_tokens_to_ids(list(string.ascii_lowercase))
        [end] = tokenizer.encode(assistant.template.stop[0], add_special_tokens=False)
        n_letters = load.n_answer_tokens - load.n_segs - 1
        allowed = [letters] * n_letters + [[special.seg]] * load.n_segs + [[end]]
        self._bias = torch.full((len(allowed), 1, assistant.model.llm.lm_head.out_features), -torch.inf)
        for step, ids in enumerate(allowed):
            self._bias[step, :, ids] = 0.0
        self._head = assistant.model.llm.lm_head
        self._step = 0

    def restart(self) -> None:
        """The next logits are those of an answer's first token."""
        self._step = 0

    @contextmanager
    def imposed(self) -> Iterator[None]:
        """Applies within the block."""
        handle = self._head.register_forward_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()

    def _hook(self, _module: nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        self._step += 1
        return logits + self._bias[self._step - 1]


def make_assistant(config: str = "omg_llava_bytes", seed: int = 0) -> Assistant:
    """Untrained, always the same weights.

    Those of the language model's layers are enlarged: fresh ones hardly mix tokens, so that every question would have
    the same answer and comparing answers would prove nothing.
    """
    model, tokenizer = untrained_model(load_config(config), seed=seed)
    for layer in model.llm.model.layers.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(_GAIN)
    return Assistant(model, tokenizer)


def ask_together(assistant: Assistant, form: AnswerForm, asked: Asked, batch_size: int, max_new: int) -> list[Answer]:
    """The package's way: a look per picture, questions in batches, as the harness calls it."""
    sampling = Sampling(max_new_tokens=max_new)
    looked: dict[int, Look] = {}
    waiting = [(index, text) for index, (_, questions) in enumerate(asked) for text in questions]
    answers: list[Answer] = []
    for start in range(0, len(waiting), batch_size):
        batch = waiting[start : start + batch_size]
        for index in {index: None for index, _ in batch if index not in looked}:
            looked[index] = assistant.look(asked[index][0])
        form.restart()
        replies = assistant.ask([(looked[index], Question(text, sampling=sampling)) for index, text in batch])
        answers += [(reply.text, reply.masks) for reply in replies]
    return answers


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as a plain loop needs it."""

    frame: SquareFrame
    percept: Percept
    tokens: torch.Tensor


class PlainLoop:
    """One question after the other, the whole sequence each time, with a key-value cache of its own.

    Every module is the package's own; a `[SEG]` is decoded alone, in a batch entry of its own.
    """

    def __init__(self, assistant: Assistant, form: AnswerForm, max_new: int) -> None:
        self.model, self.tokenizer, self.template = assistant.model, assistant.tokenizer, assistant.template
        self.form, self.max_new = form, max_new
        self.stop = StopRule(self.tokenizer, {self.tokenizer.eos_token_id}, self.template.stop)

    @torch.inference_mode()
    def ask_each(self, asked: Asked) -> list[Answer]:
        """Everything anew for every question."""
        return [self._answer(self._see(image), text) for image, questions in asked for text in questions]

    @torch.inference_mode()
    def ask_encoded_once(self, asked: Asked) -> list[Answer]:
        """The picture is encoded once, as in the official script for refCOCO; nothing else is shared."""
        answers = []
        for image, questions in asked:
            seen = self._see(image)
            answers += [self._answer(seen, text) for text in questions]
        return answers

    def _see(self, image: Image.Image) -> Seen:
        pixels, frame = square_pixels(image, self.model.config.image)
        [percept] = self.model.perceive(pixels[None])
        return Seen(frame, percept, self.model.image_tokens(percept))

    def _answer(self, seen: Seen, text: str) -> Answer:
        self.form.restart()
        written, states = self._write(self._sequence(seen, text))
        masks = []
        for state in states:
            decoded = self.model.decode_seg(seen.percept.features, state[None])
            masks.append(seen.frame.to_original(decoded.mask_logits[0, 0, 0]))
        return self.tokenizer.decode(written, skip_special_tokens=False), tuple(masks)

    def _sequence(self, seen: Seen, text: str) -> torch.Tensor:
        """Input embeddings (L, D) of the chat with its picture."""
        chat = conversation_text(self.template, [Turn("user", text)], has_image=True)
        ids = torch.tensor(encode(self.tokenizer, chat, has_image=True))
        none = seen.tokens[:0]
        given = Placeholders(self.model.special, [seen.tokens], none, none)
        embeds, _ = splice(ids, torch.full_like(ids, IGNORED), self.model.embed, given)
        return embeds

    def _write(self, embeds: torch.Tensor) -> tuple[list[int], list[torch.Tensor]]:
        """Greedy answer, and the hidden states at its `[SEG]` tokens."""
        llm, seg_state, cache = self.model.llm, self.model.seg_state, DynamicCache()
        hidden = run_transformer(llm, seg_state, embeds[None], cache=cache)
        ids: list[int] = []
        states: list[torch.Tensor] = []
        while True:
            token = llm.lm_head(hidden.last[:, -1]).argmax(dim=-1)
            ids.append(int(token))
            if self.stop.ends(ids) or len(ids) == self.max_new:
                return ids, states
            hidden = run_transformer(llm, seg_state, self.model.embed(token)[None], cache=cache)
            if ids[-1] == self.model.special.seg:
                states.append(hidden.seg[0, -1])
