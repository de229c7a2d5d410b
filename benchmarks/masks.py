"""How fast masks are scored: cIoU and gIoU of referring masks, AP50 and mIoU of grounded captions.

    python benchmarks/masks.py                 # both tables
    python benchmarks/masks.py referring --pairs 2000

Every contender runs in a process of its own on the same file of generated masks (smooth blobs on 640 x 480, drawn as
polygons like COCO's). Reading the file is not timed. Slow contenders run on the first part only; their per-item figure
is what they took there, and their values are checked against ours on that part.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH = 480, 640
SIZE = (HEIGHT, WIDTH)
Lines = Iterator[dict[str, Any]]
Values = dict[str, float]


def blob_polygon(rng: np.random.Generator, x: float, y: float, radius: float) -> list[float]:
    """A closed wavy outline of 40 points, moved a little by chance."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waves = 0.15 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(7 * angle + rng.uniform(0, 6))
    far = radius * (1 + waves)
    outline = np.stack([x + far * np.cos(angle), y + 0.8 * far * np.sin(angle)], axis=1)
    return [float(value) for value in outline.clip(0, [WIDTH, HEIGHT]).round(2).ravel()]


def blob_and_guess(rng: np.random.Generator, radius_px: tuple[float, float]) -> tuple[str, str]:
    """Compressed counts of a mask and of a prediction that is off by a tenth of its size."""
    from omgbench.metrics.rle import polygons_to_rle

    x, y, radius = rng.uniform(60, WIDTH - 60), rng.uniform(60, HEIGHT - 60), rng.uniform(*radius_px)
    truth = blob_polygon(rng, x, y, radius)
    off = rng.normal(0, 0.1, 3)
    guess = blob_polygon(rng, x + off[0] * radius, y + off[1] * radius, radius * (1 + off[2]))
    return polygons_to_rle([truth], SIZE).counts, polygons_to_rle([guess], SIZE).counts


def write_pairs(path: Path, n: int) -> str:
    """One JSON line per sentence; returns a description."""
    rng = np.random.default_rng(0)
    n_bytes = 0
    with path.open("w") as file:
        for _ in range(n):
            truth, guess = blob_and_guess(rng, (20, 80))
            n_bytes += len(truth) + len(guess)
            file.write(json.dumps({"target": truth, "prediction": guess}) + "\n")
    return f"{n} pairs of {WIDTH} x {HEIGHT}, {n_bytes / n / 2:.0f} bytes of counts a mask"


def write_images(path: Path, n: int) -> str:
    """One JSON line per image with about five masks; returns a description."""
    rng = np.random.default_rng(1)
    n_masks = 0
    with path.open("w") as file:
        for i in range(n):
            pairs = [blob_and_guess(rng, (15, 110)) for _ in range(rng.integers(3, 8))]
            guesses = [guess for _, guess in pairs if rng.random() < 0.9]
            n_masks += len(pairs)
            line = {"id": f"sa_{i:06d}", "references": [truth for truth, _ in pairs], "predictions": guesses}
            file.write(json.dumps(line) + "\n")
    return f"{n} images of {WIDTH} x {HEIGHT}, {n_masks / n:.1f} masks each"


CHUNK_PAIRS = 256


