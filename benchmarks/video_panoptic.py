"""How fast VPQ is counted: tables of frames summed over windows, beside a count of every window's pixels.

    python benchmarks/video_panoptic.py [--clips 10] [--frames 20] [--size 360 640] [--noise 0.02]

Goal: at least 5 times as fast as the plain count, which takes `np.unique` of each window's true ids, predicted ids and
pairs, the way of the official scripts. Clips of moving ellipses (things) on bands (stuff) with void; the prediction
is displaced, drops and swaps objects, and has a share of noisy pixels. Every contender runs in a process of its own on
the same generated clips, which is not timed, and their values are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

N_THINGS, N_CLASSES, STRIDE = 58, 124, 10_000
GT_VOID, PRED_VOID = 65_535 * STRIDE, N_CLASSES * STRIDE
WINDOWS = (1, 2, 4, 6)
Clip = tuple[np.ndarray, np.ndarray]


def clips(n: int, n_frames: int, size: tuple[int, int], noise: float) -> Iterator[Clip]:
    """True and predicted ids, int32 of shape (frames, height, width)."""
    for seed in range(n):
        rng = np.random.default_rng(seed)
        scene = Scene(rng, size)
        gt = np.stack([scene.paint(frame, 0.0, GT_VOID) for frame in range(n_frames)])
        pred = np.stack([scene.paint(frame, 4.0, PRED_VOID) for frame in range(n_frames)])
        # Clumps of pixels: predictions are ragged at edges, not salt and pepper.
        noisy = (rng.random((n_frames, size[0], -(-size[1] // 8))) < noise).repeat(8, axis=2)[:, :, : size[1]]
        pred[noisy] = rng.choice(scene.ids, noisy.shape)[noisy]
        yield gt, pred


class Scene:
    """Twelve ellipses on straight ways before four bands."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self._size = size
        self._rng = rng
        height, width = size
        self.ids = rng.integers(0, N_THINGS, 12) * STRIDE + np.arange(1, 13)
        self._stuff = rng.integers(N_THINGS, N_CLASSES, 4) * STRIDE
        self._centres = rng.uniform((0, 0), (height, width), (12, 2))
        self._steps = rng.normal(0, 4, (12, 2))
        self._radii = rng.uniform(height / 30, height / 5, (12, 2))

    def paint(self, frame: int, jitter_px: float, void: int) -> np.ndarray:
        """The ids of one frame; objects are moved, dropped and given other numbers where there is jitter."""
        height, width = self._size
        y, x = np.ogrid[:height, :width]
        edge = height / 8 * np.sin(x / 40)
        ids = self._stuff[np.clip((y + edge) * 4 // height, 0, 3).astype(int)].astype(np.int32)
        ids[: height // 20] = void
        for number, of_object in enumerate(self.ids):
            if jitter_px and self._rng.random() < 0.1:
                continue
            moved = (
                self._centres[number]
                + frame * self._steps[number]
                + self._rng.normal(0, jitter_px, 2) * bool(jitter_px)
            )
            radius_y, radius_x = self._radii[number]
            inside = ((y - moved[0]) / radius_y) ** 2 + ((x - moved[1]) / radius_x) ** 2 < 1
            ids[inside] = of_object + (20 if jitter_px and self._rng.random() < 0.1 else 0)
        return ids


def frame_tables(clip: Clip) -> dict[int, np.ndarray]:
    """omgbench: sums of IoU, TP, FN, FP, shape (4, classes), by window."""
    from omgbench.metrics.video_panoptic import PanopticIds, count_video

    counts = count_video(*clip, PanopticIds(N_CLASSES, STRIDE), WINDOWS)
    return {k: of_window.class_sums(N_CLASSES) for k, of_window in counts.items()}


def plain(clip: Clip) -> dict[int, np.ndarray]:
    """The same from the pixels of every window."""
    gt, pred = clip
    return {k: sum_windows(gt, pred, k) for k in WINDOWS}


def sum_windows(gt: np.ndarray, pred: np.ndarray, k: int) -> np.ndarray:
    sums = np.zeros((4, N_CLASSES))
    for start in range(len(gt) - k + 1):
        add_window(sums, gt[start : start + k].astype(np.int64), pred[start : start + k].astype(np.int64))
    return sums


def add_window(sums: np.ndarray, gt: np.ndarray, pred: np.ndarray) -> None:
    gt_areas, pred_areas, pairs = areas(gt), areas(pred), areas(gt * 10_000_000 + pred)
    matched: set[tuple[str, int]] = set()
    for pair, common in pairs.items():
        true, predicted = divmod(pair, 10_000_000)
        if true // STRIDE != predicted // STRIDE:
            continue
        on_void = pairs.get(GT_VOID * 10_000_000 + predicted, 0)
        iou = common / (gt_areas[true] + pred_areas[predicted] - common - on_void)
        if iou > 0.5:
            sums[:2, true // STRIDE] += iou, 1
            matched |= {("gt", true), ("pred", predicted)}
    for true in gt_areas:
        if ("gt", true) not in matched and true != GT_VOID:
            sums[2, true // STRIDE] += 1
    for predicted, area in pred_areas.items():
        excused = pairs.get(GT_VOID * 10_000_000 + predicted, 0) / area > 0.5
        if ("pred", predicted) not in matched and predicted != PRED_VOID and not excused:
            sums[3, predicted // STRIDE] += 1


def areas(ids: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


CONTENDERS: dict[str, Callable[[Clip], dict[int, np.ndarray]]] = {"omgbench": frame_tables, "plain windows": plain}


def run_here(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one contender takes, in this process."""
    contender, seconds = CONTENDERS[name], 0.0
    totals = {k: np.zeros((4, N_CLASSES)) for k in WINDOWS}
    arguments = (options.frames, tuple(options.size), options.noise)
    counting_mb = peak_mb_of_counting(contender, next(clips(1, *arguments)))
    for clip in clips(options.clips, *arguments):
        started = time.process_time()
        of_clip = contender(clip)
        seconds += time.process_time() - started
        totals = {k: totals[k] + of_clip[k] for k in WINDOWS}
    sums = {str(k): of_window.sum(axis=1).tolist() for k, of_window in totals.items()}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {"seconds": seconds, "peak_mb": peak_mb, "counting_mb": counting_mb, "sums": sums}


def peak_mb_of_counting(contender: Callable[[Clip], dict[int, np.ndarray]], clip: Clip) -> float:
    """Most memory allocated at once for one clip beside the clip itself, in 10**6 bytes; not timed."""
    contender((clip[0][:, :20], clip[1][:, :20]))
    tracemalloc.start()
    contender(clip)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def run_apart(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, *arguments, "--contender", name]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=[360, 640], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--noise", type=float, default=0.02, help="share of wrong pixels")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(run_here(options.contender, options)))
        return
    results = {name: run_apart(name, sys.argv[1:]) for name in CONTENDERS}
    ours = results["omgbench"]
    print(f"{options.clips} clips of {options.frames} frames, {options.size[0]} x {options.size[1]}, windows {WINDOWS}")
    print(
        f"{'':16}{'CPU ms a clip':>15}{'times ours':>12}{'counting MB':>13}{'process MB':>12}  IoU, TP, FN, FP (k = 6)"
    )
    for name, result in results.items():
        each_ms = result["seconds"] / options.clips * 1000
        figures = f"{each_ms:15.1f}{result['seconds'] / ours['seconds']:12.1f}"
        memory = f"{result['counting_mb']:13.1f}{result['peak_mb']:12.0f}"
        iou, *counts = result["sums"][str(WINDOWS[-1])]
        print(f"{name:16}{figures}{memory}  {iou:.6f} {[int(count) for count in counts]}")
        for k, sums in result["sums"].items():
            if not np.allclose(sums, ours["sums"][k], rtol=0, atol=1e-9):
                raise SystemExit(f"{name} and omgbench differ for windows of {k}: {sums} and {ours['sums'][k]}")


if __name__ == "__main__":
    main()
