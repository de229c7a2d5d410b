"""OMG-LLaVA for omgbench: requests in, responses out. The only module here that knows the harness."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omg_llava import wording
from omg_llava.answers import SEG, read_grounded_text, read_region_caption
from omg_llava.errors import ModelError
from omg_llava.look_cache import LookCache
from omgbench.contract import (
    Box,
    BoxPrompt,
    Capabilities,
    ChoiceScore,
    Frame,
    Intent,
    Mask,
    MaskPrompt,
    ModelIdentity,
    PanopticResult,
    PanopticSegment,
    Placement,
    PointPrompt,
    Request,
    Response,
    Span,
    Status,
    VisualPrompt,
)
from omgbench.errors import UserError
from omgbench.metrics.rle import mask_to_rle, rle_to_mask, tight_box_xyxy, union_of

if TYPE_CHECKING:
    import torch

    from omg_llava.assistant import Assistant, Look, Prepared, Question, Reply
    from omg_llava.config import ClassSetConfig
    from omg_llava.fusion import Segment
    from omg_llava.prompts import Prompt
    from omg_llava.universal import UniversalSegmenter, View

ADAPTER_VERSION = "1"
_LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy")
_PLACEHOLDER = re.compile(r"<region>|<mark>")
_TEXT_INTENTS = frozenset(
    (Intent.CHAT, Intent.REFER_SEGMENT, Intent.REFER_BOX, Intent.GROUNDED_CAPTION, Intent.REGION_CAPTION)
)


class OmgLlavaAdapter:
    """OMG-LLaVA from a folder of `omgbench model convert`.

    Args:
        weights: the folder.
        four_bit: the language model's layers in NF4, as the official scripts run it; wants bitsandbytes and
            adapters that were kept apart.
        grounded_questions: how many of the six official questions are asked, one after the other, until an answer
            holds a mask (grounded captions; the official script asks all six).
        cache_mb: most memory held for pictures seen lately, in MiB.
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        four_bit: bool = False,
        grounded_questions: int = len(wording.GROUNDED_CAPTION),
        cache_mb: int = 1024,
    ) -> None:
        if not 1 <= grounded_questions <= len(wording.GROUNDED_CAPTION):
            raise UserError(f"grounded_questions is {grounded_questions}", expected="1 to 6")
        self._weights = weights
        self._four_bit = four_bit
        self._n_questions = grounded_questions
        self._cache = LookCache(cache_mb * 2**20)
        self._loaded: _Loaded | None = None

    @staticmethod
    def convert(arguments: Sequence[str]) -> int:
        """`python -m omg_llava convert`, for `omgbench model convert omg_llava`."""
        from omg_llava.command import run

        with _errors_for_people():
            return run(["convert", *arguments])

    def describe(self) -> Mapping[str, str]:
        """What the folder holds; see `omg_llava.describe`."""
        from omg_llava.describe import describe

        with _errors_for_people():
            return describe(self._folder)

    def capabilities(self) -> Capabilities:
        """Everything but several pictures at once, scribbles and foreign label spaces."""
        return Capabilities(
            intents=_TEXT_INTENTS | {Intent.PANOPTIC, Intent.INTERACTIVE, Intent.SCORE_CHOICES},
            prompt_kinds=frozenset(("point", "box", "mask")),
            clips=True,
            history=True,
            vocabulary="fixed",
            native_batch=True,
        )

    def load(self, placement: Placement) -> Placement:
        """Load the folder. Raises `UserError` for one that cannot be used."""
        from omg_llava.placing import resolve_device, resolve_dtype

        with _errors_for_people():
            device = resolve_device(placement.device, placement.worker)
            self._loaded = _load(self._folder, device, resolve_dtype(placement.dtype), self._four_bit)
        return Placement(device, self._loaded.dtype, placement.offline, placement.worker)

    def identity(self) -> ModelIdentity:
        """The folder's weights by content; quantisation and the number of questions are options that change answers."""
        loaded = self._ready
        return ModelIdentity(
            name="OMG-LLaVA",
            version=ADAPTER_VERSION,
            weights=loaded.fingerprint,
            templates={
                "refer_segment": wording.REFER_SEGMENT,
                "region_caption": wording.REGION_CAPTION,
                **{f"grounded_caption_{n}": text for n, text in enumerate(self._questions, start=1)},
            },
            options={
                "config": loaded.assistant.model.config.name,
                "language_model_dtype": loaded.dtype,
                "four_bit": str(self._four_bit),
            },
            libraries={name: version(name) for name in _LIBRARIES},
        )

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Text requests in one batch, the others one by one."""
        texts = [request for request in requests if request.intent in _TEXT_INTENTS]
        yield from self._guarded(texts, self._answer_texts)
        for request in requests:
            if request.intent not in _TEXT_INTENTS:
                yield from self._guarded([request], self._answer_alone)

    def close(self) -> None:
        """Free the weights."""
        self._cache.clear()
        self._loaded = None

    @property
    def _folder(self) -> Path:
        if self._weights is None:
            raise UserError(
                "omg_llava needs weights",
                expected="a folder made by omgbench model convert",
                hint="--model-args weights=FOLDER",
            )
        return Path(self._weights)

    @property
    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load the model first")
        return self._loaded

    @property
    def _questions(self) -> tuple[str, ...]:
        return wording.GROUNDED_CAPTION[: self._n_questions]

    def _guarded(
        self, requests: Sequence[Request], answer: Callable[[Sequence[Request]], Iterator[Response]]
    ) -> Iterator[Response]:
        """Requests that the model cannot take get their own response; the rest go on together."""
        possible = []
        for request in requests:
            reason = _unsupported(request, self._ready.assistant.model.config.class_sets)
            if reason is None:
                possible.append(request)
            else:
                yield Response(request.id, Status.UNSUPPORTED, error=reason)
        if possible:
            yield from answer(possible)

    def _answer_texts(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Every request's first wording in one batch; grounded captions without a mask get their next wording."""
        asked: dict[str, tuple[Request, Reply]] = {}
        waiting = list(requests)
        for round_number in range(self._n_questions):
            prepared: list[tuple[Request, Prepared]] = []
            for request in waiting:
                made = self._prepared(request, round_number)
                if not isinstance(made, Response):
                    prepared.append((request, made))
                elif request.id not in asked:
                    yield made
            replies = self._ready.assistant.answer([made for _, made in prepared])
            for (request, _), reply in zip(prepared, replies, strict=True):
                asked[request.id] = (request, reply)
            waiting = [request for request, _ in prepared if _asks_again(request, asked[request.id][1])]
            if not waiting:
                break
        for request, reply in asked.values():
            yield _text_response(request, reply)

    def _prepared(self, request: Request, round_number: int) -> Prepared | Response:
        from omg_llava.prompts import speak_of

        try:
            look = self._look(request.frames[0])
            question = _question(request, self._questions[round_number], speak_of)
            return self._ready.assistant.prepare(look, question)
        except (ModelError, UserError) as error:
            return Response(request.id, Status.ERROR, error=" ".join(str(error).split()))

    def _answer_alone(self, requests: Sequence[Request]) -> Iterator[Response]:
        [request] = requests
        answer = {
            Intent.PANOPTIC: self._panoptic,
            Intent.INTERACTIVE: self._interactive,
            Intent.SCORE_CHOICES: self._choices,
        }[request.intent]
        try:
            yield answer(request)
        except (ModelError, UserError) as error:
            yield Response(request.id, Status.ERROR, error=" ".join(str(error).split()))

    def _panoptic(self, request: Request) -> Response:
        segmenter = self._ready.segmenter
        class_set = _class_set_for(request, self._ready.assistant.model.config.class_sets)
        assert class_set is not None, "such requests were turned away"
        if request.is_clip:
            frames = segmenter.video([frame.image for frame in request.frames], class_set.name)
        else:
            frames = [segmenter.panoptic(self._view(request.frames[0]), class_set.name)]
        segments = _panoptic_segments(frames, class_set)
        status = Status.OK if segments else Status.EMPTY
        return Response(request.id, status, panoptic=PanopticResult(segments))

    def _interactive(self, request: Request) -> Response:
        masks = self._ready.segmenter.interactive(self._view(request.frames[0]), _prompts(request.prompts))
        found = tuple(_mask(mask) for mask in masks)
        return Response(request.id, Status.OK if found else Status.EMPTY, masks=found)

    def _choices(self, request: Request) -> Response:
        from omg_llava.prompts import speak_of

        look = self._look(request.frames[0])
        scores = self._ready.assistant.score_choices(look, _question(request, "", speak_of), request.choices)
        choices = tuple(
            ChoiceScore(min(total, 0.0), n_tokens, len(choice))
            for (total, n_tokens), choice in zip(scores, request.choices, strict=True)
        )
        return Response(request.id, choices=choices)

    def _look(self, frame: Frame) -> Look:
        return self._cache.get(("look", frame.key), lambda: self._ready.assistant.look(frame.image))

    def _view(self, frame: Frame) -> View:
        return self._cache.get(("view", frame.key), lambda: self._ready.segmenter.view(frame.image))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model in memory."""

    assistant: Assistant
    segmenter: UniversalSegmenter
    dtype: str
    fingerprint: str


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """The package's errors as the harness's, which prints them without a traceback."""
    try:
        yield
    except ModelError as error:
        raise UserError(error.found, expected=error.expected, where=error.where, hint=error.hint) from error


def _load(folder: Path, device: str, dtype: torch.dtype | None, four_bit: bool) -> _Loaded:
    from omg_llava.assistant import Assistant
    from omg_llava.checkpoint import load_model
    from omg_llava.files.fingerprint import fingerprint
    from omg_llava.universal import UniversalSegmenter

    model, tokenizer = load_model(folder, device=device, dtype=dtype, four_bit=four_bit)
    used = str(model.llm.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return _Loaded(Assistant(model, tokenizer), UniversalSegmenter(model), used, fingerprint(folder))


def _unsupported(request: Request, class_sets: Sequence[ClassSetConfig]) -> str | None:
    """What the declared capabilities cannot say."""
    if request.intent is Intent.PANOPTIC and _class_set_for(request, class_sets) is None:
        names = ", ".join(item.name for item in class_sets) or "no label space"
        return f"the checkpoint knows {names}, not the request's {len(request.vocabulary)} categories"
    if request.is_clip and request.intent is not Intent.PANOPTIC:
        return "reads clips for panoptic segmentation only"
    if any(isinstance(prompt, PointPrompt) and not prompt.positive for prompt in request.prompts):
        return "does not read background points"
    if request.gen.num_beams > 1:
        return "does not search with beams"
    return None


def _question(request: Request, grounded_question: str, speak_of: Callable[[Sequence[Prompt]], str]) -> Question:
    """A request in the model's own words."""
    from omg_llava.assistant import Question
    from omg_llava.conversation import Turn
    from omg_llava.generation import Sampling

    default = {
        Intent.REFER_SEGMENT: wording.REFER_SEGMENT,
        Intent.REFER_BOX: wording.REFER_SEGMENT,
        Intent.REGION_CAPTION: wording.REGION_CAPTION if request.text is None else "{text}",
        Intent.GROUNDED_CAPTION: grounded_question if request.text is None else "{text}",
    }.get(request.intent, "{text}")
    text = request.prompt(default)
    placeholders = _PLACEHOLDER.findall(text)
    prompts = _prompts(request.prompts, [found == "<mark>" for found in placeholders])
    if prompts and not placeholders:
        text = speak_of(prompts) + text
    if not text.strip():
        raise ModelError("the question has no text", expected="some words", where=f"request {request.id}")
    return Question(
        text=text,
        prompts=prompts,
        history=tuple(Turn(turn.role, turn.text) for turn in request.history),
        sampling=Sampling(request.gen.max_new_tokens, request.gen.temperature, seed=request.gen.seed),
        stop=request.gen.stop,
    )


