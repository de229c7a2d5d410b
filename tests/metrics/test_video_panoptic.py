"""VPQ against the official tensors and numbers, and against a plain count of the pixels of every window."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omgbench.errors import DataError
from omgbench.metrics import video_panoptic as V

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(os.environ.get("OMGBENCH_GOLDENS") or ROOT.parent / "shared" / "reference" / "goldens")
ORACLES = Path(os.environ.get("OMGBENCH_ORACLES") or ROOT.parent / "shared" / "data")

SMALL = V.PanopticIds(n_classes=4, stride=10, gt_void_class=9)
BY_INSTANCE = V.PanopticIds(n_classes=4, stride=10, gt_void_class=9, class_splits_tube=False)
THINGS = (True, True, False, False)
WINDOWS = (1, 2, 3, 5)

Video = tuple[np.ndarray, np.ndarray]
Sums = dict[int, tuple[list[float], int, int]]


def plain_count(gt: np.ndarray, pred: np.ndarray, ids: V.PanopticIds, k: int) -> Sums:
    """IoUs, FP and FN by class, from the pixel masks of each tube of each window."""
    sums: Sums = {of_class: ([], 0, 0) for of_class in range(ids.n_classes)}
    for start in range(len(gt) - k + 1):
        true_window, pred_window = gt[start : start + k], pred[start : start + k]
        true = list(plain_tubes(true_window, ids, ids.gt_void_class))
        predicted = list(plain_tubes(pred_window, ids, ids.n_classes))
        void = true_window // ids.stride == ids.gt_void_class
        found: set[int] = set()
        for of_class, mask in true:
            ious = [
                (mask & other).sum() / (mask | (other & ~void)).sum() if other_class == of_class else 0.0
                for other_class, other in predicted
            ]
            hits = [number for number, iou in enumerate(ious) if iou > 0.5]
            assert len(hits) < 2
            found.update(hits)
            of_hits, fp, fn = sums[of_class]
            sums[of_class] = ([*of_hits, *(float(ious[number]) for number in hits)], fp, fn + (not hits))
        for number, (of_class, mask) in enumerate(predicted):
            if number not in found and (mask & void).sum() / mask.sum() <= 0.5:
                of_hits, fp, fn = sums[of_class]
                sums[of_class] = (of_hits, fp + 1, fn)
    return {of_class: entry for of_class, entry in sums.items() if entry != ([], 0, 0)}


def plain_tubes(window: np.ndarray, ids: V.PanopticIds, void_class: int) -> Iterator[tuple[int, np.ndarray]]:
    """Class and pixels of each tube."""
    classes = window // ids.stride
    keys = window if ids.class_splits_tube else window % ids.stride
    labelled = classes != void_class
    for key in sorted(set(keys[labelled].tolist())):
        mask = (keys == key) & labelled
        # Pixels are in the order of frames.
        yield int(classes[mask][0]), mask


@st.composite
def videos(draw: st.DrawFn) -> Video:
    """Blocky to noisy maps of few pixels; instances change class now and then; void on both sides."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_frames, height, width = (draw(st.integers(1, 6)) for _ in range(3))
    n_instances, block = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    coarse = rng.integers(0, n_instances, (n_frames, -(-height // block), -(-width // block)))
    true = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    wrong = rng.random(true.shape) < draw(st.sampled_from((0.0, 0.1, 0.4, 1.0)))
    predicted = np.where(wrong, rng.integers(0, n_instances + 1, true.shape), true)
    share = draw(st.sampled_from((0.0, 0.2)))
    classes = np.broadcast_to(rng.integers(0, 4, n_instances + 1), (n_frames, n_instances + 1))
    return written(rng, true, classes, share, 90), written(rng, predicted, classes, share, 40)


def written(
    rng: np.random.Generator, instances: np.ndarray, classes: np.ndarray, share: float, void: int
) -> np.ndarray:
    """Ids of instance maps; a share of the classes is changed, and a share of the instances and pixels is void."""
    changed = np.where(rng.random(classes.shape) < share, rng.integers(0, 4, classes.shape), classes)
    ids = 10 * changed[np.arange(len(instances))[:, None, None], instances] + instances
    is_void = (rng.random(classes.shape[1]) < share)[instances] | (rng.random(ids.shape) < share / 2)
    return np.where(is_void, void, ids)


@pytest.mark.parametrize("ids", [SMALL, BY_INSTANCE])
@settings(max_examples=150, deadline=None)
@given(videos())
def test_same_as_plain_count(ids: V.PanopticIds, video: Video) -> None:
    counted = V.count_video(*video, ids, WINDOWS)
    assert tuple(counted) == WINDOWS
    for k, counts in counted.items():
        assert counts.n_windows == max(len(video[0]) - k + 1, 0)
        assert counts.by_class == {
            of_class: V.ClassSums(sum(int(iou * 2**53) for iou in ious), len(ious), fp, fn)
            for of_class, (ious, fp, fn) in plain_count(*video, ids, k).items()
        }


@settings(max_examples=50, deadline=None)
@given(st.lists(videos(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_shards_in_any_order_through_json_are_one_pass(drawn: list[Video], random: Any) -> None:
    parts = [V.count_video(*video, SMALL, WINDOWS) for video in drawn]
    once = V.merge(parts)
    random.shuffle(parts)
    cut = random.randint(0, len(parts))
    shards = [V.merge(shard) for shard in (parts[:cut], parts[cut:]) if shard]
    texts = [json.dumps({k: counts.to_json() for k, counts in shard.items()}) for shard in shards]
    read = [{int(k): V.VpqCounts.from_json(row) for k, row in json.loads(text).items()} for text in texts]
    assert V.merge(read) == once
    assert json.dumps(V.summarize(V.merge(read), THINGS)) == json.dumps(V.summarize(once, THINGS))
    for k in WINDOWS:
        assert once[k] == sum((part[k] for part in parts), V.VpqCounts())


@settings(max_examples=50, deadline=None)
@given(videos())
def test_windows_may_be_counted_one_at_a_time(video: Video) -> None:
    together = V.count_video(*video, BY_INSTANCE, WINDOWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(V, "_BATCH_ROWS", 1)
        assert V.count_video(*video, BY_INSTANCE, WINDOWS) == together


def line(*pixels: int) -> np.ndarray:
    """One frame of one row."""
    return np.array([[pixels]])


@pytest.mark.parametrize(
    ("gt", "pred", "expected"),
    [
        pytest.param([1, 1, 11], [1, 1, 11], {0: (1.0, 1, 0, 0), 1: (1.0, 1, 0, 0)}, id="the same"),
        pytest.param([1, 1, 2, 2], [1, 40, 40, 40], {0: (0.0, 0, 1, 2)}, id="half is no match"),
        pytest.param([1, 1, 90, 90], [1, 1, 1, 1], {0: (1.0, 1, 0, 0)}, id="void is not in the union"),
        pytest.param([1, 1, 1, 90], [1, 1, 40, 1], {0: (2 / 3, 1, 0, 0)}, id="true area is in the union"),
        pytest.param([90, 90, 90, 11], [1, 1, 1, 1], {1: (0.0, 0, 0, 1)}, id="excused by void"),
        pytest.param([90, 90, 11, 11], [1, 1, 1, 1], {0: (0.0, 0, 1, 0), 1: (0.0, 0, 0, 1)}, id="half void: no excuse"),
        pytest.param([1, 1, 1], [11, 11, 11], {0: (0.0, 0, 0, 1), 1: (0.0, 0, 1, 0)}, id="right place, wrong class"),
        pytest.param([1, 1, 1], [40, 43, 40], {0: (0.0, 0, 0, 1)}, id="nothing predicted"),
        pytest.param([90, 95], [40, 40], {}, id="nothing at all"),
    ],
)
def test_rules_on_one_row(gt: list[int], pred: list[int], expected: dict[int, tuple[float, int, int, int]]) -> None:
    counts = V.count_video(line(*gt), line(*pred), SMALL, [1])[1]
    found = {index: (sums.iou_units / 2**53, sums.tp, sums.fp, sums.fn) for index, sums in counts.by_class.items()}
    assert (counts.n_windows, found) == (1, expected)


def test_class_change_splits_a_tube_or_not() -> None:
    gt = np.array([1, 1, 1]).reshape(3, 1, 1)
    pred = np.array([1, 11, 11]).reshape(3, 1, 1)
    split = V.count_video(gt, pred, SMALL, [3])[3]
    assert split.by_class == {0: V.ClassSums(fp=1, fn=1), 1: V.ClassSums(fp=1)}
    kept = V.count_video(gt, pred, BY_INSTANCE, [2, 3])
    assert kept[3].by_class == {0: V.ClassSums(2**53, tp=1)}
    assert kept[2].by_class == {0: V.ClassSums(2**53, tp=1, fn=1), 1: V.ClassSums(fp=1)}


def test_short_videos_have_no_window_and_none_is_no_number() -> None:
    gt = np.ones((3, 2, 2), dtype=np.uint8)
    counts = V.count_video(gt, gt, SMALL, (1, 4))
    assert counts == {1: V.VpqCounts(3, {0: V.ClassSums(3 * 2**53, 3)}), 4: V.VpqCounts()}
    assert V.count_video(gt[:0], gt[:0], SMALL, [1]) == {1: V.VpqCounts()}
    assert V.count_video(gt[:, :0], gt[:, :0], SMALL, [2]) == {2: V.VpqCounts(2)}
    values = V.summarize(counts, THINGS)
    assert values["VPQ@1"] == pytest.approx(1 / 4) and values["VPQ_present@1"] == pytest.approx(1)
    for name in ("VPQ@4", "VPQ", "VPQ_th", "VPQ_st", "VPQ_present@4", "VPQ_present"):
        assert values[name] is None, name


def test_absent_classes_count_zero_or_not_at_all() -> None:
    counts = {
        1: V.VpqCounts(5, {0: V.ClassSums(3 * 2**52, 2, 1, 1), 2: V.ClassSums(2**53, 1)}),
        2: V.VpqCounts(4, {0: V.ClassSums(2**53, 1, 1, 0)}),
    }
    values = V.summarize(counts, THINGS)
    first, second = 1.5 / 3, 1 / 1.5
    assert values == pytest.approx(
        {
            "VPQ@1": (first + 1) / 4,
            "VPQ_th@1": first / 2,
            "VPQ_st@1": 1 / 2,
            "VPQ_present@1": (first + 1) / 2,
            "VPQ_present_th@1": first,
            "VPQ_present_st@1": 1,
            "VPQ@2": second / 4,
            "VPQ_th@2": second / 2,
            "VPQ_st@2": 0,
            "VPQ_present@2": second,
            "VPQ_present_th@2": second,
            "VPQ_present_st@2": None,
            "VPQ": (first + 1 + second) / 8,
            "VPQ_th": (first + second) / 4,
            "VPQ_st": 1 / 4,
            "VPQ_present": ((first + 1) / 2 + second) / 2,
            "VPQ_present_th": (first + second) / 2,
            "VPQ_present_st": None,
        }
    )
    assert V.summarize(counts, (True,) * 4)["VPQ_st"] is None


def test_many_videos_at_once() -> None:
    sums = np.random.default_rng(0).random((5, 4, 7))
    together = V.panoptic_quality(sums)
    for index, one in enumerate(sums):
        assert all((part[index] == alone).all() for part, alone in zip(together, V.panoptic_quality(one), strict=True))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_any_integers_in_any_memory_order(dtype: str) -> None:
    rng = np.random.default_rng(3)
    gt, pred = rng.choice([1, 2, 11, 33, 90], (4, 5, 6)), rng.choice([1, 2, 11, 33, 40], (4, 5, 6))
    expected = V.count_video(gt, pred, SMALL)
    assert any(counts.by_class for counts in expected.values())
    assert V.count_video(gt.astype(dtype), np.asfortranarray(pred), SMALL) == expected
    doubled = pred.astype(dtype).repeat(2, axis=1)[:, ::2]
    assert V.count_video(gt, doubled, SMALL) == expected


def test_a_void_class_below_zero() -> None:
    ids = V.PanopticIds(n_classes=2, stride=10, gt_void_class=-1, pred_void_class=-1)
    counts = V.count_video(line(0, 0, -1, -1), line(0, 0, 0, -7), ids, [1])[1]
    assert counts.by_class == {0: V.ClassSums(2**53, tp=1)}


@pytest.mark.parametrize(
    ("gt", "pred", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((2, 3), int), "true label maps are int64 of shape"),
        (np.zeros((1, 2, 3), int), np.zeros((1, 2, 3)), "predicted label maps are float64"),
        (np.zeros((1, 2, 3), bool), np.zeros((1, 2, 3), int), "true label maps are bool"),
        (np.zeros((1, 2, 3), int), np.zeros((1, 3, 2), int), "different shape"),
        (line(0, 41), line(0, 1), "true id 41 has class 4"),
        (line(0, 1), line(0, 90), "predicted id 90 has class 9"),
        (line(0, 1), line(0, -1), "predicted id -1 has class -1"),
    ],
)
def test_maps_that_cannot_be_counted(gt: np.ndarray, pred: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        V.count_video(gt, pred, SMALL)


def test_settings_that_make_no_sense() -> None:
    for windows in ([0], [1, -1], [2, 2]):
        with pytest.raises(DataError, match="windows"):
            V.count_video(line(1), line(1), SMALL, windows)
    with pytest.raises(DataError, match="void class 3"):
        V.PanopticIds(n_classes=4, gt_void_class=3)
    with pytest.raises(DataError, match="void class 0"):
        V.PanopticIds(n_classes=4, pred_void_class=0)
    for n_classes, stride in ((0, 10), (4, 0), (255, 2**24)):
        with pytest.raises(DataError, match=f"ids of {n_classes} classes"):
            V.PanopticIds(n_classes=n_classes, stride=stride)
    with pytest.raises(DataError, match="different windows"):
        V.merge([{1: V.VpqCounts()}, {1: V.VpqCounts(), 2: V.VpqCounts()}])
    with pytest.raises(DataError, match="class 9"):
        V.summarize({1: V.VpqCounts(1, {9: V.ClassSums(fn=1)})}, THINGS)
    assert V.merge([]) == {}


@pytest.mark.golden
def test_official_tensors() -> None:
    """Sums and means of OMG-Seg's script."""
    if not (GOLDENS / "h_vpq.safetensors").exists():
        pytest.skip(f"no official tensors: {GOLDENS}/h_vpq.safetensors is absent (set OMGBENCH_GOLDENS)")
    from safetensors.numpy import load_file

    tensors = load_file(GOLDENS / "h_vpq.safetensors")
    config = json.loads((GOLDENS / "config.json").read_text(encoding="utf-8"))["seg"]
    tolerances = json.loads((GOLDENS / "tolerances.json").read_text(encoding="utf-8"))["h_vpq"]
    n_things, n_classes = config["num_things_classes"], config["num_things_classes"] + config["num_stuff_classes"]
    windows = sorted(int(name[1:].split("_")[0]) for name in tensors if name.endswith("_iou_tp_fn_fp"))
    sequences = sorted(name.removeprefix("gt_") for name in tensors if name.startswith("gt_"))
    assert windows and sequences and 2 * len(windows) + 2 * len(sequences) == len(tensors)
    ids = V.PanopticIds(n_classes=n_classes)
    parts = [V.count_video(tensors[f"gt_{name}"], tensors[f"pred_{name}"], ids, windows) for name in sequences]
    merged = V.merge(parts)
    values = V.summarize(merged, [index < n_things for index in range(n_classes)])
    for k in windows:
        measured = {
            f"k{k}_iou_tp_fn_fp": merged[k].class_sums(n_classes),
            f"k{k}_pq_all_thing_stuff": [values[f"{name}@{k}"] for name in ("VPQ", "VPQ_th", "VPQ_st")],
        }
        for name, value in measured.items():
            atol = float(tolerances[name].split()[1])
            # Sums were stored in single precision.
            np.testing.assert_allclose(value, tensors[name], rtol=1e-6, atol=atol, err_msg=name)


@pytest.mark.oracle
def test_numbers_of_vipsegs_script() -> None:
    """Every VPQ number of the synthetic set: five windows, per class, means over present classes."""
    folder = ORACLES / "vipseg_synth"
    if not folder.is_dir():
        pytest.skip(f"no official numbers: {folder} is absent (set OMGBENCH_ORACLES to the folder that holds it)")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["expected"]
    truth = json.loads((folder / "panoptic_gt_VIPSeg_val.json").read_text(encoding="utf-8"))
    prediction = json.loads((folder / "pred.json").read_text(encoding="utf-8"))
    windows = [int(k) for k in expected["VPQ"]]
    is_thing = [bool(row["isthing"]) for row in sorted(truth["categories"], key=lambda row: row["id"])]
    assert windows == [1, 2, 4, 6, 8] and len(is_thing) == 124
    ids = V.PanopticIds(n_classes=124, stride=2**24, class_splits_tube=False)
    names = {row["video_id"]: [image["file_name"] for image in row["images"]] for row in truth["videos"]}
    gt, pred = (
        {row["video_id"]: [frame["segments_info"] for frame in row["annotations"]] for row in rows["annotations"]}
        for rows in (truth, prediction)
    )
    merged = V.merge(
        V.count_video(
            coloured_maps(folder / "panomasksRGB" / video, frames, gt[video], void_class=65_535),
            coloured_maps(folder / "pan_pred" / video, frames, pred[video], void_class=124),
            ids,
            windows,
        )
        for video, frames in names.items()
    )
    values = V.summarize(merged, is_thing)
    groups = {"All": "", "Things": "_th", "Stuff": "_st"}
    for k in windows:
        official = expected["VPQ"][str(k)]
        assert_same_classes(merged[k], official["per_class"])
        for group, suffix in groups.items():
            assert values[f"VPQ_present{suffix}@{k}"] == pytest.approx(official[group]["pq"], abs=1e-12)
    four = V.summarize({k: merged[k] for k in V.WINDOWS}, is_thing)
    for group, suffix in groups.items():
        # These alone are in percent.
        for of_windows, label in ((values, "1_2_4_6_8"), (four, "1_2_4_6")):
            official_percent = expected[f"VPQ_mean_{label}_{group}"]
            assert of_windows[f"VPQ_present{suffix}"] == pytest.approx(official_percent / 100, abs=1e-12)


def coloured_maps(folder: Path, names: list[str], segments: list[list[dict[str, Any]]], void_class: int) -> np.ndarray:
    """The pictures of a video as `class * 2**24 + colour`; black is void."""
    frames = []
    for name, of_frame in zip(names, segments, strict=True):
        colours = np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.int64) @ [1, 256, 65_536]
        classes = {0: void_class} | {row["id"]: row["category_id"] for row in of_frame}
        present, at = np.unique(colours.ravel(), return_inverse=True)
        ids = np.array([classes[colour] * 2**24 + colour for colour in present.tolist()])
        frames.append(ids[at].reshape(colours.shape))
    return np.array(frames)


def assert_same_classes(counts: V.VpqCounts, official: dict[str, dict[str, float]]) -> None:
    assert {str(index) for index in counts.by_class} == set(official)
    sums = counts.class_sums(124)
    quality = V.panoptic_quality(sums)._asdict()
    measured = quality | dict(zip(("iou", "tp", "fn", "fp"), sums, strict=True))
    for index, numbers in official.items():
        assert {name: measured[name][int(index)] for name in numbers} == pytest.approx(numbers, abs=1e-12)
