"""Made requests of every kind that a model's capabilities admit, each with the rule that it is to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from omgbench.contract import (
    BoxPrompt,
    Capabilities,
    Category,
    Frame,
    GenOptions,
    Intent,
    MaskPrompt,
    PointPrompt,
    PromptKind,
    Request,
    ScribblePrompt,
    Turn,
    VisualPrompt,
)
from omgbench.testing.frames import ODD_FRAMES, tiny_clip, tiny_frame
from omgbench.testing.shapes import rectangle_rle

VOCABULARY = (
    Category(1, "person", True),
    Category(3, "car", True),
    Category(18, "dog", True),
    Category(187, "sky-other-merged", False),
    Category(193, "grass-merged", False),
)
"""A few categories of COCO panoptic, with COCO's own ids."""

_TEXTS = {
    Intent.CHAT: "What is in the picture?",
    Intent.REFER_SEGMENT: "the large shape on the left",
    Intent.REFER_BOX: "the large shape on the left",
    Intent.SCORE_CHOICES: "Which colour does the picture show most?",
}
_CHOICES = ("red", "dark green", "blue")
_PROMPTED = (Intent.INTERACTIVE, Intent.REGION_CAPTION)
_PROMPT_ORDER: tuple[PromptKind, ...] = ("box", "mask", "point", "scribble")
_GEN = GenOptions(max_new_tokens=32)


class FrameLog:
    """Makes frames; with `watched`, notes the keys of those whose bytes are fetched."""

    def __init__(self, watched: bool) -> None:
        self.watched = watched
        self.opened: list[str] = []

    def of(self, frame: Frame) -> Frame:
        """The frame, watched when wished."""
        data = frame.source
        if not self.watched or not isinstance(data, bytes):
            return frame

        def fetch() -> bytes:
            self.opened.append(frame.key)
            return data

        return replace(frame, source=fetch)


@dataclass(frozen=True, slots=True)
class MadeRequest:
    """A request and the name of the check that its answer decides."""

    check: str
    request: Request


def made_requests(capabilities: Capabilities, intents: Sequence[Intent], log: FrameLog) -> list[MadeRequest]:
    """One request per intent and prompt kind, odd pictures, and what else the capabilities declare."""
    odd = [log.of(tiny_frame(width, height, f"{mode}-{width}x{height}", mode)) for width, height, mode in ODD_FRAMES]
    return [
        *(MadeRequest(f"answers {intent}", plain_request(intent, odd[0], capabilities)) for intent in intents),
        *_odd_frame_requests(capabilities, intents, odd),
        *_prompt_requests(capabilities, intents, odd[0]),
        *_several_frames_requests(capabilities, intents, log),
        *_history_requests(capabilities, intents, odd[0]),
    ]


def plain_request(intent: Intent, frame: Frame, capabilities: Capabilities) -> Request:
    """A request of one intent about one picture, with a prompt that the model reads where the intent needs one."""
    kinds = [kind for kind in _PROMPT_ORDER if kind in capabilities.prompt_kinds]
    return Request(
        id=f"{intent}/{frame.key}",
        intent=intent,
        frames=(frame,),
        text=_TEXTS.get(intent),
        prompts=(made_prompt(kinds[0], frame),) if intent in _PROMPTED and kinds else (),
        choices=_CHOICES if intent is Intent.SCORE_CHOICES else (),
        vocabulary=VOCABULARY if intent is Intent.PANOPTIC else (),
        gen=_GEN,
    )


def made_prompt(kind: PromptKind, frame: Frame) -> VisualPrompt:
    """A prompt of one kind around the middle of a frame of any size."""
    width, height = frame.width, frame.height
    middle = (width / 2, height / 2)
    match kind:
        case "point":
            return PointPrompt(middle)
        case "box":
            return BoxPrompt((width / 4, height / 4, 3 * width / 4, 3 * height / 4))
        case "mask":
            box = (width // 4, height // 4, width // 4 + width // 2 + 1, height // 4 + height // 2 + 1)
            return MaskPrompt(rectangle_rle(box, (height, width)))
        case "scribble":
            return ScribblePrompt(((width / 4, height / 4), middle, (3 * width / 4, height / 2)))


def _odd_frame_requests(
    capabilities: Capabilities, intents: Sequence[Intent], odd: Sequence[Frame]
) -> Iterator[MadeRequest]:
    """Every intent meets one odd picture, the first intent meets all."""
    for index, frame in enumerate(odd[1:]):
        for intent in dict.fromkeys((intents[0], intents[index % len(intents)])):
            yield MadeRequest("odd frames", plain_request(intent, frame, capabilities))


def _prompt_requests(capabilities: Capabilities, intents: Sequence[Intent], frame: Frame) -> Iterator[MadeRequest]:
    prompted = [intent for intent in (*_PROMPTED, Intent.CHAT, Intent.REFER_SEGMENT) if intent in intents]
    intent = prompted[0] if prompted else intents[0]
    plain = plain_request(intent, frame, capabilities)
    for kind in sorted(capabilities.prompt_kinds):
        request = replace(plain, id=f"{kind}-prompt", prompts=(made_prompt(kind, frame),))
        yield MadeRequest(f"reads {kind} prompts", request)


def _several_frames_requests(
    capabilities: Capabilities, intents: Sequence[Intent], log: FrameLog
) -> Iterator[MadeRequest]:
    for_images = Intent.CHAT if Intent.CHAT in intents else intents[0]
    if capabilities.max_frames >= 2:
        pair = (log.of(tiny_frame(64, 48, "pair-0")), log.of(tiny_frame(48, 64, "pair-1")))
        plain = plain_request(for_images, pair[0], capabilities)
        yield MadeRequest("several frames", replace(plain, id="pair", frames=pair))
    if capabilities.clips:
        clip = tuple(log.of(frame) for frame in tiny_clip(3))
        for_clips = Intent.PANOPTIC if Intent.PANOPTIC in intents else for_images
        plain = plain_request(for_clips, clip[0], capabilities)
        yield MadeRequest("clips", replace(plain, id="clip", frames=clip, is_clip=True))


def _history_requests(capabilities: Capabilities, intents: Sequence[Intent], frame: Frame) -> Iterator[MadeRequest]:
    if capabilities.history:
        intent = Intent.CHAT if Intent.CHAT in intents else intents[0]
        turns = (Turn("user", "What do you see?"), Turn("assistant", "Some shapes."))
        request = replace(plain_request(intent, frame, capabilities), id="history", history=turns)
        yield MadeRequest("conversations", request)