def _prompts(prompts: Sequence[VisualPrompt], as_marks: Sequence[bool] = ()) -> tuple[Prompt, ...]:
    """Prompts as the model takes them, each for its placeholder where the text has as many."""
    from omg_llava.prompts import Prompt

    kinds = list(as_marks) if len(as_marks) == len(prompts) else [None] * len(prompts)
    made = []
    for prompt, as_mark in zip(prompts, kinds, strict=True):
        if isinstance(prompt, PointPrompt):
            made.append(Prompt("point", np.array(prompt.xy, np.float32), as_mark))
        elif isinstance(prompt, BoxPrompt):
            made.append(Prompt("box", np.array(prompt.xyxy, np.float32), as_mark))
        elif isinstance(prompt, MaskPrompt):
            made.append(Prompt("mask", rle_to_mask(prompt.rle), as_mark))
        else:
            raise ModelError(f"a {prompt.kind} prompt", expected="a point, box or mask")
    return tuple(made)


def _asks_again(request: Request, reply: Reply) -> bool:
    """The official script goes through its six questions until an answer holds a [SEG]; a caller's wording is asked
    once.
    """
    own_words = request.template is None and request.text is None
    return request.intent is Intent.GROUNDED_CAPTION and own_words and not reply.masks


def _text_response(request: Request, reply: Reply) -> Response:
    masks = tuple(_mask(mask) for mask in reply.masks)
    text, spans = _read(request, reply, len(masks))
    status = Status.TRUNCATED if reply.finish == "length" else Status.OK
    if request.intent in (Intent.REFER_SEGMENT, Intent.REFER_BOX) and not masks:
        status = Status.EMPTY
    boxes: tuple[Box, ...] = ()
    if request.intent is Intent.REFER_BOX:
        found = [tight_box_xyxy(mask.rle) for mask in masks]
        boxes, masks, spans = tuple(Box(xyxy) for xyxy in found if xyxy is not None), (), ()
    return Response(
        request.id,
        status,
        text=text,
        raw_text=reply.text,
        masks=masks,
        boxes=boxes,
        spans=spans,
        usage={"input_tokens": reply.n_input_tokens, "output_tokens": reply.n_output_tokens},
    )


