"""`omgbench ask`: what is typed arrives at the model, the answer is shown, and mistakes cost no loading."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omgbench.contract import Rle
from omgbench.metrics.rle import rle_to_mask

COMPLETE, USER, INCOMPLETE = 0, 2, 3
WIDTH, HEIGHT = 40, 30

ECHO = """
def capabilities(self):
    return Capabilities(frozenset(Intent), frozenset({"point", "box", "mask"}), history=True, vocabulary="open")
def load(self, placement):
    open("loaded", "w").close()
    print("loading noise")
def respond(self, requests):
    print("noise of a model")
    for r in requests:
        said = [f"{r.intent} {r.text} {r.frames[0].image.size} {r.gen.max_new_tokens}"]
        said += [f"{p.kind} {getattr(p, 'xy', getattr(p, 'xyxy', ''))} {getattr(p, 'positive', '')}" for p in r.prompts]
        said += [f"{turn.role}: {turn.text}" for turn in r.history]
        yield Response(r.id, text=chr(10).join(said))
"""
"""A model that says what it was asked, and leaves a file when it is loaded."""


def photo(bench: Any, name: str = "photo.png", **options: Any) -> Path:
    """A small picture in the working folder."""
    grid = np.arange(WIDTH * HEIGHT * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3) % 256
    stream = io.BytesIO()
    Image.fromarray(grid.astype(np.uint8)).save(stream, "JPEG" if name.endswith("jpg") else "PNG", **options)
    path: Path = bench.write(name, stream.getvalue())
    return path


def mask_file(bench: Any, name: str = "mask.png", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A mask of (width, height) that is white in its upper half."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[: size[1] // 2] = 255
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    path: Path = bench.write(name, stream.getvalue())
    return path


def ask(bench: Any, *more: object, model: str = "random", image: object = "photo.png") -> Any:
    return bench.call("ask", "--model", model, "--image", image, *more)


def test_an_answer_is_text_and_a_line_per_region(bench: Any) -> None:
    photo(bench)
    outcome = ask(bench, "--intent", "grounded_caption")
    assert outcome.code == COMPLETE
    text, *rows = outcome.out.splitlines()
    assert rows
    for number, row in enumerate(rows, start=1):
        shown, colour, phrase, share = (part.strip() for part in row.split("  ") if part.strip())
        assert int(shown) == number
        assert colour == ("blue", "orange", "green", "pink")[number - 1]
        assert phrase in text
        assert share.endswith("%")
    assert outcome.err == ""


def test_what_was_chosen_is_told(bench: Any) -> None:
    photo(bench)
    outcome = ask(bench, "Is there a dog?")
    assert outcome.code == COMPLETE
    assert outcome.err == "omgbench: asked as chat; --intent KIND asks for another kind of answer\n"
    assert outcome.out in ("Yes\n", "No\n")


def test_prompts_keep_the_order_of_the_command_line(bench: Any) -> None:
    photo(bench)
    mask_file(bench)
    outcome = ask(
        bench,
        *("--box", "1,2,30,20", "--point", "3,4", "--mask", "mask.png", "--box=5,6,7,8.5", "--negative-point", "9,9"),
        *("compare these", "--point", "!1,1", "--gen", "max_new_tokens=7"),
        *("--history", "hello", "hi", "--history", "and", "so"),
        model=bench.model(ECHO),
    )
    assert outcome.code == COMPLETE, outcome.err
    assert outcome.out.splitlines() == [
        "chat compare these (40, 30) 7",
        "box (1.0, 2.0, 30.0, 20.0) ",
        "point (3.0, 4.0) True",
        "mask  ",
        "box (5.0, 6.0, 7.0, 8.5) ",
        "point (9.0, 9.0) False",
        "point (1.0, 1.0) False",
        "user: hello",
        "assistant: hi",
        "user: and",
        "assistant: so",
    ]
    assert "noise" not in outcome.out
    assert "noise" in outcome.err


def test_coordinates_are_those_of_the_turned_photo(bench: Any) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo(bench, "photo.jpg", exif=exif)
    model = bench.model(ECHO)
    outcome = ask(bench, "--point", "29,39", "here", model=model, image="photo.jpg")
    assert outcome.out.startswith("chat here (30, 40)")
    assert ask(bench, "--point", "39,29", "here", model=model, image="photo.jpg").code == USER


def test_files_are_written(bench: Any) -> None:
    photo(bench)
    arguments = ("--point", "3,3", "--out", "answer.png", "--masks-out", "masks")
    outcome = ask(bench, *arguments)
    assert outcome.code == COMPLETE, outcome.err
    assert "omgbench: wrote answer.png and 1 more" in outcome.err
    with Image.open(bench.folder / "answer.png") as overlay:
        assert overlay.format == "PNG" and overlay.width >= 9 * WIDTH
    mask = Image.open(bench.folder / "masks/mask_001.png")
    assert mask.mode == "L" and mask.size == (WIDTH, HEIGHT)
    assert set(np.unique(np.asarray(mask))) == {0, 255}
    before = bench.files()
    for name in ("answer.png", "masks"):
        again = ask(bench, "--point", "3,3", "--out" if "." in name else "--masks-out", name)
        assert again.code == USER and "--force" in again.err
    assert bench.files() == before
    assert ask(bench, *arguments, "--force").code == COMPLETE
    assert bench.files() == before, "the same question gives the same files"
    assert ask(bench, "--mask", "masks/mask_001.png", "--out", "next.jpg").code == COMPLETE


def test_json(bench: Any) -> None:
    photo(bench)
    outcome = ask(bench, "--point", "3,3", "--json", "--out", "a.png")
    assert outcome.code == COMPLETE
    assert outcome.err == ""
    value = json.loads(outcome.out)
    assert (value["model"], value["intent"], value["status"]) == ("random", "interactive", "ok")
    assert (value["image"], value["written"]) == ({"width": WIDTH, "height": HEIGHT}, ["a.png"])
    assert value["seconds"] >= 0
    (mask,) = value["masks"]
    inside = rle_to_mask(Rle(tuple(mask["rle"]["size"]), mask["rle"]["counts"]))
    assert inside.shape == (HEIGHT, WIDTH)
    assert inside.sum() == mask["area_px"]
    ys, xs = np.nonzero(inside)
    assert mask["box_xyxy"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    keys = ("text", "raw_text", "spans", "boxes", "panoptic", "error", "usage")
    assert [value[key] for key in keys] == ["", None, [], [], None, None, {}]


def test_json_of_spans_and_panoptic_segments(bench: Any) -> None:
    photo(bench)
    caption = json.loads(ask(bench, "--json").out)
    for span in caption["spans"]:
        assert caption["text"][span["start"] : span["end"]] == span["phrase"]
        assert span["masks"] and span["boxes"] == []
    bench.write("v.json", [{"id": 4, "name": "sky", "isthing": 0}, {"id": 9, "name": "dog", "isthing": 1}])
    outcome = ask(bench, "--vocabulary", "v.json", "--json", "--masks-out", "m", "--out", "o.png")
    value = json.loads(outcome.out)
    assert value["intent"] == "panoptic"
    assert {(item["category_id"], item["category"]) for item in value["panoptic"]} == {(4, "sky"), (9, "dog")}
    assert sum(item["area_px"] for item in value["panoptic"]) == WIDTH * HEIGHT
    assert value["written"] == ["o.png", "m/mask_001.png", "m/mask_002.png"]


# ---- mistakes -------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def jpeg_half() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]


MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "point outside": (("--point", "40,3"), ("40,3", "40 x 30", "0 <= x < 40")),
    "box outside": (("--box", "0,0,40,30.5"), ("40,30.5", "<= 30")),
    "box without area": (("--box", "9,9,9,20"), ("no area",)),
    "no numbers": (("--point", "a,b"), ("--point a,b", "X,Y")),
    "three numbers": (("--negative-point", "1,2,3"), ("--negative-point 1,2,3", "X,Y")),
    "not a number": (("--box", "nan,1,2,3"), ("nan",)),
    "mask of another size": (("--mask", "small.png"), ("small.png", "8 x 6", "40 x 30")),
    "mask that is missing": (("--mask", "nowhere.png"), ("nowhere.png",)),
    "mask that is text": (("--mask", "text.png"), ("text.png", "not a picture")),
    "unknown intent": (("--intent", "paint", "x"), ("'paint'", "refer_segment")),
    "intent of tasks": (("--intent", "score_choices", "x"), ("score_choices",)),
    "intent without text": (("--intent", "refer_segment"), ("needs a text",)),
    "intent without region": (("--intent", "interactive"), ("needs a region", "--point")),
    "intent without vocabulary": (("--intent", "panoptic"), ("--vocabulary",)),
    "vocabulary for nothing": (("--vocabulary", "v.json", "what?"), ("vocabulary", "--intent panoptic")),
    "bad vocabulary": (("--vocabulary", "bad.json"), ("isthing",)),
    "no such picture": (("--image", "nowhere.jpg"), ("nowhere.jpg", "not found")),
    "text as picture": (("--image", "text.png"), ("not a picture", "text.png")),
    "empty picture": (("--image", "empty.jpg"), ("empty",)),
    "truncated JPEG": (("--image", "half.jpg"), ("cannot be decoded", "half.jpg")),
    "bomb": (("--image", "bomb.png"), ("32768 x 16384",)),
    "folder as picture": (("--image", "."), ("not a file",)),
    "out without folder": (("--out", "no/answer.png", "x"), ("--out no/answer.png", "no folder no")),
    "out of another kind": (("--out", "answer.gif", "x"), (".gif", ".png")),
    "out is a folder": (("--out", "folder.png", "x"), ("is a folder",)),
    "out is the picture": (("--out", "./photo.png", "--force", "x"), ("the picture itself",)),
    "out with an endless name": (("--out", "a" * 300 + ".png", "x"), ("--out",)),
    "masks-out is a file": (("--masks-out", "text.png", "x"), ("is a file",)),
    "masks-out without folder": (("--masks-out", "no/masks", "x"), ("no folder no",)),
    "gen": (("--gen", "max_new_tokens=many", "x"), ("max_new_tokens", "whole number")),
    "gen key": (("--gen", "tokens=1", "x"), ("tokens",)),
    "device": (("--device", "gpu", "x"), ("--device gpu",)),
    "dtype": (("--dtype", "half", "x"), ("--dtype half",)),
    "two texts": (("a", "b"), ("extra argument",)),
    "half a turn": (("--history", "a"), ("--history",)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_the_model_is_loaded(bench: Any, name: str) -> None:
    arguments, words = MISTAKES[name]
    photo(bench)
    mask_file(bench, "small.png", (8, 6))
    bench.write("text.png", "no picture\n")
    bench.write("empty.jpg", b"")
    bench.write("half.jpg", jpeg_half())
    bench.write("bomb.png", png_header(2**15, 2**14))
    bench.write("v.json", [{"id": 4, "name": "sky", "isthing": 0}])
    bench.write("bad.json", [{"id": 4, "name": "sky"}])
    (bench.folder / "folder.png").mkdir()
    model = bench.model(ECHO)
    before = bench.files()
    outcome = ask(bench, *arguments, model=model)
    assert outcome.code == USER, outcome.out + outcome.err
    assert outcome.out == ""
    assert len(outcome.messages) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert bench.files() == before


def test_what_the_model_does_not_do_is_told_before_it_is_loaded(bench: Any) -> None:
    photo(bench)
    body = 'def load(self, placement): open("loaded", "w").close()\n'
    body += "def capabilities(self): return Capabilities(frozenset({Intent.REFER_BOX}))\n"
    model = bench.model(body)
    for arguments, words in (
        (("--intent", "chat", "x"), "does not answer chat"),
        (("--point", "1,1"), "interactive, region_caption"),
        (("x", "--point", "1,1", "--intent", "refer_box"), "does not read point"),
        (("x", "--history", "a", "b"), "does not continue conversations"),
        ((), "nothing is asked"),
    ):
        outcome = ask(bench, *arguments, model=model)
        assert (outcome.code, outcome.out) == (USER, "")
        assert words in outcome.err
        assert "refer_box" in outcome.err
    assert not (bench.folder / "loaded").exists()
    assert ask(bench, "x", model=model).code == COMPLETE


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def respond(self, requests): raise ValueError('out of order')", "ValueError: out of order"),
        ("def respond(self, requests): raise SystemExit(7)", "SystemExit"),
        ("def respond(self, requests): return []", "no answer"),
        ("def respond(self, requests): return [3]", "expected omgbench.contract.Response"),
        (
            "def respond(self, requests): return [Response(r.id, Status.TIMEOUT, error='late') for r in requests]",
            "late",
        ),
        ("def respond(self, requests): return [Response(r.id, Status.UNSUPPORTED) for r in requests]", "unsupported"),
        (
            "def respond(self, requests):\n"
            "    from omgbench.contract import Mask, Rle\n"
            "    return [Response(r.id, masks=(Mask(Rle((5, 5), 'i0')),)) for r in requests]",
            "expected (height, width) = (30, 40), found (5, 5)",
        ),
    ],
    ids=range(7),
)
def test_an_answer_that_failed_is_told_and_exits_with_3(bench: Any, body: str, words: str) -> None:
    photo(bench)
    model = bench.model(body)
    outcome = ask(bench, "what?", "--out", "a.png", model=model)
    assert (outcome.code, outcome.out) == (INCOMPLETE, "")
    assert "omgbench: no answer (" in outcome.err and words in outcome.err
    assert not (bench.folder / "a.png").exists()
    shown = ask(bench, "what?", "--json", model=model)
    assert shown.code == INCOMPLETE
    assert json.loads(shown.out)["status"] in ("error", "missing", "timeout", "unsupported")


def test_a_model_that_cannot_be_loaded_is_a_user_s_matter(bench: Any) -> None:
    photo(bench)
    outcome = ask(bench, "x", model=bench.model("def load(self, placement): raise OSError('no weights')"))
    assert outcome.code == USER
    assert "no weights" in outcome.err and "Traceback" not in outcome.err


def test_an_answer_of_nothing_is_an_answer(bench: Any) -> None:
    photo(bench)
    outcome = ask(bench, "x", model="blank")
    assert (outcome.code, outcome.out) == (COMPLETE, "(nothing: empty)\n")


HOSTILE = "a\x1b]0;owned\x07\x9b31m\x7f\r\u202e\u2028b"


def test_text_of_a_model_steers_no_terminal(bench: Any) -> None:
    photo(bench)
    body = (
        "def respond(self, requests):\n"
        "    from omgbench.contract import Mask, Span\n"
        "    from omgbench.testing.shapes import full_rle\n"
        f"    text = {HOSTILE!r}\n"
        "    for r in requests:\n"
        "        yield Response(r.id, text=text, raw_text=text, masks=(Mask(full_rle((30, 40))),),"
        " spans=(Span(text, masks=(0,)),))"
    )
    model = bench.model(body)
    harmful = set("\x1b\x07\x9b\x7f\r\u202e\u2028")
    outcome = ask(bench, "x", "--out", "a.png", model=model)
    assert outcome.code == COMPLETE
    assert not set(outcome.out + outcome.err) & harmful
    assert "\\x1b]0;owned" in outcome.out
    shown = ask(bench, "x", "--json", model=model)
    assert not set(shown.out) & harmful
    assert json.loads(shown.out)["text"] == HOSTILE
    failing = bench.model(f"def respond(self, requests): raise ValueError({HOSTILE!r})", name="failing.py")
    assert not set(ask(bench, "x", model=failing).err) & harmful


@pytest.mark.parametrize(
    "name",
    ["a b.png", "-out.png", "狗.png", "\x1b[31mred\n.png", os.fsdecode(b"\xff\xfe.png"), "#?%{}$(x).png"],
    ids=ascii,
)
def test_file_names_with_strange_characters(bench: Any, name: str) -> None:
    try:
        path = photo(bench, name)
    except OSError:
        pytest.skip("no such name on this file system")
    path.replace(bench.folder / name)
    outcome = ask(bench, "x", f"--out=o{name}", image=f"./{name}")
    assert outcome.code == COMPLETE, outcome.err
    assert (bench.folder / f"o{name}").is_file()
    missing = ask(bench, "x", image=f"no{name}")
    assert missing.code == USER
    for text in (outcome.err, missing.err):
        assert "\x1b" not in text
        text.encode()
    assert json.loads(ask(bench, "x", "--json", f"--out=o{name}", "--force", image=f"./{name}").out)


def test_a_question_that_is_not_utf_8(bench: Any) -> None:
    photo(bench)
    outcome = ask(bench, os.fsdecode(b"\xff what"))
    assert outcome.code == USER
    assert "UTF-8" in outcome.err


def test_ask_needs_no_deep_learning(bench: Any) -> None:
    photo(bench)
    code = "import atexit, sys; atexit.register(lambda: print(sorted({'torch', 'pandas'} & set(sys.modules)))); "
    code += "from omgbench.cli import main; main()"
    outcome = bench.spawn("ask", "--model", "random", "--image", "photo.png", "x", "--out", "a.png", code=code)
    assert outcome.code == COMPLETE, outcome.err
    assert outcome.out.splitlines()[-1] == "[]"
