"""One question to a model: pictures as a person sees them, regions, kinds of answer, and the answer itself."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import omgbench
from omgbench.asking import OpenModel, make_request, open_picture, read_mask, read_vocabulary
from omgbench.contract import (
    BoxPrompt,
    Capabilities,
    Intent,
    Mask,
    MaskPrompt,
    ModelDied,
    ModelIdentity,
    PerRequestModel,
    Placement,
    PointPrompt,
    Request,
    Response,
    ScribblePrompt,
    Span,
    Status,
    Turn,
)
from omgbench.data.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from omgbench.errors import DataError, PluginError, UserError
from omgbench.metrics.rle import mask_to_rle
from omgbench.testing.models import CrashingModel, ScriptedModel

WIDTH, HEIGHT = 24, 16
ALL = frozenset(Intent)


def pixels(channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "photo.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def shown(source: Any) -> np.ndarray:
    frame = open_picture(source)
    assert frame.image.mode == "RGB"
    assert frame.image.size == (frame.width, frame.height)
    return np.asarray(frame.image)


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm", "tga", "ico", "jp2", "qoi", "pcx"]
)
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, Image.fromarray(pixels()), f"photo.{suffix}")
    with Image.open(path) as expected:
        assert (shown(path) == np.asarray(expected.convert("RGB"))).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_its_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path, Image.fromarray(pixels()), f"photo.{suffix}", exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert (expected.size == (WIDTH, HEIGHT)) == (orientation < 5)
    assert (shown(path) == np.asarray(expected)).all()


@pytest.mark.filterwarnings("error")
def test_a_damaged_exif_part_turns_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(pixels()), "photo.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")
    assert shown(path).shape == (HEIGHT, WIDTH, 3)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    rgba = pixels(4)
    rgba[:8, :, 3], rgba[8:, :, 3] = 0, 255
    found = shown(saved(tmp_path, Image.fromarray(rgba)))
    assert (found[:8] == 255).all()
    assert (found[8:] == rgba[8:, :, :3]).all()
    half = np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH), 128, np.uint8)])
    assert abs(int(shown(Image.fromarray(half))[0, 0, 0]) - 127) <= 1


def test_a_palette_with_a_transparent_entry_is_white_there(tmp_path: Path) -> None:
    index = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    image = Image.fromarray(index).convert("P")
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    found = shown(saved(tmp_path, image, transparency=1))
    assert (found[index == 0] == (200, 0, 0)).all()
    assert (found[index == 1] == 255).all()
    assert (found[index == 2] == (0, 0, 200)).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    path = tmp_path / f"photo.{suffix}"
    if suffix == "pgm":
        path.write_bytes(f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(path)
    found = shown(path)
    assert (found == np.rint(grey / 257).astype(np.uint8)[:, :, None]).all()
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)


def test_cmyk_grey_and_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(pixels())
    cmyk = image.convert("CMYK")
    assert (shown(saved(tmp_path, cmyk, "a.tif")) == np.asarray(cmyk.convert("RGB"))).all()
    for mode in ("L", "LA", "1"):
        assert (shown(saved(tmp_path, image.convert(mode))) == np.asarray(image.convert(mode).convert("RGB"))).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3)], ids=str)
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path, Image.new("RGB", size, (9, 8, 7)))
    answer = omgbench.ask("random", path, intent="grounded_caption", points=[(0.5, 0.5)])
    assert answer.ok
    assert answer.masks[0].shape == (size[1], size[0])
    assert answer.overlay.width > 300 or answer.overlay.height > 300


def test_arrays_and_pil_images_are_taken_as_they_are() -> None:
    array = pixels()
    assert (shown(array) == array).all()
    assert (shown(array[:, ::-1]) == array[:, ::-1]).all()
    image = Image.fromarray(array)
    image.getexif()[274] = 6
    assert (shown(image) == array).all()
    frame = open_picture(array)
    array[:] = 0
    assert np.asarray(frame.image).any(), "the caller's array may change"


def test_equal_pixels_have_one_key_and_others_another(tmp_path: Path) -> None:
    image = Image.fromarray(pixels())
    key = open_picture(saved(tmp_path, image)).key
    assert key == open_picture(saved(tmp_path, image, "other.bmp")).key == open_picture(pixels()).key
    assert key != open_picture(pixels(seed=1)).key
    assert open_picture(pixels().reshape(WIDTH, HEIGHT, 3)).key != key, "the same bytes in another shape"


def test_the_source_of_a_frame_holds_the_picture_as_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    frame = open_picture(saved(tmp_path, Image.fromarray(pixels()), exif=exif))
    assert callable(frame.source)
    assert (np.asarray(Image.open(io.BytesIO(frame.source()))) == np.asarray(frame.image)).all()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels().repeat(20, 0).repeat(20, 1)).save(stream, "JPEG")
    return stream.getvalue()


BAD_PICTURES = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is no picture at all\n", "not a picture"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
    "noise": (np.random.default_rng(0).bytes(3000), "not a picture"),
    "truncated JPEG": (jpeg()[: len(jpeg()) // 2], "cannot be decoded"),
    "truncated head": (jpeg()[:20], "not a picture"),
    "bomb": (png_header(2**15, 2**14), f"{2**15} x {2**14} pixels"),
    "cut off": (png_header(1400, 1400)[:-12], "cannot be decoded"),
}


@pytest.mark.parametrize(("data", "message"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_pictures(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        open_picture(path)
    assert message in error.value.found
    assert error.value.where == str(path)


def test_bad_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.png", Path("/dev/zero")):
        with pytest.raises(DataError):
            open_picture(path)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(DataError, match="at most"):
        open_picture(large)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        Image.new("F", (4, 4)),
        Image.new("I", (4, 4)),
        7,
        None,
        np.broadcast_to(np.uint8(0), (MAX_IMAGE_PIXELS + 1, 1, 3)),
    ],
    ids=range(9),
)
def test_things_that_are_no_picture(value: Any) -> None:
    with pytest.raises(UserError):
        open_picture(value)


# ---- masks ----------------------------------------------------------------------------------------------------------

INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[3:9, 5:20] = True


def mask_images() -> dict[str, Image.Image]:
    """Pictures in which `INSIDE` is meant."""
    ink = INSIDE.astype(np.uint8)
    palette = Image.fromarray(ink).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    return {
        "white on black": Image.fromarray(ink * 255),
        "1 of 255": Image.fromarray(ink),
        "bits": Image.fromarray(INSIDE),
        "16 bit, faint": Image.fromarray(ink.astype(np.uint16) * 3),
        "palette": palette,
        "coloured": Image.fromarray(np.dstack([ink * 0, ink * 0, ink * 9])),
        "painted on nothing": Image.fromarray(np.dstack([ink * 0, ink * 0, ink * 0, ink * 200])),
        "opaque": Image.fromarray(np.dstack([ink, ink, ink, ink * 0 + 255])),
        "grey on nothing": Image.fromarray(np.dstack([ink * 7, ink * 255])),
    }


@pytest.mark.parametrize("name", mask_images())
def test_masks_of_every_mode(tmp_path: Path, name: str) -> None:
    image = mask_images()[name]
    frame = open_picture(pixels())
    assert read_mask(saved(tmp_path, image), frame) == mask_to_rle(INSIDE)
    assert read_mask(image, frame) == mask_to_rle(INSIDE)


def test_masks_as_arrays_and_run_lengths() -> None:
    frame, rle = open_picture(pixels()), mask_to_rle(INSIDE)
    assert read_mask(rle, frame) is rle
    for array in (INSIDE, INSIDE.astype(np.int64), INSIDE * 0.5):
        assert read_mask(array, frame) == rle


def test_bad_masks(tmp_path: Path) -> None:
    frame = open_picture(pixels())
    mask = Image.fromarray(INSIDE)
    cases: list[tuple[Any, str]] = [
        (saved(tmp_path, mask.resize((8, 8)), "small.png"), "8 x 8"),
        (saved(tmp_path, mask.convert("L"), "mask.jpg"), "JPEG"),
        (INSIDE.T, "16 x 24"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.zeros_like(INSIDE), "no pixel"),
        (mask_to_rle(INSIDE.T.copy()), "24 x 16"),
        (np.array([["a"]]), "numbers"),
        (3, "type int"),
        (tmp_path / "nowhere.png", "not found"),
    ]
    for value, words in cases:
        with pytest.raises(UserError, match=words):
            read_mask(value, frame)


# ---- the question ---------------------------------------------------------------------------------------------------

POINT, BOX = PointPrompt((3.0, 4.0)), BoxPrompt((1.0, 2.0, 9.0, 10.0))
CATEGORIES = [{"id": 7, "name": "sky", "isthing": 0}, {"id": 9, "name": "dog", "isthing": 1}]


def can(*intents: Intent, **more: Any) -> Capabilities:
    kinds = frozenset({"point", "box", "mask", "scribble"})
    return Capabilities(frozenset(intents), **({"prompt_kinds": kinds} | more))


def request_of(capabilities: Capabilities, text: str | None = None, **question: Any) -> Request:
    return make_request(capabilities, open_picture(pixels()), text, **question)


@pytest.mark.parametrize(
    ("intents", "text", "prompts", "expected"),
    [
        (ALL, "what?", (), Intent.CHAT),
        (ALL, "what?", (POINT,), Intent.CHAT),
        (ALL - {Intent.CHAT}, "dog", (), Intent.REFER_SEGMENT),
        ({Intent.GROUNDED_CAPTION, Intent.REFER_BOX}, "dog", (), Intent.GROUNDED_CAPTION),
        ({Intent.REFER_BOX}, "dog", (), Intent.REFER_BOX),
        (ALL, None, (POINT,), Intent.INTERACTIVE),
        (ALL, "  ", (POINT,), Intent.INTERACTIVE),
        ({Intent.REGION_CAPTION, Intent.CHAT}, None, (BOX,), Intent.REGION_CAPTION),
        (ALL - {Intent.CHAT}, "what?", (BOX,), Intent.REGION_CAPTION),
        (ALL, None, (), Intent.GROUNDED_CAPTION),
    ],
)
def test_auto_chooses(intents: set[Intent], text: str | None, prompts: Any, expected: Intent) -> None:
    request = request_of(can(*intents), text, prompts=prompts)
    assert request.intent is expected
    assert request.text == (text.strip() or None if text else None)


def test_auto_takes_a_vocabulary_for_panoptic(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text('{"categories": [{"id": 7, "name": "sky", "isthing": 0}, {"id": 9, "name": "dog", "isthing": 1}]}')
    request = request_of(can(*ALL), vocabulary=read_vocabulary(path))
    assert request.intent is Intent.PANOPTIC
    assert [(c.id, c.name, c.is_thing) for c in request.vocabulary] == [(7, "sky", False), (9, "dog", True)]


@pytest.mark.parametrize(
    ("capabilities", "question", "words"),
    [
        (can(Intent.CHAT), {}, "nothing is asked"),
        (can(Intent.CHAT), {"prompts": (POINT,)}, "interactive, region_caption"),
        (can(Intent.PANOPTIC), {"text": "dog"}, "chat, refer_segment"),
        (can(Intent.CHAT), {"text": "dog", "intent": "refer_segment"}, "does not answer refer_segment"),
        (can(Intent.CHAT, prompt_kinds=frozenset({"box"})), {"text": "x", "prompts": (POINT,)}, "does not read point"),
        (can(Intent.CHAT), {"text": "x", "history": [("a", "b")]}, "does not continue conversations"),
        (can(*ALL), {"intent": "refer_segment"}, "needs a text"),
        (can(*ALL), {"text": "x", "intent": "interactive"}, "needs a region"),
        (can(*ALL), {"intent": "panoptic"}, "needs a label space"),
        (can(*ALL), {"intent": "segment"}, "segment"),
        (can(*ALL), {"text": "x", "intent": "score_choices"}, "score_choices"),
        (can(*ALL), {"text": 3}, "type int"),
        (can(*ALL), {"text": "\ud800"}, "ud800"),
        (can(*ALL, history=True), {"text": "x", "history": ["abc"]}, "history"),
        (can(*ALL, history=True), {"text": "x", "history": [("a", 3)]}, "history"),
        (can(*ALL), {"text": "x", "gen": {"max_new_tokens": 0}}, "max_new_tokens"),
        (can(*ALL), {"text": "x", "gen": {"tokens": 1}}, "tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_questions_that_make_no_sense(capabilities: Capabilities, question: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        request_of(capabilities, **question)
    assert words in error.value.found
    assert error.value.expected or error.value.hint


@pytest.mark.parametrize(
    "prompt",
    [
        PointPrompt((0, 0)),
        PointPrompt((23.99, 15.99), positive=False),
        BoxPrompt((0, 0, 24, 16)),
        ScribblePrompt(((0, 0), (23, 15))),
        MaskPrompt(mask_to_rle(INSIDE)),
        PointPrompt(tuple(np.array([3, 4]))),
    ],
    ids=str,
)
def test_prompts_inside(prompt: Any) -> None:
    found = request_of(can(*ALL), prompts=[prompt]).prompts[0]
    assert found == prompt
    if isinstance(found, PointPrompt):
        assert all(type(value) is float for value in found.xy)


@pytest.mark.parametrize(
    "prompt",
    [
        PointPrompt((24, 3)),
        PointPrompt((3, 16)),
        PointPrompt((-0.1, 3)),
        PointPrompt((float("nan"), 3)),
        PointPrompt((1, 2, 3)),  # type: ignore[arg-type]
        PointPrompt("ab"),  # type: ignore[arg-type]
        PointPrompt((1, 1), frame=1),
        BoxPrompt((0, 0, 24.5, 16)),
        BoxPrompt((5, 5, 5, 9)),
        BoxPrompt((9, 5, 5, 9)),
        BoxPrompt((-1, 0, 5, 9)),
        BoxPrompt((0, 0, float("inf"), 9)),
        ScribblePrompt(((1, 1),)),
        ScribblePrompt(((1, 1), (99, 1))),
        MaskPrompt(mask_to_rle(INSIDE.T.copy())),
        (3, 4),
    ],
    ids=str,
)
def test_prompts_outside(prompt: Any) -> None:
    with pytest.raises(UserError):
        request_of(can(*ALL), prompts=[prompt])


def test_everything_arrives_at_the_model() -> None:
    request = request_of(
        can(*ALL, history=True),
        "and this?",
        prompts=[BOX, POINT],
        history=[("hello", "hi"), Turn("user", "one"), Turn("assistant", "two")],
        gen={"max_new_tokens": 9, "stop": ["#"]},
    )
    assert [(turn.role, turn.text) for turn in request.history] == [
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "one"),
        ("assistant", "two"),
    ]
    assert request.prompts == (BOX, POINT)
    assert (request.gen.max_new_tokens, request.gen.stop) == (9, ("#",))


def test_an_id_stands_for_the_question() -> None:
    first = request_of(can(*ALL), "a")
    assert first.id == request_of(can(*ALL), "a").id
    assert first.id != request_of(can(*ALL), "b").id
    assert first.id != make_request(can(*ALL), open_picture(pixels(seed=5)), "a").id


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"categories": {}}',
        '{"things": []}',
        "3",
        "[{}]",
        '[{"id": "1", "name": "a", "isthing": 1}]',
        '[{"id": 1, "name": "a"}]',
        '[{"id": 1, "name": "a", "isthing": 1}, {"id": 1, "name": "b", "isthing": 1}]',
        "[",
    ],
)
def test_bad_vocabularies(tmp_path: Path, content: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(UserError):
        read_vocabulary(path)


# ---- models and answers ---------------------------------------------------------------------------------------------


class Counting(PerRequestModel):
    """Counts what happens to it; answers with one mask."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def capabilities(self) -> Capabilities:
        return can(Intent.CHAT, Intent.REFER_SEGMENT, Intent.INTERACTIVE, prompt_kinds=frozenset({"point"}))

    def identity(self) -> ModelIdentity:
        return ModelIdentity("counting", "1", "none")

    def load(self, placement: Placement) -> None:
        self.calls.append(f"load {placement.device} {placement.dtype} {placement.offline}")

    def close(self) -> None:
        self.calls.append("close")

    def answer(self, request: Request) -> Response:
        self.calls.append(str(request.text))
        mask = Mask(mask_to_rle(INSIDE))
        return Response(request.id, text="a dog", masks=(mask,), spans=(Span("a dog", 0, 5, (0,)),))


