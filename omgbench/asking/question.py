"""From what a user types to a request: the kind of answer, regions inside the picture, options that make sense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omgbench.contract import (
    BoxPrompt,
    Capabilities,
    Category,
    Frame,
    GenOptions,
    Intent,
    MaskPrompt,
    PointPrompt,
    Request,
    ScribblePrompt,
    Turn,
    VisualPrompt,
)
from omgbench.data.jsonfile import checked, put_once, read_json, require
from omgbench.errors import UserError
from omgbench.identity import request_fingerprint
from omgbench.metrics.rle import check_rle
from omgbench.runner.plan import check_gen

AUTO = "auto"
INTENTS = tuple(intent for intent in Intent if intent is not Intent.SCORE_CHOICES)
"""The kinds of answer that can be asked for."""

_NEEDS = {
    Intent.CHAT: "text",
    Intent.REFER_SEGMENT: "text",
    Intent.REFER_BOX: "text",
    Intent.REGION_CAPTION: "prompts",
    Intent.INTERACTIVE: "prompts",
    Intent.PANOPTIC: "vocabulary",
}
_HOW = {
    "text": ("a text", 'type the question, such as "the dog on the left"'),
    "prompts": ("a region to look at", "--point X,Y, --box X1,Y1,X2,Y2 or --mask FILE"),
    "vocabulary": ("a label space", "--vocabulary FILE.json, in the form of COCO panoptic's categories"),
}


def make_request(
    capabilities: Capabilities,
    frame: Frame,
    text: str | None = None,
    *,
    prompts: Sequence[VisualPrompt] = (),
    intent: str = AUTO,
    history: Iterable[Turn | tuple[str, str]] = (),
    gen: GenOptions | Mapping[str, Any] | None = None,
    vocabulary: Sequence[Category] = (),
) -> Request:
    """The request that a question means; its id is a digest of it, so the same question has the same id.

    Args:
        capabilities: what the model can do.
        frame: the picture.
        text: the question or expression; only blanks count as none.
        prompts: regions inside the picture, in the order in which the text speaks of them.
        intent: a value of `Intent` except `score_choices`, or "auto": see `chosen_intent`.
        history: earlier turns, oldest first; a pair is (user, assistant).
        gen: generation options.
        vocabulary: label space of a panoptic answer.

    Raises:
        omgbench.errors.UserError: a region outside the picture, an unknown intent or option, something that the intent
            needs is missing, or the model does not do this.
    """
    text = _checked_text(text, "the question").strip() if text is not None else None
    request = Request(
        id="",
        intent=Intent.CHAT,
        frames=(frame,),
        text=text or None,
        prompts=tuple(checked_prompt(prompt, frame) for prompt in prompts),
        history=tuple(_turns(history)),
        vocabulary=tuple(vocabulary),
        gen=_gen_options(gen),
    )
    request = replace(request, intent=chosen_intent(request, capabilities) if intent == AUTO else _named(intent))
    _check_needs(request)
    refusal = capabilities.refusal(request)
    if refusal is not None:
        raise UserError(f"the model {refusal}", expected=_what_it_does(capabilities), hint="omgbench models NAME")
    return replace(request, id=f"ask-{request_fingerprint(request)}")


def chosen_intent(request: Request, capabilities: Capabilities) -> Intent:
    """The first kind of answer that fits the question and that the model gives.

    | question | kinds, in order |
    |---|---|
    | text and prompts | chat, region caption, interactive |
    | text | chat, referring segmentation, grounded caption, referring box |
    | prompts | interactive, region caption |
    | a vocabulary alone | panoptic |
    | nothing | grounded caption |

    Raises `UserError`, which says what to type, when none is left.
    """
    fitting = _fitting(request)
    for intent in fitting:
        if intent in capabilities.intents:
            return intent
    if fitting == (Intent.GROUNDED_CAPTION,):
        raise UserError(
            "nothing is asked, and the model does not describe pictures by itself",
            expected=_what_it_does(capabilities),
            hint='type a question, such as "What is in the picture?", or point at something: --point X,Y',
        )
    kinds = ", ".join(fitting)
    raise UserError(
        f"the model gives none of the answers that this question can mean: {kinds}",
        expected=_what_it_does(capabilities),
        hint="--intent KIND asks for another kind",
    )


def _fitting(request: Request) -> tuple[Intent, ...]:
    match bool(request.text), bool(request.prompts):
        case True, True:
            return Intent.CHAT, Intent.REGION_CAPTION, Intent.INTERACTIVE
        case True, False:
            return Intent.CHAT, Intent.REFER_SEGMENT, Intent.GROUNDED_CAPTION, Intent.REFER_BOX
        case False, True:
            return Intent.INTERACTIVE, Intent.REGION_CAPTION
        case _:
            return (Intent.PANOPTIC,) if request.vocabulary else (Intent.GROUNDED_CAPTION,)


def _named(intent: str) -> Intent:
    if intent not in INTENTS:
        raise UserError(f"intent {intent!r}", expected=f"one of: {', '.join((AUTO, *INTENTS))}")
    return Intent(intent)


def _check_needs(request: Request) -> None:
    need = _NEEDS.get(request.intent)
    if need is not None and not getattr(request, need):
        what, how = _HOW[need]
        raise UserError(f"a question of the kind {request.intent} needs {what}", hint=how)
    if request.vocabulary and request.intent is not Intent.PANOPTIC:
        raise UserError(
            f"a vocabulary is given to a question of the kind {request.intent}",
            expected=f"one only for the kind {Intent.PANOPTIC}",
            hint=f"--intent {Intent.PANOPTIC}",
        )


def _what_it_does(capabilities: Capabilities) -> str:
    answers = ", ".join(sorted(capabilities.intents)) or "nothing"
    prompts = f"; it reads {', '.join(sorted(capabilities.prompt_kinds))} prompts" if capabilities.prompt_kinds else ""
    return f"what it answers: {answers}{prompts}"


def _checked_text(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{what} is of type {type(text).__name__}", expected="text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} is {text!r}", expected="text in UTF-8") from None
    return text


def _turns(history: Iterable[Turn | tuple[str, str]]) -> Iterable[Turn]:
    for item in history:
        if not isinstance(item, Turn):
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise UserError(f"history holds {item!r}", expected="pairs of texts: (user, assistant)")
            yield Turn("user", _checked_text(item[0], "a turn of the history"))
            yield Turn("assistant", _checked_text(item[1], "a turn of the history"))
        else:
            yield item


def _gen_options(gen: GenOptions | Mapping[str, Any] | None) -> GenOptions:
    if isinstance(gen, GenOptions):
        return gen
    values = dict(gen or {})
    check_gen(values.items())
    if "stop" in values:
        values["stop"] = tuple(values["stop"])
    return GenOptions(**values)


def checked_prompt(prompt: VisualPrompt, frame: Frame) -> VisualPrompt:
    """The prompt with plain floats for numbers. Raises `UserError` unless it lies inside the picture.

    Points lie at 0 <= x < width and 0 <= y < height; boxes have a positive area and reach at most to (width, height);
    a scribble has two points or more.
    """
    if getattr(prompt, "frame", 0) != 0:
        raise UserError(f"a prompt on frame {prompt.frame}", expected="frame 0: there is one picture")
    match prompt:
        case PointPrompt():
            return replace(prompt, xy=_checked_point(prompt.xy, "point", frame))
        case ScribblePrompt():
            if len(prompt.points_xy) < 2:
                raise UserError(f"a scribble of {len(prompt.points_xy)} point(s)", expected="two or more")
            return replace(prompt, points_xy=tuple(_checked_point(xy, "scribble", frame) for xy in prompt.points_xy))
        case BoxPrompt():
            return replace(prompt, xyxy=_checked_box(prompt.xyxy, frame))
        case MaskPrompt():
            problem = check_rle(prompt.rle, (frame.height, frame.width))
            if problem is not None:
                raise UserError(f"a mask prompt cannot be used: {problem}")
            return prompt
    raise UserError(f"a prompt of type {type(prompt).__name__}", expected="a point, box, mask or scribble prompt")


def _checked_point(xy: Sequence[float], what: str, frame: Frame) -> tuple[float, float]:
    x, y = _numbers(xy, 2, what)
    if not (0 <= x < frame.width and 0 <= y < frame.height):
        raise UserError(
            f"the {what} {x:g},{y:g} lies outside the picture of {_size(frame)}",
            expected=f"0 <= x < {frame.width} and 0 <= y < {frame.height}",
        )
    return x, y


def _checked_box(xyxy: Sequence[float], frame: Frame) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = _numbers(xyxy, 4, "box")
    shown = f"the box {x1:g},{y1:g},{x2:g},{y2:g}"
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{shown} has no area", expected="x1 < x2 and y1 < y2")
    if x1 < 0 or y1 < 0 or x2 > frame.width or y2 > frame.height:
        raise UserError(
            f"{shown} reaches out of the picture of {_size(frame)}",
            expected=f"0 <= x1 < x2 <= {frame.width} and 0 <= y1 < y2 <= {frame.height}",
        )
    return x1, y1, x2, y2


def _numbers(values: Sequence[float], n: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != n or not all(map(math.isfinite, numbers)):
        raise UserError(f"a {what} is {values!r}", expected=f"{n} finite numbers, in pixels of the picture")
    return numbers


def _size(frame: Frame) -> str:
    return f"{frame.width} x {frame.height} pixels (width x height)"


def read_vocabulary(path: Path) -> tuple[Category, ...]:
    """The categories of a JSON file in the form of COCO panoptic: a list of `{"id", "name", "isthing"}`, or an object
    that holds it as `categories`. Raises `DataError` for anything else, also a list without an entry."""
    content = read_json(path)
    listed = require(content, "categories", list, str(path)) if isinstance(content, dict) else content
    found: dict[int, Category] = {}
    for index, entry in enumerate(checked(listed, list, "the file", str(path))):
        where = f"{path}: entry {index}"
        number, name = require(entry, "id", int, where), require(entry, "name", str, where)
        category = Category(number, name, bool(require(entry, "isthing", (int, bool), where)))
        put_once(found, number, category, "category id", where)
    if not found:
        raise UserError("the vocabulary is empty", expected="one category or more", where=str(path))
    return tuple(found.values())
