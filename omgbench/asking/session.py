"""A model that is opened once and asked many questions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack

from omgbench import registry
from omgbench.asking.answer import Answer
from omgbench.asking.pictures import MaskLike, PictureLike, open_picture, read_mask
from omgbench.asking.question import AUTO, make_request, read_vocabulary
from omgbench.contract import (
    BoxPrompt,
    BoxXyxy,
    Capabilities,
    Category,
    Frame,
    GenOptions,
    MaskPrompt,
    Model,
    ModelDied,
    Placement,
    PointPrompt,
    PointXy,
    Request,
    Response,
    Status,
    Turn,
    VisualPrompt,
)
from omgbench.errors import UserError
from omgbench.runner.ask import Asker
from omgbench.runner.engine import load_model
from omgbench.runner.progress import WarningsOnly
from omgbench.runner.run import check_placement


class QuestionOptions(TypedDict, total=False):
    """Keyword arguments of a question; see `ask`."""

    points: Sequence[PointXy]
    boxes_xyxy: Sequence[BoxXyxy]
    masks: Sequence[MaskLike]
    prompts: Sequence[VisualPrompt] | None
    intent: str
    history: Iterable[Turn | tuple[str, str]]
    gen: GenOptions | Mapping[str, Any] | None
    vocabulary: str | Path | Sequence[Category]


class OpenModel:
    """A model to ask, loaded at the first question or by `load`. A context manager; `close` frees the weights.

    A model that is given as an object counts as loaded, and is left open.

    Attributes:
        spec: the model's name, file or import path; the class' name of an object.
        capabilities: what it can do, known without loading it.
    """

    def __init__(
        self,
        model: str | Model,
        *,
        model_args: Mapping[str, Any] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = True,
    ) -> None:
        """Build the model without loading its weights; see `open_model`."""
        self._placement = Placement(device, dtype, offline)
        check_placement(self._placement)
        self._is_ours = isinstance(model, str)
        if not isinstance(model, str) and model_args:
            raise UserError("model_args are given with a model object", expected="a name, file or import path")
        self.spec = model if isinstance(model, str) else type(model).__name__
        self._model = registry.build_model(model, model_args) if isinstance(model, str) else model
        self.capabilities: Capabilities = registry.capabilities_of(self._model, self.spec)
        if self.capabilities.sees_references:
            raise UserError(
                f"the model {self.spec} gives back the right answers that it is told, and a question has none",
                expected="a model that answers by itself",
                hint="omgbench models lists them",
            )
        self._name = self.spec
        self._is_loaded = not self._is_ours

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, image: PictureLike, text: str | None = None, **question: Unpack[QuestionOptions]) -> Answer:
        """Ask one question; the arguments are those of `ask`, apart from the model's own."""
        return self.answer(self.question(image, text, **question))

    def question(self, image: PictureLike, text: str | None = None, **question: Unpack[QuestionOptions]) -> Request:
        """The request that a question means. Nothing is loaded. Raises `UserError`; see `ask`."""
        frame = open_picture(image)
        vocabulary = question.get("vocabulary", ())
        return make_request(
            self.capabilities,
            frame,
            text,
            prompts=_prompts(frame, question),
            intent=question.get("intent", AUTO),
            history=question.get("history", ()),
            gen=question.get("gen"),
            vocabulary=read_vocabulary(Path(vocabulary)) if isinstance(vocabulary, str | Path) else vocabulary,
        )

    def answer(self, request: Request) -> Answer:
        """Put a request to the model, loading it first where that has not happened.

        Whatever the model does becomes a response: what it raises an error, an answer that breaks a rule of the
        contract too. Raises `PluginError` when it cannot be loaded.
        """
        self.load()
        start = time.monotonic()
        try:
            response = Asker(self._model, self.capabilities, 1).ask([request])[0]
        except ModelDied as error:
            response = Response(request.id, Status.ERROR, error=f"the model died: {error}")
        return Answer(request, response, self._name, time.monotonic() - start)

    def load(self) -> None:
        """Load the weights, once. Raises `PluginError` for whatever the adapter raises."""
        if not self._is_loaded:
            self._name = load_model(self._model, self._placement).identity.name
            self._is_loaded = True

    def close(self) -> None:
        """Free a model that was loaded here; asking again loads it again."""
        if self._is_ours and self._is_loaded:
            self._is_loaded = False
            try:
                self._model.close()
            except Exception as error:
                WarningsOnly().say(f"{self.spec}: close() raised {type(error).__name__}: {error}")


