"""Requests to the bundled model, and its answers, for the tests of its adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from omg_llava.adapter import OmgLlavaAdapter
from omgbench.contract import (
    BoxPrompt,
    Frame,
    Intent,
    MaskPrompt,
    PointPrompt,
    Request,
    Response,
    Rle,
)
from omgbench.metrics.rle import mask_to_rle
from omgbench.response_checks import check_response

from .lively import (
    SIZES_WH,
    VOCABULARY,
    frame,
    pictures,
    rectangle,
    request,
)

MakeAdapter = Callable[..., OmgLlavaAdapter]
FRAMES = [frame(image, f"picture {number}") for number, image in enumerate(pictures())]
POINT = PointPrompt((10.0, 20.0))
BOX = BoxPrompt((3.0, 5.0, 40.0, 30.0))
MASK = MaskPrompt(mask_to_rle(rectangle(*SIZES_WH[0], (20, 10, 50, 40))))


def answers(adapter: OmgLlavaAdapter, *requests: Request) -> list[Response]:
    """One checked response for each request, in the order of the requests."""
    found = list(adapter.respond(requests))
    by_id = {response.id: response for response in found}
    assert sorted(response.id for response in found) == sorted(asked.id for asked in requests)
    for asked in requests:
        assert check_response(asked, by_id[asked.id]) is None
    return [by_id[asked.id] for asked in requests]


def everything(image: Frame, *, prefix: str = "") -> list[Request]:
    """One request of every intent about one picture."""
    box = BoxPrompt((0.0, 0.0, image.width / 2, image.height / 2))
    return [
        request(f"{prefix}chat", Intent.CHAT, image, "What is it?"),
        request(f"{prefix}refer", Intent.REFER_SEGMENT, image, "the dog"),
        request(f"{prefix}box", Intent.REFER_BOX, image, "the dog"),
        request(f"{prefix}grounded", Intent.GROUNDED_CAPTION, image),
        request(f"{prefix}region", Intent.REGION_CAPTION, image, prompts=(box,)),
        request(f"{prefix}panoptic", Intent.PANOPTIC, image, vocabulary=VOCABULARY),
        request(f"{prefix}interactive", Intent.INTERACTIVE, image, prompts=(box,)),
        request(f"{prefix}choices", Intent.SCORE_CHOICES, image, "Who?", choices=("a dog", "a cat", "b")),
    ]


def rles(masks: Sequence[torch.Tensor]) -> list[Rle]:
    return [mask_to_rle(mask.numpy()) for mask in masks]