class Stopwatch:
    """CPU seconds spent inside `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._start


def referring_rle(lines: Lines, watch: Stopwatch, *, check: bool = False) -> Values:
    """omgbench: run lengths, exact sums."""
    from omgbench.contract import Rle
    from omgbench.metrics.iou import ReferringSums, overlap
    from omgbench.metrics.rle import check_rle

    sums = ReferringSums()
    pairs = ((Rle(SIZE, line["prediction"]), Rle(SIZE, line["target"])) for line in lines)
    # Looking at the clock for each pair would cost a tenth of what is measured.
    while chunk := list(islice(pairs, CHUNK_PAIRS)):
        with watch:
            for prediction, target in chunk:
                if check and check_rle(prediction, SIZE) is not None:
                    raise SystemExit("a mask of this benchmark was refused")
                sums.add(overlap(prediction, target))
    return {"cIoU": sums.ciou or 0.0, "gIoU": sums.giou or 0.0}


def referring_checked(lines: Lines, watch: Stopwatch) -> Values:
    """omgbench, each prediction checked first as text from outside."""
    return referring_rle(lines, watch, check=True)


def referring_numpy(lines: Lines, watch: Stopwatch) -> Values:
    """Decode both masks with pycocotools, count with numpy."""
    rows = []
    for line in lines:
        with watch:
            prediction, target = (decode(line[key]).view(bool) for key in ("prediction", "target"))
            rows.append((int((prediction & target).sum()), int((prediction | target).sum())))
    return plain_sums(rows)


def referring_histc(lines: Lines, watch: Stopwatch) -> Values:
    """Decode, then histograms of whole images with torch, the way of the official scripts."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for line in lines:
        with watch:
            output, target = (
                torch.from_numpy(decode(line[key])).float().reshape(-1) for key in ("prediction", "target")
            )
            parts = (output[output == target], output, target)
            inside, area, truth = (torch.histc(part, bins=2, min=0, max=1)[1] for part in parts)
            rows.append((float(inside), float(area + truth - inside)))
    return plain_sums(rows)


def decode(counts: str) -> np.ndarray:
    from pycocotools import mask

    decoded: np.ndarray = mask.decode({"size": list(SIZE), "counts": counts})
    return decoded


def plain_sums(rows: list[tuple[float, float]]) -> Values:
    common, union = np.array(rows, dtype=np.float64).T
    return {"cIoU": float(common.sum() / (union.sum() + 1e-10)), "gIoU": float((common / (union + 1e-5)).mean())}


def gcg_rle(lines: Lines, watch: Stopwatch) -> Values:
    """omgbench: per-image records from run lengths, then one pass."""
    from omgbench.contract import Rle
    from omgbench.metrics.average_precision import average_precision, image_matches
    from omgbench.metrics.grounding import iou_matrix, mean_matched_iou

    records, miou = [], []
    for line in lines:
        predictions, references = ([Rle(SIZE, text) for text in line[key]] for key in ("predictions", "references"))
        with watch:
            iou = iou_matrix(predictions, references)
            records.append(image_matches(line["id"], predictions, references, iou=iou))
            miou.append(mean_matched_iou(iou))
    with watch:
        precision = average_precision(records)
        return {"AP": precision["AP"], "AP50": precision["AP50"], "mIoU": sum(miou) / len(miou)}