def _prompts(frame: Frame, question: QuestionOptions) -> tuple[VisualPrompt, ...]:
    separate: list[VisualPrompt] = [
        *(PointPrompt(xy) for xy in question.get("points", ())),
        *(BoxPrompt(xyxy) for xyxy in question.get("boxes_xyxy", ())),
        *(MaskPrompt(read_mask(mask, frame)) for mask in question.get("masks", ())),
    ]
    prompts = question.get("prompts")
    if prompts is None:
        return tuple(separate)
    if separate:
        raise UserError("prompts are given beside points, boxes or masks", expected="all of them in prompts, in order")
    return tuple(prompts)


def open_model(
    model: str | Model,
    *,
    model_args: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = True,
) -> OpenModel:
    """Load a model for many questions: `with open_model("my_pkg:MyModel") as model: model.ask("photo.jpg", "...")`.

    Args:
        model: registered name, `file.py:Class`, `package.module:Class`, or a model object that is loaded already.
        model_args: constructor arguments of a model given by name.
        device, dtype, offline: placement of the model.

    Raises:
        omgbench.errors.UserError: no such model, or it cannot be built or loaded.
    """
    opened = OpenModel(model, model_args=model_args, device=device, dtype=dtype, offline=offline)
    opened.load()
    return opened


def ask(
    model: str | Model,
    image: PictureLike,
    text: str | None = None,
    *,
    points: Sequence[PointXy] = (),
    boxes_xyxy: Sequence[BoxXyxy] = (),
    masks: Sequence[MaskLike] = (),
    prompts: Sequence[VisualPrompt] | None = None,
    intent: str = AUTO,
    history: Iterable[Turn | tuple[str, str]] = (),
    gen: GenOptions | Mapping[str, Any] | None = None,
    vocabulary: str | Path | Sequence[Category] = (),
    model_args: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = True,
) -> Answer:
    """Ask a model one question about one picture. A model given by name is loaded for it; for several questions see
    `open_model`.

    Args:
        model: registered name, `file.py:Class`, `package.module:Class`, or a model object that is loaded already.
        image: a file of any format that PIL reads, turned as its EXIF part says; a PIL image; or a uint8 RGB array
            (height, width, 3).
        text: the question, or the expression that names a thing.
        points: clicks (x, y) in pixels of the picture as a person sees it.
        boxes_xyxy: boxes (x1, y1, x2, y2), right and bottom exclusive.
        masks: regions: PNG files of the picture's size (see `read_mask`), arrays (height, width), or `Rle`.
        prompts: in place of points, boxes and masks: prompts of every kind, in the order in which the text speaks of
            them; `PointPrompt(xy, positive=False)` marks background.
        intent: kind of answer, a value of `omgbench.contract.Intent`; "auto" chooses by what is asked.
        history: earlier turns, pairs (user, assistant), oldest first.
        gen: generation options, such as `{"max_new_tokens": 64}`.
        vocabulary: label space of a panoptic answer: categories, or a JSON file in COCO panoptic's form.
        model_args: constructor arguments of a model given by name.
        device, dtype, offline: placement of the model.

    Returns:
        The answer, also when the model failed: see `Answer.ok` and `Answer.response.error`.

    Raises:
        omgbench.errors.UserError: anything the caller can mend, before the model is loaded wherever possible.
    """
    with OpenModel(model, model_args=model_args, device=device, dtype=dtype, offline=offline) as opened:
        return opened.ask(
            image,
            text,
            points=points,
            boxes_xyxy=boxes_xyxy,
            masks=masks,
            prompts=prompts,
            intent=intent,
            history=history,
            gen=gen,
            vocabulary=vocabulary,
        )