def _read(request: Request, reply: Reply, n_masks: int) -> tuple[str, tuple[Span, ...]]:
    """What people read, and which words belong to which mask."""
    if request.intent is Intent.REGION_CAPTION:
        return read_region_caption(reply.text), ()
    if SEG not in reply.text and request.intent is Intent.CHAT:
        return reply.plain_text, ()
    grounded = read_grounded_text(reply.text)
    spans = tuple(
        Span(phrase.text, phrase.start, phrase.end, masks=(index,) if index < n_masks else ())
        for index, phrase in enumerate(grounded.phrases)
    )
    return grounded.caption, spans


def _class_set_for(request: Request, class_sets: Sequence[ClassSetConfig]) -> ClassSetConfig | None:
    """The label space with the request's numbers and names."""
    wanted = {(category.id, category.name.casefold()) for category in request.vocabulary}
    for class_set in class_sets:
        if wanted == {(item.id, item.name.casefold()) for item in class_set.classes}:
            return class_set
    return None


def _panoptic_segments(frames: Sequence[Sequence[Segment]], class_set: ClassSetConfig) -> tuple[PanopticSegment, ...]:
    """Segments by the official number of each: class and per-frame instance count, stuff of one class joined."""
    found: dict[int, dict[int, list[Segment]]] = {}
    for index, segments in enumerate(frames):
        for segment in segments:
            found.setdefault(segment.map_value, {}).setdefault(index, []).append(segment)
    made = []
    for number, by_frame in enumerate(found.values(), start=1):
        members = [segment for segments in by_frame.values() for segment in segments]
        rles = {index: [_mask(segment.mask).rle for segment in segments] for index, segments in by_frame.items()}
        masks = tuple(union_of(rles[index]) if index in rles else None for index in range(len(frames)))
        category = class_set.classes[members[0].label].id
        made.append(PanopticSegment(number, category, masks, score=max(segment.score for segment in members)))
    return tuple(made)


def _mask(mask: torch.Tensor) -> Mask:
    return Mask(mask_to_rle(mask.cpu().numpy()))