def counting_file(folder: Path) -> str:
    """The spec of a model file whose calls are written to calls.txt beside it."""
    path = folder / "counting.py"
    path.write_text(
        "from pathlib import Path\n"
        "from omgbench.contract import Capabilities, Intent, ModelIdentity, PerRequestModel, Response\n"
        "LOG = Path(__file__).with_name('calls.txt')\n"
        "def note(what):\n"
        "    with LOG.open('a') as file: file.write(what + ' ')\n"
        "class M(PerRequestModel):\n"
        "    def capabilities(self): return Capabilities(frozenset({Intent.CHAT}))\n"
        "    def identity(self): return ModelIdentity('m', '1', 'none')\n"
        "    def load(self, placement): note('load')\n"
        "    def answer(self, request):\n"
        "        note(request.text)\n"
        "        return Response(request.id, text='yes')\n"
        "    def close(self): note('close')\n"
    )
    return f"{path}:M"


def test_a_model_object_is_asked_as_it_is() -> None:
    model = Counting()
    answer = omgbench.ask(model, pixels(), "dog")
    assert model.calls == ["dog"]
    assert (answer.ok, answer.text, answer.model) == (True, "a dog", "Counting")
    assert answer.request.intent is Intent.CHAT
    assert 0 <= answer.seconds < 60
    assert len(answer.masks) == 1
    assert (answer.masks[0] == INSIDE).all()
    assert answer.overlay is answer.overlay


