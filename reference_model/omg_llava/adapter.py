"""OMG-LLaVA for omgbench: requests in, responses out. The only module here that knows the harness."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from omg_llava import wording
from omg_llava.answers import read_grounded_text, read_region_caption
from omg_llava.bundled import BUNDLED, bundled_folder
from omg_llava.errors import ModelError
from omg_llava.look_cache import LookCache
from omg_llava.vocabulary import MARK, REGION, SEG
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
    Rle,
    Span,
    Status,
    VisualPrompt,
)
from omgbench.errors import UserError
from omgbench.metrics.rle import check_rle, mask_to_rle, rle_to_mask, tight_box_xyxy, union_of

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from omg_llava.assistant import Assistant, Look, Prepared, Question, Reply
    from omg_llava.config import ClassSetConfig, OmgLlavaConfig
    from omg_llava.fusion import Segment
    from omg_llava.prompts import Prompt
    from omg_llava.universal import UniversalSegmenter, View

ADAPTER_VERSION = "1"
_LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy", "scipy")
_PLACEHOLDER = re.compile(f"{REGION}|{MARK}")
_TEXT_INTENTS = frozenset(
    (Intent.CHAT, Intent.REFER_SEGMENT, Intent.REFER_BOX, Intent.GROUNDED_CAPTION, Intent.REGION_CAPTION)
)


class OmgLlavaAdapter:
    """OMG-LLaVA from a folder of `omgbench model convert` or of `omgbench train`.

    Args:
        weights: the folder; None = the small model that comes along, trained on the demo world and named so in tables.
        four_bit: the language model's layers in NF4, as the official scripts run it; wants bitsandbytes, and adapters
            kept apart (--keep-lora) to be the official sum.
        grounded_questions: how many of the six official questions are asked, one after the other, until an answer
            holds a mask (grounded captions; the official script asks all six).
        cache_mb: most memory held for pictures seen lately, in MiB.
        clip_ids: what the segments of a clip are numbered by. "official": class and instance count within a frame, so
            that later objects move up where one is missing, as the official video numbers have it. "query": the
            tracked query, one object one number.
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        four_bit: bool = False,
        grounded_questions: int = len(wording.GROUNDED_CAPTION),
        cache_mb: int = 1024,
        clip_ids: Literal["official", "query"] = "official",
    ) -> None:
        _check_argument("weights", weights, weights is None or isinstance(weights, str | Path), "a folder")
        _check_argument("four_bit", four_bit, isinstance(four_bit, bool), "true or false")
        _check_argument("cache_mb", cache_mb, type(cache_mb) is int and cache_mb >= 0, "a number of MiB")
        n_questions, most = grounded_questions, len(wording.GROUNDED_CAPTION)
        is_count = type(n_questions) is int and 1 <= n_questions <= most
        _check_argument("grounded_questions", n_questions, is_count, f"1 to {most}")
        _check_argument("clip_ids", clip_ids, clip_ids in ("official", "query"), "official or query")
        self._weights = weights
        self._clip_ids = clip_ids
        self._four_bit = four_bit
        self._n_questions = n_questions
        self._cache = LookCache(cache_mb * 2**20)
        self._loaded: _Loaded | None = None

    @staticmethod
    def convert(arguments: Sequence[str]) -> int:
        """`python -m omg_llava convert`, for `omgbench model convert omg_llava`."""
        from omg_llava.command import run

        with _errors_for_people():
            return run(["convert", *arguments])

    @staticmethod
    def recipes() -> Mapping[str, str]:
        """Training recipes and studies that come along; see `omg_llava.training.recipe` and `.study`."""
        from omg_llava.training.recipe import recipe_list
        from omg_llava.training.study import study_list

        return recipe_list() | study_list()

    @staticmethod
    def train(arguments: Sequence[str]) -> int:
        """`python -m omg_llava train`, for `omgbench train`."""
        from omg_llava.command import run

        with _errors_for_people():
            return run(["train", *arguments])

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

        self.close()
        with _errors_for_people():
            device = resolve_device(placement.device, placement.worker)
            self._loaded = _load(self._folder, device, resolve_dtype(placement.dtype), self._four_bit)
        return Placement(device, self._loaded.dtype, placement.offline, placement.worker)

    def identity(self) -> ModelIdentity:
        """The folder's weights by content; quantisation and the number of questions are options that change answers."""
        loaded = self._ready
        return ModelIdentity(
            name=_name(loaded.assistant.model.config),
            version=ADAPTER_VERSION,
            weights=loaded.fingerprint,
            templates={
                "refer_segment": wording.REFER_SEGMENT,
                "region_caption": wording.REGION_CAPTION,
                **{f"grounded_caption_{n}": text for n, text in enumerate(self._questions, start=1)},
            },
            options={
                "config": loaded.assistant.model.config.name,
                **_origin(loaded.assistant.model.config),
                "config_sha256": loaded.config_sha256,
                "tokenizer_sha256": loaded.tokenizer_sha256,
                "language_model_dtype": loaded.dtype,
                "four_bit": str(self._four_bit),
                "clip_ids": self._clip_ids,
                "sampling": "top_k 40, top_p 0.75 where the temperature is not 0",
            },
            libraries={name: version(name) for name in self._libraries()},
        )

    def _libraries(self) -> list[str]:
        """What computes the answer."""
        keeps_lora = self._ready.assistant.model.config.language.lora is not None
        return [*_LIBRARIES, *["peft"] * keeps_lora, *["bitsandbytes"] * self._four_bit]

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
        folder = bundled_folder(BUNDLED) if self._weights is None else Path(self._weights)
        if self._weights is None and not folder.is_dir():
            raise UserError(
                "omg_llava needs weights: none come along with this copy",
                expected="a folder made by omgbench model convert or omgbench train",
                hint="--model-args weights=FOLDER",
            )
        return folder

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
        looks: dict[str, Look] = {}
        waiting = list(requests)
        for round_number in range(self._n_questions):
            prepared: list[tuple[Request, Prepared]] = []
            for request in waiting:
                made = self._prepared(request, round_number, looks)
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

    def _prepared(self, request: Request, round_number: int, looks: dict[str, Look]) -> Prepared | Response:
        """The request's question of this round; `looks` keeps the batch's pictures from round to round."""
        try:
            frame = request.frames[0]
            if frame.key not in looks:
                looks[frame.key] = self._look(frame)
            question = _question(request, self._questions[round_number])
            return self._ready.assistant.prepare(looks[frame.key], question)
        except (ModelError, UserError) as error:
            return _error(request, error)

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
            yield _error(request, error)

    def _panoptic(self, request: Request) -> Response:
        segmenter = self._ready.segmenter
        class_set = _class_set_for(request, self._ready.assistant.model.config.class_sets)
        assert class_set is not None, "such requests were turned away"
        frames: Iterable[list[Segment]]
        if request.is_clip:
            frames = segmenter.video(_Pictures(request.frames), class_set.name)
        else:
            frames = [segmenter.panoptic(self._view(request.frames[0]), class_set.name)]
        segments = _panoptic_segments(frames, len(request.frames), class_set, by_query=self._clip_ids == "query")
        status = Status.OK if segments else Status.EMPTY
        return Response(request.id, status, panoptic=PanopticResult(segments))

    def _interactive(self, request: Request) -> Response:
        if not request.prompts:
            raise ModelError("nothing is pointed at", expected="a point, box or mask")
        masks = self._ready.segmenter.interactive(self._view(request.frames[0]), _prompts(request.prompts))
        found = tuple(_mask(mask) for mask in masks)
        return Response(request.id, Status.OK if found else Status.EMPTY, masks=found)

    def _choices(self, request: Request) -> Response:
        look = self._look(request.frames[0])
        scores = self._ready.assistant.score_choices(look, _question(request, ""), request.choices)
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
    config_sha256: str
    tokenizer_sha256: str