def gcg_pycocotools(lines: Lines, watch: Stopwatch) -> Values:
    """pycocotools COCOeval: AP alone."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": [{"id": 1}]}
    results = []
    for line in lines:
        truth["images"].append({"id": line["id"], "height": HEIGHT, "width": WIDTH})
        shared = {"image_id": line["id"], "category_id": 1}
        for text in line["references"]:
            rle = {"size": list(SIZE), "counts": text}
            place = {"id": len(truth["annotations"]) + 1, "area": int(coco_mask.area(rle)), "iscrowd": 0}
            truth["annotations"].append({**shared, **place, "segmentation": rle, "bbox": [0, 0, 1, 1]})
        for text in line["predictions"]:
            results.append({**shared, "score": 1.0, "segmentation": {"size": list(SIZE), "counts": text}})
    with contextlib.redirect_stdout(io.StringIO()), watch:
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": float(evaluation.stats[0]), "AP50": float(evaluation.stats[1])}


def gcg_dense_miou(lines: Lines, watch: Stopwatch) -> Values:
    """Decoded masks in a plain loop, the way of the official script: mIoU alone."""
    miou = []
    for line in lines:
        with watch:
            predictions = [decode(text) for text in line["predictions"]]
            references = [decode(text) for text in line["references"]]
            iou = np.zeros((len(predictions), len(references)))
            for i, prediction in enumerate(predictions):
                for j, reference in enumerate(references):
                    common, union = np.logical_and(prediction, reference), np.logical_or(prediction, reference)
                    iou[i, j] = np.sum(common) / np.sum(union)
            miou.append(greedy_mean(iou))
    return {"mIoU": sum(miou) / len(miou)}


def greedy_mean(iou: np.ndarray) -> float:
    taken = []
    while iou.size and iou.max() > 0:
        i, j = np.unravel_index(np.argmax(iou), iou.shape)
        taken.append(iou[i, j])
        iou = np.delete(np.delete(iou, i, axis=0), j, axis=1)
    return float(np.mean(taken)) if taken else 0.0


Contender = Callable[[Lines, Stopwatch], Values]
REFERRING: dict[str, Contender] = {
    "omgbench": referring_rle,
    "omgbench + check_rle": referring_checked,
    "decode + numpy": referring_numpy,
    "decode + torch.histc": referring_histc,
}
GCG: dict[str, Contender] = {
    "omgbench": gcg_rle,
    "pycocotools (AP)": gcg_pycocotools,
    "decode + loop (mIoU)": gcg_dense_miou,
}
SLOW = {"decode + numpy", "decode + torch.histc", "decode + loop (mIoU)"}


def run_here(contender: Contender, path: Path, limit: int) -> dict[str, Any]:
    """What one contender took, in this process."""
    watch = Stopwatch()
    with path.open() as file:
        values = contender((json.loads(line) for line in islice(file, limit)), watch)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": watch.seconds, "peak_mb": peak_mb, "values": values}


def run_apart(table: str, name: str, path: Path, limit: int) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, table, "--contender", name, "--file", str(path), "--limit", str(limit)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output)
    return result


def print_table(table: str, contenders: dict[str, Contender], path: Path, n: int, n_slow: int) -> None:
    """Run every contender and compare its values with ours on the items that it saw."""
    ours = {limit: run_apart(table, "omgbench", path, limit) for limit in sorted({n, n_slow}, reverse=True)}
    best_ms = ours[n]["seconds"] / n * 1000
    print(f"{'':24}{'items':>8}{'CPU ms an item':>16}{'times ours':>12}{'peak MB':>9}  values (difference to ours)")
    for name in contenders:
        limit = n_slow if name in SLOW else n
        result = ours[n] if name == "omgbench" else run_apart(table, name, path, limit)
        per_item_ms = result["seconds"] / limit * 1000
        values = ", ".join(
            f"{key} {value:.6f} ({value - ours[limit]['values'][key]:+.0e})" for key, value in result["values"].items()
        )
        figures = f"{limit:8}{per_item_ms:16.4f}{per_item_ms / best_ms:12.1f}{result['peak_mb']:9.0f}"
        print(f"{name:24}{figures}  {values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=("referring", "gcg", "all"), default="all")
    parser.add_argument("--pairs", type=int, default=10_834, help="sentences (refCOCO val has 10,834)")
    parser.add_argument("--images", type=int, default=2_500, help="images (GranD-f val has 2,500)")
    parser.add_argument("--slow", type=int, default=300, help="items for the slow contenders")
    for hidden in ("--contender", "--file", "--limit"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tables = {"referring": REFERRING, "gcg": GCG}
    if options.contender:
        contender = tables[options.table][options.contender]
        print(json.dumps(run_here(contender, Path(options.file), int(options.limit))))
        return
    sizes = {"referring": (options.pairs, write_pairs), "gcg": (options.images, write_images)}
    for table in tables if options.table == "all" else [options.table]:
        n, write = sizes[table]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "masks.jsonl"
            print(f"\n{table}: {write(path, n)}")
            print_table(table, tables[table], path, n, min(n, options.slow))


if __name__ == "__main__":
    main()