def test_a_named_model_is_loaded_for_one_question(tmp_path: Path) -> None:
    spec = counting_file(tmp_path)
    assert omgbench.ask(spec, pixels(), "one").text == "yes"
    assert (tmp_path / "calls.txt").read_text() == "load one close "


def test_an_open_model_is_loaded_once(tmp_path: Path) -> None:
    spec = counting_file(tmp_path)
    with omgbench.open_model(spec) as model:
        assert (tmp_path / "calls.txt").read_text() == "load "
        assert [model.ask(pixels(), text).text for text in ("one", "two")] == ["yes", "yes"]
    assert (tmp_path / "calls.txt").read_text() == "load one two close "
    assert model.ask(pixels(), "three").model == "m", "asking a closed one opens it again"


def test_mistakes_are_told_before_loading(tmp_path: Path) -> None:
    spec = counting_file(tmp_path)
    for question in (
        {"points": [(99, 1)]},
        {"intent": "refer_segment"},
        {"points": [(1, 1)]},
        {"boxes_xyxy": [(1, 1)]},
    ):
        with pytest.raises(UserError):
            omgbench.ask(spec, pixels(), "x", **question)  # type: ignore[arg-type]
    for more in ({"device": "gpu"}, {"dtype": "bf16"}, {"model_args": {"n": 1}}):
        with pytest.raises(UserError):
            omgbench.ask(spec, pixels(), "x", **more)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        omgbench.ask(spec, tmp_path / "nowhere.png", "x")
    assert not (tmp_path / "calls.txt").exists()


