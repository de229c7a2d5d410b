"""Chat templates, and a conversation as token ids with placeholders for pictures and prompts.

Xtuner 0.1.21, utils/templates.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omg_llava.errors import ModelError
from omg_llava.vocabulary import IMAGE

IMAGE_TEXT = "<image>"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How a family of language models writes turns.

    Attributes:
        user: `{input}` is the user's text; ends where the model begins to write.
        suffix: ends an answer in training, and, as `stop`, in generation.
        separator: stands between turns.
        stop: strings that end generation, beside the tokenizer's end-of-sequence token.
    """

    user: str
    suffix: str
    separator: str
    stop: tuple[str, ...]


_IM_USER = "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n"
TEMPLATES = {
    "internlm2": ChatTemplate(_IM_USER, "<|im_end|>", "\n", ("<|im_end|>",)),
    "qwen2": ChatTemplate(_IM_USER, "<|im_end|>", "\n", ("<|im_end|>", "<|endoftext|>")),
    "phi3": ChatTemplate("<|user|>\n{input}<|end|>\n<|assistant|>\n", "<|end|>", "\n", ("<|end|>",)),
}
"""By `LanguageConfig.family`; the templates of xtuner 0.1.21."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


def conversation_text(template: ChatTemplate, turns: Sequence[Turn], *, has_image: bool) -> str:
    """The whole conversation as one text, `<image>` before the first user's words, ready for the next answer.

    Args:
        turns: beginning and ending with the user.
        has_image: whether there is a picture.
    """
    parts: list[str] = []
    for turn in turns:
        if turn.role == "user":
            text = f"{IMAGE_TEXT}\n{turn.text}" if has_image and not parts else turn.text
            parts.append(template.user.replace("{input}", text))
        else:
            parts.append(turn.text + template.suffix + template.separator)
    return "".join(parts)


def encode(tokenizer: Any, text: str, *, has_image: bool) -> list[int]:
    """Ids of a conversation, -200 where the picture goes.

    The text is cut at the first `<image>`; the piece before it is encoded with the tokenizer's own start token, the
    piece behind without. Further `<image>` are what a user typed, and stay text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"the text has half a character at {error.start}", expected="text that UTF-8 can hold"
        ) from None
    head, found, tail = text.partition(IMAGE_TEXT) if has_image else (text, "", "")
    ids = list(tokenizer.encode(head, add_special_tokens=True))
    if found:
        ids += [IMAGE, *tokenizer.encode(tail, add_special_tokens=False)]
    return [int(token) for token in ids]
