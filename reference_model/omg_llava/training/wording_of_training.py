"""What the official training data asks and answers, word for word (lxtGH/OMG-Seg, omg_llava/dataset, 1ae2e7d)."""

from __future__ import annotations

import numpy as np

from omg_llava.config import AnswerFormat
from omg_llava.vocabulary import P_CLOSE, P_OPEN, REGION, SEG

_SEGMENT = (
    "Can you segment the {c} in this image?",
    "Please segment {c} in this image.",
    "What is {c} in this image? Please respond with segmentation mask.",
    "What is {c} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {c} in this image?",
    "Please identify and segment the {c} in this image.",
    "Where is the {c} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {c} in this image with a segmentation mask?",
)
SEGMENT = _SEGMENT + tuple(sentence[:-1] for sentence in _SEGMENT)
"""`{c}` is the label in lower case. Eight sentences, with and without their last character."""

PLAIN_ANSWERS = (
    f"It is {SEG}.",
    f"Sure, {SEG}.",
    f"Sure, it is {SEG}.",
    f"Sure, the segmentation result is {SEG}.",
    f"{SEG}.",
)
"""Table 9's other row."""

_REGION = (
    "Can you provide me with a detailed description of the region in the picture marked by <region>?",
    "I'm curious about the region represented by <region> in the picture. Could you describe it in detail?",
    "What can you tell me about the region indicated by <region> in the image?",
    "I'd like to know more about the area in the photo labeled <region>. Can you give me a detailed description?",
    "Could you describe the region shown as <region> in the picture in great detail?",
    "What details can you give me about the region outlined by <region> in the photo?",
    "Please provide me with a comprehensive description of the region marked with <region> in the image.",
    "Can you give me a detailed account of the region labeled as <region> in the picture?",
    "I'm interested in learning more about the region represented by <region> in the photo. "
    "Can you describe it in detail?",
    "What is the region outlined by <region> in the picture like? Could you give me a detailed description?",
)
_POLITE_REGION = (
    "Can you provide me with a detailed description of the region in the picture marked by <region>, please?",
    "I'm curious about the region represented by <region> in the picture. Could you describe it in detail, please?",
    "What can you tell me about the region indicated by <region> in the image, exactly?",
    "I'd like to know more about the area in the photo labeled <region>, please. "
    "Can you give me a detailed description?",
    "Could you describe the region shown as <region> in the picture in great detail, please?",
    "What details can you give me about the region outlined by <region> in the photo, please?",
    "Please provide me with a comprehensive description of the region marked with <region> in the image, please.",
    "Can you give me a detailed account of the region labeled as <region> in the picture, please?",
    "I'm interested in learning more about the region represented by <region> in the photo. "
    "Can you describe it in detail, please?",
    "What is the region outlined by <region> in the picture like, please? Could you give me a detailed description?",
)
REGION_QUESTIONS = _REGION + _POLITE_REGION
"""`<region>` becomes `region{i} <region>`."""


def segment_question(label: str, random: np.random.RandomState) -> str:
    """One of the questions for a label's mask."""
    return SEGMENT[random.randint(len(SEGMENT))].replace("{c}", label.lower())


def segment_answer(label: str, answers: AnswerFormat, random: np.random.RandomState) -> str:
    """The answer with one `[SEG]`: the label as a grounded phrase, or a plain sentence."""
    if answers == "plain":
        return PLAIN_ANSWERS[random.randint(len(PLAIN_ANSWERS))]
    return f"{P_OPEN} {label.capitalize()} {P_CLOSE} {SEG}."


def region_question(number: int, random: np.random.RandomState) -> str:
    """One of the questions about the `number`-th region (from 1)."""
    return REGION_QUESTIONS[random.randint(len(REGION_QUESTIONS))].replace(REGION, f"region{number} {REGION}")