def test_regions_go_in_as_kinds_or_in_order() -> None:
    model = ScriptedModel(lambda request: Response(request.id, text=" ".join(p.kind for p in request.prompts)))
    separate = omgbench.ask(model, pixels(), "x", points=[(1, 1)], boxes_xyxy=[(0, 0, 2, 2)], masks=[INSIDE])
    assert separate.text == "point box mask"
    assert omgbench.ask(model, pixels(), "x", prompts=[BOX, POINT]).text == "box point"
    with pytest.raises(UserError, match="beside"):
        omgbench.ask(model, pixels(), "x", points=[(1, 1)], prompts=[BOX])


def test_a_model_told_the_answers_is_refused() -> None:
    with pytest.raises(UserError, match="perfect"):
        omgbench.ask("perfect", pixels(), "x")
    with pytest.raises(UserError, match="model_args"):
        OpenModel(Counting(), model_args={"a": 1})
    with pytest.raises(PluginError):
        omgbench.ask("no_such_model", pixels(), "x")


class Dead(Counting):
    def answer(self, request: Request) -> Response:
        raise ModelDied("the device is gone")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (CrashingModel("raise", every=1), "made crash"),
        (CrashingModel("oom", every=1), "shortage"),
        (CrashingModel("wrong_size", every=1), "masks[0]: size"),
        (CrashingModel("bad_span", every=1), "spans[0]"),
        (CrashingModel("duplicate", every=1), "twice"),
        (CrashingModel("nothing", every=1), "no answer"),
        (CrashingModel("unknown_id", every=1), "no answer"),
        (Dead(), "the device is gone"),
        (ScriptedModel(lambda request: 3), "expected omgbench.contract.Response"),  # type: ignore[arg-type, return-value]
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_whatever_a_model_does_is_an_answer(model: Any, words: str) -> None:
    answer = omgbench.ask(model, pixels(), "x")
    assert not answer.ok
    assert answer.response.status.failed
    assert words in (answer.response.error or "")
    assert answer.masks == []
    assert answer.overlay.width > 0
    assert words[:4] in repr(answer)


