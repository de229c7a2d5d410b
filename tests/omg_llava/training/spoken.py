"""Samples about pictures of blocks: several masks, prompts of all kinds, text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omg_llava.prompts import Prompt
from omg_llava.training.samples import Exchange, TrainingSample

from ..lively import picture, rectangle

SIZES_WH = ((64, 48), (41, 100), (64, 64), (50, 60))


def write_pictures(folder: Path) -> list[Path]:
    """Files of pictures of `SIZES_WH`."""
    paths = []
    for number, (width, height) in enumerate(SIZES_WH):
        paths.append(folder / f"{number}.png")
        picture(width, height, number).save(paths[-1])
    return paths


def masks_of(number: int, *boxes_xyxy: tuple[int, int, int, int]) -> tuple[np.ndarray, ...]:
    return tuple(rectangle(*SIZES_WH[number], box).astype(np.uint8) for box in boxes_xyxy)


def segmenting(paths: list[Path]) -> TrainingSample:
    """Two turns, three masks, of which one has pixels that count twice."""
    masks = masks_of(0, (3, 2, 30, 20), (20, 11, 64, 48), (0, 30, 25, 48))
    masks[0][5:9, 5:9] = 2
    exchanges = (
        Exchange("Where is it?", "<p> It </p> [SEG]."),
        Exchange("And the others?", "<p> Others </p> [SEG], and [SEG]."),
    )
    return TrainingSample(paths[0], exchanges, masks=masks)


def prompted(paths: list[Path]) -> TrainingSample:
    """Five prompts in an order that is neither that of their kinds nor that of their placeholders; one mask."""
    exchanges = (
        Exchange("A <mark>, b <region>, c <region>?", "All."),
        Exchange("d <region>, e <mark>? Show d.", "It is [SEG]."),
    )
    return TrainingSample(paths[1], exchanges, prompts_of(1), masks=masks_of(1, (5, 20, 30, 70)))


def prompts_of(number: int) -> tuple[Prompt, ...]:
    width, height = SIZES_WH[number]
    return (
        Prompt("mask", rectangle(width, height, (10, 20, 30, 44))),
        Prompt("point", np.array([10.5, 20.0], np.float32)),
        Prompt("box", np.array([3.0, 5.0, 40.0, 30.0], np.float32)),
        Prompt("point", np.array([30.0, 47.0], np.float32), as_mark=False),
        Prompt("box", np.array([0.0, 10.0, 12.0, 40.0], np.float32), as_mark=True),
    )


def described(paths: list[Path]) -> TrainingSample:
    """No prompt, no mask."""
    return TrainingSample(paths[2], (Exchange("What is it?", "Blocks of many colours."),))


def pointed(paths: list[Path]) -> TrainingSample:
    """One point, one mask."""
    exchanges = (Exchange("Segment <mark>.", "<p> That </p> [SEG]."),)
    prompts = (Prompt("point", np.array([20.0, 25.0], np.float32)),)
    return TrainingSample(paths[3], exchanges, prompts, masks=masks_of(3, (10, 10, 40, 50)))


def text_alone() -> TrainingSample:
    return TrainingSample(None, (Exchange("Say nothing.", "Nothing at all."), Exchange("More!", "...")))


def everything(paths: list[Path]) -> list[TrainingSample]:
    """One of each."""
    return [segmenting(paths), text_alone(), prompted(paths), described(paths), pointed(paths)]
