"""Looks at pictures once and answers many questions about them.

    assistant = Assistant(model, tokenizer)
    look = assistant.look(Image.open("dog.jpg"))
    [reply] = assistant.ask([(look, Question("Please segment the dog in this image."))])
    reply.text, reply.masks

A look holds the picture's features, its visual tokens and the language model's keys and values for them, so that a
question pays for its own words only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from omg_llava.conversation import TEMPLATES, Turn, conversation_text, encode
from omg_llava.errors import ModelError
from omg_llava.generation import (
    Finish,
    Generated,
    Prefix,
    Row,
    Sampling,
    check_length,
    generate,
    prefill,
    score_continuations,
)
from omg_llava.model import OmgLlava, Percept
from omg_llava.preprocessing import SquareFrame, square_pixels
from omg_llava.prompts import Prompt, prompt_sets
from omg_llava.sequence import Placeholders, splice
from omg_llava.stopping import StopRule
from omg_llava.vocabulary import IGNORED, IMAGE, MARK, REGION, SEG


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A picture, looked at.

    Attributes:
        frame: how it lies in the network's square.
        percept: features, objects, prior.
        image_tokens: (V, D), what the language model sees.
        prefix: the language model's keys and values up to the picture's last token.
    """

    frame: SquareFrame
    percept: Percept
    image_tokens: torch.Tensor
    prefix: Prefix

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.percept.nbytes() + self.image_tokens.nbytes + self.prefix.nbytes()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A question about a look, checked and ready to be answered."""

    look: Look
    row: Row


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a look.

    Attributes:
        text: what the user says, `<region>` and `<mark>` standing for prompts (see `omg_llava.prompts`).
        prompts: points, boxes and masks in original pixels, in the order of their placeholders.
        history: earlier turns, oldest first, beginning with the user.
        sampling: length and choice of tokens.
        stop: further strings that end the answer.
    """

    text: str
    prompts: tuple[Prompt, ...] = ()
    history: tuple[Turn, ...] = ()
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: as decoded, special tokens kept.
        plain_text: without them, outer white space taken off.
        mask_logits: (S, h, w), one per `[SEG]` that has a hidden state, in order.
        frame: how the picture lies in the network's square.
        finish: "length" where the token limit cut it off.
        n_input_tokens, n_output_tokens: visual tokens included.
    """

    text: str
    plain_text: str
    mask_logits: torch.Tensor
    frame: SquareFrame
    finish: Finish
    n_input_tokens: int
    n_output_tokens: int

    @property
    def masks(self) -> tuple[torch.Tensor, ...]:
        """Boolean masks (height, width) in original pixels, in order."""
        return tuple(self.each_mask())

    def each_mask(self) -> Iterator[torch.Tensor]:
        """The masks one at a time: on a large photograph each is large."""
        for logits in self.mask_logits:
            yield self.frame.to_original(logits)


class Assistant:
    """See the module. Holds no state about pictures: looks belong to the caller."""

    def __init__(self, model: OmgLlava, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = TEMPLATES[model.config.language.family]

    @torch.inference_mode()
    def look(self, image: Image.Image) -> Look:
        """Look at one picture. It is always seen alone, so nothing it gives depends on its neighbours."""
        pixels, frame = square_pixels(image, self.model.config.image)
        [percept] = self.model.perceive(pixels[None].to(self.model.device))
        tokens = self.model.image_tokens(percept).to(self.model.embed(self._head[:1]).dtype)
        head = self.model.embed(self._head)
        prefix = prefill(self.model.llm, self.model.seg_state, torch.cat((head, tokens)))
        return Look(frame, percept, tokens, prefix)

    def ask(self, questions: Sequence[tuple[Look, Question]]) -> list[Reply]:
        """Answer questions, about one look or several, in one batch. Raises `ModelError` as `prepare` does."""
        return self.answer([self.prepare(look, question) for look, question in questions])

    @torch.inference_mode()
    def prepare(self, look: Look, question: Question) -> Prepared:
        """A question as input embeddings behind its picture's prefix.

        Raises:
            ModelError: a prompt outside the picture, more or fewer placeholders than prompts, a text that is too long.
        """
        return Prepared(look, self._row(look, question, question.sampling.max_new_tokens))

    @torch.inference_mode()
    def answer(self, prepared: Sequence[Prepared]) -> list[Reply]:
        """Answers to prepared questions, written together."""
        rows = [item.row for item in prepared]
        written = generate(self.model.llm, self.model.seg_state, rows, seg_id=self.model.special.seg)
        masks = self._mask_logits([item.look for item in prepared], written)
        return [
            self._reply(item, result, own_masks)
            for item, result, own_masks in zip(prepared, written, masks, strict=True)
        ]

    def _reply(self, prepared: Prepared, written: Generated, mask_logits: torch.Tensor) -> Reply:
        """An answer in words. What a stop string of the caller's cuts off takes its masks with it."""
        row = prepared.row
        whole = self.tokenizer.decode(written.ids, skip_special_tokens=False)
        text = row.stop.cut(whole)
        n_ids = len(written.ids)
        while text != whole and n_ids and len(self.tokenizer.decode(written.ids[: n_ids - 1])) >= len(text):
            n_ids -= 1
        return Reply(
            text=text,
            plain_text=row.stop.cut(self.tokenizer.decode(written.ids[:n_ids], skip_special_tokens=True)).strip(),
            mask_logits=mask_logits[: text.count(SEG)],
            frame=prepared.look.frame,
            finish=written.finish,
            n_input_tokens=row.prefix.length + len(row.embeds),
            n_output_tokens=len(written.ids),
        )

    @torch.inference_mode()
    def score_choices(self, look: Look, question: Question, choices: Sequence[str]) -> list[tuple[float, int]]:
        """Log-likelihood and number of tokens of each choice as the answer, natural logarithm."""
        if not choices:
            raise ModelError("no choices are given", expected="one at least")
        ids = [self.tokenizer.encode(choice, add_special_tokens=False) for choice in choices]
        for choice, tokens in zip(choices, ids, strict=True):
            if not tokens or {self.model.special.region, self.model.special.mark} & set(tokens):
                raise ModelError(f"the choice {choice!r}", expected="some text, without <region> and <mark>")
        row = self._row(look, question, max(len(tokens) for tokens in ids))
        sums = score_continuations(self.model.llm, self.model.seg_state, row.prefix, row.embeds, ids)
        return [(value, len(tokens)) for value, tokens in zip(sums, ids, strict=True)]

    @cached_property
    def _head(self) -> torch.Tensor:
        """Ids of what stands before every picture."""
        text = self.template.user.partition("{input}")[0]
        return self._ids(self.tokenizer.encode(text, add_special_tokens=True))

    def _ids(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(tokens), dtype=torch.long, device=self.model.device)

    def _row(self, look: Look, question: Question, room: int) -> Row:
        """A question as input embeddings behind the picture's prefix, with room for an answer of so many tokens."""
        turns = [*question.history, Turn("user", question.text)]
        if turns[0].role != "user":
            raise ModelError("the history begins with the assistant", expected="the user first, who shows the picture")
        ids = encode(self.tokenizer, conversation_text(self.template, turns, has_image=True), has_image=True)
        own_ids = ids[ids.index(IMAGE) + 1 :]
        self._check_ids(own_ids, question)
        own = self._ids(own_ids)
        embeds, _ = splice(own, torch.full_like(own, IGNORED), self.model.embed, self._placeholders(look, question))
        check_length(look.prefix.length + len(embeds) + room, self.model.config.language.max_positions)
        stop = StopRule(self.tokenizer, self._end_ids, self.template.stop, question.stop)
        return Row(look.prefix, embeds, question.sampling, stop)

    def _check_ids(self, ids: Sequence[int], question: Question) -> None:
        """Placeholders and prompts must agree before the language model sees either."""
        special = self.model.special
        for token, name in ((special.region, REGION), (special.mark, MARK)):
            given = sum(prompt.placeholder == name for prompt in question.prompts)
            found = ids.count(token)
            if found != given:
                raise ModelError(
                    f"the text has {found} {name} for {given} prompts of that kind",
                    expected=f"one {name} for each",
                )

    def _placeholders(self, look: Look, question: Question) -> Placeholders:
        """The prompts' tokens, each kind of placeholder in its own order."""
        tokens = look.image_tokens.new_zeros(len(question.prompts), look.image_tokens.shape[1])
        for indices, group in prompt_sets(question.prompts, look.frame, self.model.device):
            tokens[indices] = self.model.prompt_tokens(look.percept, group).to(tokens)
        is_mark = torch.tensor([prompt.placeholder == MARK for prompt in question.prompts], dtype=torch.bool)
        return Placeholders(self.model.special, [], tokens[~is_mark], tokens[is_mark])

    @cached_property
    def _end_ids(self) -> set[int]:
        settings = self.model.config.language.transformers
        ends = settings.get("eos_token_id")
        configured = ends if isinstance(ends, list) else [ends]
        return {int(end) for end in [*configured, self.tokenizer.eos_token_id] if end is not None}

    def _mask_logits(self, looks: Sequence[Look], written: Sequence[Generated]) -> list[torch.Tensor]:
        """Mask logits (S, h, w) of each row, decoded together for all rows about one picture."""
        height, width = looks[0].percept.features.mask_features.shape[-2:] if looks else (0, 0)
        masks = [torch.zeros(0, height, width)] * len(written)
        by_look: dict[int, list[int]] = {}
        for row, look in enumerate(looks):
            if written[row].seg_states:
                by_look.setdefault(id(look), []).append(row)
        for rows in by_look.values():
            states = torch.stack([state for row in rows for state in written[row].seg_states])
            decoded = self.model.decode_seg(looks[rows[0]].percept.features, states).mask_logits[0, :, 0]
            counts = [len(written[row].seg_states) for row in rows]
            for row, own in zip(rows, torch.split(decoded, counts), strict=True):
                masks[row] = own
        return masks