def test_unsupported_is_no_answer_and_empty_is_one() -> None:
    for status, ok in ((Status.UNSUPPORTED, False), (Status.EMPTY, True), (Status.REFUSED, True)):
        model = ScriptedModel(lambda request, status=status: Response(request.id, status))
        assert omgbench.ask(model, pixels(), "x").ok is ok


def test_panoptic_masks_are_masks(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text('[{"id": 7, "name": "sky", "isthing": 0}, {"id": 9, "name": "dog", "isthing": true}]')
    answer = omgbench.ask("random", pixels(), vocabulary=path)
    assert sum(mask.astype(int) for mask in answer.masks).max() == 1  # type: ignore[union-attr]
    assert {region.phrase for region in answer.regions} <= {"sky", "dog"}


def test_saving(tmp_path: Path) -> None:
    answer = omgbench.ask(Counting(), pixels(), "dog")
    for name, kind in (("a.png", "PNG"), ("b.JPG", "JPEG")):
        path = answer.save(str(tmp_path / name))
        with Image.open(path) as image:
            assert (image.format, image.size) == (kind, answer.overlay.size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.JPG"]
    for bad in ("a.gif", "a", "nowhere/a.png"):
        with pytest.raises(UserError):
            answer.save(tmp_path / bad)


def test_a_notebook_shows_it() -> None:
    shown_png = omgbench.ask(Counting(), pixels(), "dog")._repr_png_()
    assert Image.open(io.BytesIO(shown_png)).format == "PNG"
    large = ScriptedModel(lambda request: Response(request.id, text="x"))
    wide = omgbench.ask(large, np.zeros((20, 4000, 3), np.uint8), "x")
    assert max(Image.open(io.BytesIO(wide._repr_png_())).size) == 1600
    assert wide.overlay.width == 4000


def test_lines_name_number_colour_phrase_and_share() -> None:
    lines = omgbench.ask(Counting(), pixels(), "dog").lines()
    assert lines[0] == "a dog"
    assert lines[1].split("  ") == ["1", "blue", "a dog", " 23.4%"]


def test_hostile_text_is_harmless_in_repr() -> None:
    hostile = "a\x1b]0;owned\x07b\u202e\r"
    rle = mask_to_rle(INSIDE)
    answer = omgbench.ask(
        ScriptedModel(lambda r: Response(r.id, text=hostile, masks=(Mask(rle),), spans=(Span(hostile, masks=(0,)),))),
        pixels(),
        "x",
    )
    assert not set(repr(answer)) & set("\x1b\x07\u202e\r")
    assert answer.text == hostile


def test_the_way_in_costs_nothing_before_it_is_used() -> None:
    code = (
        "import sys, omgbench; assert not {'numpy', 'PIL'} & set(sys.modules); omgbench.ask;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
