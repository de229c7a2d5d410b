"""GCG numbers of GLaMM's script, through the import of its prediction folder and a whole offline run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omgbench.metrics.grounding import mask_recall, mean_matched_iou
from omgbench.runner.imported import score_predictions
from omgbench.runner.scoring import read_records
from omgbench.store import ResultRecord
from omgbench_tasks.gcg.task import Gcg

SEGM = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CAPTION = {"Bleu_1": "BLEU-1", "Bleu_2": "BLEU-2", "Bleu_3": "BLEU-3", "Bleu_4": "BLEU-4"}
CAPTION |= {"METEOR": "METEOR", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr"}


class Jaccard:
    """The stand-in that the oracle's recall was made with: overlap of the sets of lower-cased words."""

    name = "jaccard"

    def similarity(self, labels: Sequence[str], phrases: Sequence[str]) -> NDArray[np.float64]:
        found = [[_jaccard(label, phrase) for phrase in phrases] for label in labels]
        return np.array(found, dtype=np.float64).reshape(len(labels), len(phrases))


def _jaccard(one: str, other: str) -> float:
    words, others = set(one.lower().split()), set(other.lower().split())
    return len(words & others) / len(words | others) if words | others else 0.0


def test_every_number_of_glamms_script(oracles: Any, tmp_path: Path) -> None:
    folder = oracles.folder("gcg_synth")
    expected = oracles.expected(folder.name)["expected"]
    outcome = score_predictions(
        folder / "predictions", [Gcg(Jaccard())], data=folder, out=tmp_path / "run", split="val"
    )
    result = outcome.results[0]
    stats = [record.stats for record in read_records(tmp_path / "run" / "gcg-val" / "records.jsonl")]
    oracles.assert_same(_measured(result, stats), expected, _tolerance)


def _tolerance(place: str) -> float:
    """METEOR comes from a Java process that prints it."""
    return 1e-6 if place.endswith("METEOR") else 1e-9


def _measured(result: ResultRecord, stats: list[dict[str, Any]]) -> dict[str, Any]:
    recalls = {item["image_id"]: _recall(item) for item in stats}
    recall, miou = result.value("Recall_by_text_model"), result.value("mIoU")
    return {
        "segm": {name: result.value(name) for name in SEGM},
        "mIoU": miou,
        "mIoU_per_image": {item["image_id"]: mean_matched_iou(_iou(item)) for item in stats},
        "recall": recall,
        "recall_matches_per_image": {
            image_id: "IndexError" if found.phrases_ran_out else [list(pair) for pair in found.matches]
            for image_id, found in recalls.items()
        },
        "recall_counts": [
            sum(found.n_matched for found in recalls.values()),
            sum(found.n_labels for found in recalls.values()),
        ],
        "official_printout": [f"Recall: {recall:.3f}", f"Mean IoU (mIoU) across all images: {miou:.3f}"],
        "caption": {official: result.value(ours) for official, ours in CAPTION.items()},
    }


def _iou(item: dict[str, Any]) -> NDArray[np.float64]:
    shape = (len(item["prediction_areas_px"]), len(item["reference_areas_px"]))
    return np.array(item["iou"], dtype=np.float64).reshape(shape)


def _recall(item: dict[str, Any]) -> Any:
    return mask_recall(_iou(item).T, Jaccard().similarity(item["labels"], item["phrases"]))