class _Pictures(Sequence["Image"]):
    """A clip's pictures, decoded when they are wanted and not kept."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        if isinstance(index, slice):
            return [frame.image for frame in self._frames[index]]
        return self._frames[index].image


def _name(config: OmgLlavaConfig) -> str:
    """What tables call it: the published model by its name alone, one that was trained here with its recipe's."""
    return "OMG-LLaVA" if config.trained_by is None else f"OMG-LLaVA ({config.trained_by.recipe})"


def _origin(config: OmgLlavaConfig) -> dict[str, str]:
    origin = config.trained_by
    if origin is None:
        return {}
    data = "the demo world" if origin.demo else "the user's data"
    return {"trained_on": data, "training_recipe": origin.recipe, "training_seed": str(origin.seed)}


def _check_argument(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise UserError(f"{name} is {value!r}", expected=expected, where="--model-args")


def _error(request: Request, error: ModelError | UserError) -> Response:
    """One line of the error's parts."""
    parts = (error.where, error.found, error.expected and f"expected: {error.expected}", error.hint)
    return Response(request.id, Status.ERROR, error="; ".join(part for part in parts if part))


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
    return _Loaded(
        Assistant(model, tokenizer),
        UniversalSegmenter(model),
        used,
        fingerprint(folder),
        _sha256(model.config.to_json()),
        _sha256(tokenizer.backend_tokenizer.to_str()),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _unsupported(request: Request, class_sets: Sequence[ClassSetConfig]) -> str | None:
    """What the declared capabilities cannot say."""
    if not request.frames:
        return "answers about pictures only"
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


def _question(request: Request, grounded_question: str) -> Question:
    """A request in the model's own words."""
    from omg_llava.assistant import Question
    from omg_llava.conversation import Turn
    from omg_llava.generation import Sampling
    from omg_llava.prompts import speak_of

    texts = [turn.text for turn in request.history] + [request.prompt(_default_wording(request, grounded_question))]
    refers = request.intent in (Intent.REFER_SEGMENT, Intent.REFER_BOX)
    wants_text = refers and "{text}" in (request.template or wording.REFER_SEGMENT)
    if not (request.text or "" if wants_text else texts[-1]).strip():
        raise ModelError("the question has no text", expected="some words")
    if request.intent is Intent.REGION_CAPTION and not request.prompts:
        raise ModelError("no region is pointed at", expected="a point, box or mask")
    placeholders = [found for text in texts for found in _PLACEHOLDER.findall(text)]
    prompts = _prompts(request.prompts, [found == MARK for found in placeholders])
    if prompts and not placeholders:
        # Training put the sentence that names the prompts in front of the conversation.
        texts[0] = speak_of(prompts) + texts[0]
    return Question(
        text=texts[-1],
        prompts=prompts,
        history=tuple(Turn(turn.role, text) for turn, text in zip(request.history, texts, strict=False)),
        sampling=Sampling(request.gen.max_new_tokens, request.gen.temperature, seed=request.gen.seed),
        stop=request.gen.stop,
    )


def _default_wording(request: Request, grounded_question: str) -> str:
    """What is asked where the request brings no template."""
    if request.intent in (Intent.REFER_SEGMENT, Intent.REFER_BOX):
        return wording.REFER_SEGMENT
    if request.text is not None:
        return "{text}"
    if request.intent is Intent.REGION_CAPTION:
        return wording.REGION_CAPTION if len(request.prompts) == 1 else wording.REGION_CAPTIONS
    return grounded_question if request.intent is Intent.GROUNDED_CAPTION else "{text}"


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
            problem = check_rle(prompt.rle, prompt.rle.size)
            if problem is not None:
                raise ModelError(f"a mask prompt: {problem}", expected="a mask of the picture's size")
            made.append(Prompt("mask", rle_to_mask(prompt.rle), as_mark))
        else:
            raise ModelError(f"a {prompt.kind} prompt", expected="a point, box or mask")
    return tuple(made)


def _asks_again(request: Request, reply: Reply) -> bool:
    """The official script goes through its six questions until an answer holds a [SEG]; a caller's wording is asked
    once.
    """
    own_words = request.template is None and request.text is None
    return request.intent is Intent.GROUNDED_CAPTION and own_words and not len(reply.mask_logits)


def _text_response(request: Request, reply: Reply) -> Response:
    masks = tuple(_mask(mask) for mask in reply.each_mask())
    text, spans = _read(request, reply, len(masks))
    boxes: tuple[Box, ...] = ()
    if request.intent is Intent.REFER_BOX:
        found = [tight_box_xyxy(mask.rle) for mask in masks]
        boxes, masks, spans = tuple(Box(xyxy) for xyxy in found if xyxy is not None), (), ()
    status = Status.TRUNCATED if reply.finish == "length" else Status.OK
    if request.intent in (Intent.REFER_SEGMENT, Intent.REFER_BOX) and not masks and not boxes:
        status = Status.EMPTY
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
    # The official cleaning drops line breaks, which joins the words around them; only captions owe it that.
    raw = reply.text.replace("\n", " ") if request.intent is Intent.CHAT else reply.text
    grounded = read_grounded_text(raw)
    spans = tuple(
        Span(phrase.text, phrase.start, phrase.end, masks=(index,) if index < n_masks else ())
        for index, phrase in enumerate(grounded.phrases)
    )
    return grounded.caption, spans


def _class_set_for(request: Request, class_sets: Sequence[ClassSetConfig]) -> ClassSetConfig | None:
    """The label space with the request's numbers and names."""
    wanted = {(category.id, category.name.casefold(), category.is_thing) for category in request.vocabulary}
    for class_set in class_sets:
        classes = enumerate(class_set.classes)
        if wanted == {(item.id, item.name.casefold(), place < class_set.n_things) for place, item in classes}:
            return class_set
    return None


def _panoptic_segments(
    frames: Iterable[Sequence[Segment]], n_frames: int, class_set: ClassSetConfig, *, by_query: bool
) -> tuple[PanopticSegment, ...]:
    """Segments by the official number of each, class and per-frame instance count, or by query. Stuff of one class is
    joined. Each mask becomes run lengths as it comes.
    """
    found: dict[tuple[int, int], tuple[dict[int, list[Rle]], list[float]]] = {}
    for index, segments in enumerate(frames):
        for segment in segments:
            is_thing = segment.label < class_set.n_things
            key = (segment.label, segment.query if by_query and is_thing else segment.instance)
            rles, scores = found.setdefault(key, ({}, []))
            rles.setdefault(index, []).append(_mask(segment.mask).rle)
            scores.append(segment.score)
    made = []
    for number, ((label, _), (rles, scores)) in enumerate(found.items(), start=1):
        masks = tuple(union_of(rles[index]) if index in rles else None for index in range(n_frames))
        made.append(PanopticSegment(number, class_set.classes[label].id, masks, score=max(scores)))
    return tuple(made)


def _mask(mask: torch.Tensor) -> Mask:
    return Mask(mask_to_rle(mask.cpu().numpy()))
