"""`omgbench ask`."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omgbench.cli.options import json_option, model_args_option, read_pairs
from omgbench.errors import EXIT_INCOMPLETE, UserError
from omgbench.printable import SENTENCE_LIMIT, printable

if TYPE_CHECKING:
    from omgbench.asking import Answer
    from omgbench.contract import BoxXyxy, Frame, PointXy, Rle, VisualPrompt

_PROMPT_OPTIONS = ("point", "negative_point", "box", "mask")


class PromptsInOrder(click.Command):
    """A command that knows in which order options of different names were given: `ctx.meta[PROMPT_ORDER]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse twice: click keeps the order of all options only inside its parser."""
        order = self.make_parser(ctx).parse_args(list(args))[2]
        ctx.meta[PROMPT_ORDER] = [option.name for option in order if option.name in _PROMPT_OPTIONS]
        return super().parse_args(ctx, args)


PROMPT_ORDER = f"{__name__}.prompt_order"


@click.command(
    cls=PromptsInOrder,
    epilog="""\b
Examples:
  omgbench ask --model random --image photo.jpg "Please segment the dog on the left" --out answer.png
  omgbench ask --model my_pkg:MyModel --image photo.jpg --point 120,80 --negative-point 10,10 --out answer.png
  omgbench ask --model my_model.py:MyModel --image photo.jpg --box 10,20,200,180 "What is this?" --json
  omgbench ask --model random --image photo.jpg --intent panoptic --vocabulary coco_panoptic.json --masks-out masks
""",
)
@click.argument("text", required=False)
@click.option("--model", required=True, help="Registered name, file.py:Class, or package.module:Class.")
@click.option(
    "--image",
    required=True,
    type=click.Path(path_type=Path),
    help="The picture, in any format that PIL reads; turned as its EXIF part says.",
)
@click.option("--point", multiple=True, metavar="X,Y", help="A click, in pixels; '!X,Y' marks background.")
@click.option("--negative-point", multiple=True, metavar="X,Y", help="A click on the background.")
@click.option("--box", multiple=True, metavar="X1,Y1,X2,Y2", help="A box, in pixels; right and bottom exclusive.")
@click.option(
    "--mask",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A region: a PNG of the picture's size, inside where it is not transparent and not black.",
)
@click.option(
    "--intent", default="auto", show_default=True, metavar="KIND", help="Kind of answer, such as refer_segment."
)
@click.option(
    "--history", multiple=True, nargs=2, metavar="USER ASSISTANT", help="An earlier turn: question and answer."
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path),
    help="Label space of a panoptic answer: JSON with COCO panoptic's categories.",
)
@model_args_option
@click.option("--gen", multiple=True, metavar="KEY=VALUE", help="Generation option, such as max_new_tokens=64.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16.")
@click.option("--online", is_flag=True, help="Let the model fetch what it lacks.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the picture with the answer drawn in: .png or .jpg."
)
@click.option("--masks-out", type=click.Path(path_type=Path), help="Write each mask as a PNG into this folder.")
@click.option("--force", is_flag=True, help="Overwrite what --out and --masks-out name.")
@json_option
@click.pass_context
def ask(ctx: click.Context, /, as_json: bool, **options: Any) -> int:
    """Ask a model one question about one picture and show the answer.

    Points, boxes and masks may be repeated and mixed; their order is that of the regions of which TEXT speaks.
    Coordinates are pixels of the picture as you see it. Without --intent the kind of answer follows from what is
    given, and is told on standard error.
    """
    _check_places(options["out"], options["masks_out"], options["image"], options["force"])
    # What a model prints must not stand between the lines of the answer.
    with contextlib.redirect_stdout(sys.stderr):
        answer = _answer(options, _prompt_texts(ctx, options), quiet=as_json)
    written: list[Path] = []
    try:
        written = _write(answer, options["out"], options["masks_out"]) if answer.ok else []
    finally:
        # An answer that took minutes is not lost over a place that cannot be written.
        if as_json:
            value = _value(answer) | {"written": [str(path) for path in written]}
            # JSON may hold the character DEL as it is.
            click.echo(json.dumps(value, indent=1).replace("\x7f", "\\u007f"))
        else:
            _show(answer, written)
    return 0 if answer.ok else EXIT_INCOMPLETE


# ---- before the model ------------------------------------------------------------------------------------------------


def _check_places(out: Path | None, masks_out: Path | None, image: Path, force: bool) -> None:
    """Everything that would make writing fail, before minutes are spent on loading a model."""
    try:
        if out is not None:
            _check_out(out, image, force)
        if masks_out is not None:
            _check_masks_out(masks_out, force)
    # A name that is too long, a folder that may not be read.
    except OSError as error:
        raise UserError(str(error), expected="places for --out and --masks-out that can be written") from error


def _check_out(out: Path, image: Path, force: bool) -> None:
    from omgbench.asking.answer import picture_format

    picture_format(out)
    _check_parent(out, "--out")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", expected="a file name")
    if out.exists() and image.exists() and out.samefile(image):
        raise UserError(f"--out {out} is the picture itself", expected="another file")
    if out.exists() and not force:
        raise UserError(f"--out {out} exists", expected="a new file", hint="--force overwrites it")


def _check_masks_out(folder: Path, force: bool) -> None:
    _check_parent(folder, "--masks-out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--masks-out {folder} is a file", expected="a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(
            f"--masks-out {folder} is not empty",
            expected="a new or empty folder",
            hint="--force writes into it all the same",
        )


def _check_parent(path: Path, option: str) -> None:
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}", hint="make the folder, or name another")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {path}: {path.parent} cannot be written to: {error.strerror}", hint="name another folder"
        ) from None


def _prompt_texts(ctx: click.Context, options: dict[str, Any]) -> list[tuple[str, Any]]:
    """Option and value of each prompt, in the order of the command line."""
    values = {name: iter(options.pop(name)) for name in _PROMPT_OPTIONS}
    return [(name, next(values[name])) for name in ctx.meta[PROMPT_ORDER]]


def _answer(options: dict[str, Any], prompt_texts: list[tuple[str, Any]], quiet: bool) -> Answer:
    from omgbench.asking import OpenModel, make_request, open_picture, read_vocabulary
    from omgbench.asking.question import AUTO, checked_prompt

    frame = open_picture(options["image"])
    prompts = [checked_prompt(_prompt(name, value, frame), frame) for name, value in prompt_texts]
    opened = OpenModel(
        options["model"],
        model_args=read_pairs(options["model_args"], "--model-args"),
        device=options["device"],
        dtype=options["dtype"],
        offline=not options["online"],
    )
    request = make_request(
        opened.capabilities,
        frame,
        options["text"],
        prompts=prompts,
        intent=options["intent"],
        history=options["history"],
        gen=read_pairs(options["gen"], "--gen"),
        vocabulary=read_vocabulary(options["vocabulary"]) if options["vocabulary"] is not None else (),
    )
    if options["intent"] == AUTO and not quiet:
        click.echo(f"omgbench: asked as {request.intent}; --intent KIND asks for another kind of answer", err=True)
    with opened:
        return opened.answer(request)


def _prompt(name: str, value: Any, frame: Frame) -> VisualPrompt:
    from omgbench.asking import read_mask
    from omgbench.contract import BoxPrompt, MaskPrompt, PointPrompt

    if name == "mask":
        return MaskPrompt(read_mask(value, frame))
    if name == "box":
        box: BoxXyxy = _numbers(value, "--box", "X1,Y1,X2,Y2")  # type: ignore[assignment]
        return BoxPrompt(box)
    is_negative = name == "negative_point" or value.startswith("!")
    point: PointXy = _numbers(value.removeprefix("!"), f"--{name.replace('_', '-')}", "X,Y")  # type: ignore[assignment]
    return PointPrompt(point, positive=not is_negative)


def _numbers(text: str, option: str, form: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        raise UserError(f"{option} {text}", expected=f"{form} in pixels of the picture, without blanks")
    return numbers


# ---- after the model -------------------------------------------------------------------------------------------------


def _write(answer: Answer, out: Path | None, masks_out: Path | None) -> list[Path]:
    written: list[Path] = []
    if out is not None:
        written.append(answer.save(out))
    if masks_out is not None:
        from PIL import Image

        from omgbench.asking.answer import write_picture
        from omgbench.metrics.rle import rle_to_mask

        masks_out.mkdir(exist_ok=True)
        for region in answer.regions:
            if region.rle is not None:
                path = masks_out / f"mask_{region.number:03d}.png"
                write_picture(Image.fromarray(rle_to_mask(region.rle).astype("uint8") * 255), path)
                written.append(path)
    return written


def _show(answer: Answer, written: list[Path]) -> None:
    status, error = answer.response.status, answer.response.error
    if not answer.ok:
        click.echo(f"omgbench: no answer ({status}): {printable(error or 'no reason given', SENTENCE_LIMIT)}", err=True)
        return
    lines = answer.lines()
    for line in lines or [f"(nothing: {status})"]:
        click.echo(line)
    if status != "ok" and lines:
        click.echo(f"omgbench: the model ended with status {status}", err=True)
    if written:
        more = f" and {len(written) - 1} more" if len(written) > 1 else ""
        click.echo(f"omgbench: wrote {printable(str(written[0]))}{more}", err=True)


def _value(answer: Answer) -> dict[str, Any]:
    """The answer as plain JSON values. `masks` and `boxes` are indexed by the spans."""
    request, response = answer.request, answer.response
    frame = request.frames[0]
    return {
        "model": answer.model,
        "intent": request.intent.value,
        "status": response.status.value,
        "text": response.text,
        "raw_text": response.raw_text,
        "spans": [
            {"phrase": span.phrase, "start": span.start, "end": span.end, "masks": span.masks, "boxes": span.boxes}
            for span in response.spans
        ],
        "boxes": [{"xyxy": box.xyxy, "score": box.score} for box in response.boxes],
        "masks": [_mask_value(mask.rle) | {"score": mask.score} for mask in response.masks],
        "panoptic": _panoptic_value(answer),
        "error": response.error,
        "usage": response.usage,
        "seconds": round(answer.seconds, 3),
        "image": {"width": frame.width, "height": frame.height},
    }


def _panoptic_value(answer: Answer) -> list[dict[str, Any]] | None:
    if answer.response.panoptic is None:
        return None
    names = {category.id: category.name for category in answer.request.vocabulary}
    return [
        {
            "id": segment.id,
            "category_id": segment.category_id,
            "category": names[segment.category_id],
            **_mask_value(segment.masks[0]),
            "score": segment.score,
        }
        for segment in answer.response.panoptic.segments
    ]


def _mask_value(rle: Rle | None) -> dict[str, Any]:
    if rle is None:
        return {"rle": None, "area_px": 0, "box_xyxy": None}
    from omgbench.metrics.rle import area_px, tight_box_xyxy, to_coco

    return {"rle": to_coco(rle), "area_px": area_px(rle), "box_xyxy": tight_box_xyxy(rle)}
