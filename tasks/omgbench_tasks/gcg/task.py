"""Grounded conversation generation on GranD-f: a caption whose phrases carry masks.

One sample: image sa_10010541.jpg, answer "<p>A man</p> [SEG] rides <p>a bicycle</p> [SEG] ...".
Paper: GLaMM, arXiv 2311.03356. Official scorer: mbzuai-oryx/groundingLMM, eval/gcg/evaluate.py (commit e74865f);
OMG-LLaVA's copy is the same.

An answer that failed (error, timeout, missing) is scored as no caption and no mask: the empty text against the
references, every true mask not found.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omgbench.contract import (
    DataFile,
    Frame,
    GenOptions,
    Intent,
    Mask,
    MetricSpec,
    MetricValue,
    Record,
    Request,
    Response,
    Rle,
    Sample,
    Span,
    SplitInfo,
    Status,
    TaskInfo,
)
from omgbench.data.grandf import GcgImage, read_gcg, read_prediction_folder
from omgbench.data.locate import locate, locate_images
from omgbench.errors import MetricNotComputed
from omgbench.metrics.average_precision import MAX_PREDICTIONS, ImageMatches, average_precision
from omgbench.metrics.captions import score_captions
from omgbench.metrics.grounding import iou_matrix, mask_recall, mean_matched_iou, mean_reference_iou
from omgbench.metrics.rle import area_px
from omgbench.metrics.text_similarity import BERT, TextModel, text_model_by_name
from omgbench_tasks.gcg.demo import write_gcg_demo

TEXT_MODEL_VARIABLE = "OMGBENCH_TEXT_MODEL"

QUESTION = (
    "Could you please give me a detailed description of the image? Please respond with interleaved{spaces}"
    "segmentation masks for the corresponding parts of the answer."
)
TEMPLATES = {
    "omg_llava": QUESTION.replace("{spaces}", " "),
    # A line continuation inside the official script's string: the model reads five spaces.
    "glamm": QUESTION.replace("{spaces}", " " * 5),
}

CAPTION_METRICS = ("METEOR", "CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L")
AP_METRICS = ("AP50", "AP", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_COCO = "COCOeval segm, one class, every score 1.0"

METRICS = (
    MetricSpec("METEOR", "Caption METEOR 1.5 (official jar) after the PTB tokenizer.", primary=True),
    MetricSpec("CIDEr", "Caption CIDEr; document frequencies of the evaluated set.", scale=(0.0, 10.0), primary=True),
    MetricSpec("AP50", f"Mask AP at IoU 0.5 ({_COCO}); -1 without any true mask.", (-1.0, 1.0), primary=True),
    MetricSpec(
        "mIoU", "Mean over images of the IoU of greedily matched masks; unmatched ones cost nothing.", primary=True
    ),
    MetricSpec(
        "Recall",
        "Share of true labels found by IoU and text similarity of at least 0.5, text model bert-base-uncased.",
        optional=True,
    ),
    MetricSpec(
        "Recall_by_text_model",
        f"The same with another text model, named in the note and chosen by {TEXT_MODEL_VARIABLE}; not comparable.",
        optional=True,
    ),
    MetricSpec("mIoU_all", "mIoU in which every unmatched true mask counts as 0; not the official number."),
    *(MetricSpec(name, f"Caption {name} (pycocoevalcap).") for name in CAPTION_METRICS[2:]),
    *(
        # With one or ten masks an image not every object can be found, so 1 is out of reach.
        MetricSpec(
            name, f"Mask {name} ({_COCO}); -1 without true masks.", (-1.0, None if name in ("AR1", "AR10") else 1.0)
        )
        for name in AP_METRICS[1:]
    ),
)


def _split(name: str, n_images: int) -> SplitInfo:
    folders = ("GranDf/annotations/val_test", "GranD-f/annotations/val_test", "GranDf/val_test", "val_test", ".")
    pictures = ("GranDf_HA_images/val_test", "GranDf/GranDf_HA_images/val_test", "GranD-f/GranDf_HA_images/val_test")

    def annotations(kind: str) -> tuple[str, ...]:
        return tuple(f"{folder}/{name}_gcg_coco_{kind}_gt.json" for folder in folders)

    files = (
        DataFile(annotations("caption"), "captions and phrases", source="MBZUAI/GranD-f"),
        DataFile(annotations("mask"), "masks of the phrases", source="MBZUAI/GranD-f"),
        DataFile(
            (*pictures, "images"), "SA-1B photographs", role="images", source="GranDf_HA_images of MBZUAI/GranD-f"
        ),
    )
    return SplitInfo(name, "", files, n_images, n_images, default=True)


class Gcg:
    """Grounded conversation generation.

    Args:
        text_model: text model of mask recall; None = bert-base-uncased from the local cache, or what
            `OMGBENCH_TEXT_MODEL` names (a folder with that checkpoint, or all-MiniLM-L6-v2).
    """

    def __init__(self, text_model: TextModel | None = None) -> None:
        self._text_model = text_model
        self._info = TaskInfo(
            name="gcg",
            version="1",
            title="GCG",
            intents=frozenset((Intent.GROUNDED_CAPTION,)),
            splits=(_split("val", 2500), _split("test", 5000)),
            metrics=METRICS,
            templates=TEMPLATES,
            protocol="mbzuai-oryx/groundingLMM eval/gcg/evaluate.py, commit e74865f",
        )

    @property
    def info(self) -> TaskInfo:
        """What the task is."""
        return self._info

    def samples(self, split: SplitInfo, data_root: Path) -> Iterator[Sample]:
        """One sample per image, in the caption file's order; ids are `gcg:<split>#<image id>`."""
        captions, masks = (locate(data_root, file) for file in split.files[:2])
        folder = locate_images(data_root, split.files[2])
        for image in read_gcg(captions, masks):
            frame = Frame(image.image_id, image.width, image.height, folder / image.file_name)
            request = Request(
                id=f"gcg:{split.name}#{image.image_id}",
                intent=Intent.GROUNDED_CAPTION,
                frames=(frame,),
                gen=GenOptions(max_new_tokens=512),
            )
            yield Sample(request, image.image_id, image)

    def score(self, sample: Sample, response: Response) -> Record:
        """Caption, phrases and the IoU matrix of the masks.

        Statistics: `image_id` (the file's own, a number or a text), `caption`, `references`, `labels`, `phrases` (one
        per mask as far as they go), `iou` (predicted x true, None for two empty masks), `prediction_areas_px`,
        `reference_areas_px`, `reference_is_crowd`.
        """
        image: GcgImage = sample.reference
        predicted = [] if response.status.failed else [mask.rle for mask in response.masks]
        iou = iou_matrix(predicted, image.masks).tolist()
        stats = {
            "image_id": image.official_id,
            "caption": "" if response.status.failed else response.text or "",
            "references": list(image.captions),
            "labels": list(image.labels),
            "phrases": [] if response.status.failed else phrases_of(response),
            "iou": [[None if math.isnan(value) else value for value in row] for row in iou],
            "prediction_areas_px": [area_px(rle) for rle in predicted],
            "reference_areas_px": list(image.areas_px),
            "reference_is_crowd": list(image.crowds),
        }
        return Record(sample.id, sample.group, response.status, stats)

    def summarize(self, records: Iterable[Record]) -> Sequence[MetricValue]:
        """All metrics; those whose means are absent have no value and say why.

        A record may come several times, as in a bootstrap over images, and then counts as so many images. AP takes the
        images in the order of their official ids, whatever the order of the records. Captions go to the tokenizer and
        METEOR in the order of the records, which is the caption file's as in the official run: those programs read
        neighbouring captions in one stream.
        """
        images = [record.stats for record in records]
        values = {spec.name: MetricValue(spec.name, None, len(images)) for spec in METRICS}
        if images:
            values |= _mask_values(images)
            with_caption = [image for image in images if image["references"]]
            values |= _caption_values(with_caption)
            values |= self._recall_values(with_caption)
        return [values[spec.name] for spec in METRICS]

    def _recall_values(self, images: list[dict[str, Any]]) -> dict[str, MetricValue]:
        model = self._text_model or text_model_by_name(os.environ.get(TEXT_MODEL_VARIABLE) or BERT)
        official = model.name == BERT
        name, other = ("Recall", "Recall_by_text_model") if official else ("Recall_by_text_model", "Recall")
        n_labels = sum(len(image["labels"]) for image in images)
        asked = (
            f"the text model is {model.name}" if not official else f"{TEXT_MODEL_VARIABLE} names no other text model"
        )
        rest = {other: MetricValue(other, None, n_labels, f"not asked for: {asked}")}
        try:
            matched = sum(_recalled(image, model) for image in images)
        except MetricNotComputed as reason:
            return rest | {name: MetricValue(name, None, n_labels, " ".join(str(reason).split()))}
        value = matched / n_labels if n_labels else None
        return rest | {name: MetricValue(name, value, n_labels, f"text model {model.name}")}

    def perfect_answer(self, sample: Sample) -> Response:
        """The first reference caption, with its phrases and masks."""
        image: GcgImage = sample.reference
        text = image.captions[0] if image.captions else ""
        return Response(
            sample.id,
            Status.OK,
            text=text,
            masks=tuple(map(Mask, image.masks)),
            spans=_spans(image.labels, image.masks),
        )

    def write_demo(self, data_root: Path, seed: int) -> None:
        """Demo scenes in the GranD-f layout."""
        write_gcg_demo(data_root, seed)

    def read_official_predictions(self, path: Path, samples: Iterable[Sample]) -> Iterator[Response]:
        """Read the folder that the official scripts write, one `IMAGE_ID.json` per image.

        The official evaluator stops at a missing file; here that image is `missing`, which scores as an empty answer
        and makes the result incomplete.
        """
        by_image = {sample.reference.image_id: sample.id for sample in samples}
        for image_id, prediction in read_prediction_folder(path, by_image):
            if prediction is None:
                yield Response(by_image[image_id], Status.MISSING, error=f"{path.name} has no {image_id}.json")
                continue
            yield Response(
                by_image[image_id],
                Status.OK if prediction.masks else Status.EMPTY,
                text=prediction.caption,
                masks=tuple(map(Mask, prediction.masks)),
                spans=_spans(prediction.phrases, prediction.masks),
            )


def _spans(phrases: Sequence[str], masks: Sequence[Rle]) -> tuple[Span, ...]:
    """Phrase i belongs to mask i; phrases beyond the masks stand without one."""
    return tuple(Span(phrase, masks=(i,) if i < len(masks) else ()) for i, phrase in enumerate(phrases))


def phrases_of(response: Response) -> list[str]:
    """The phrase of each mask in order, then the phrases without mask; it ends early at a mask without phrase, as the
    official lists of phrases and masks do when their numbers differ."""
    of_mask = {mask: span.phrase for span in response.spans for mask in reversed(span.masks)}
    phrases: list[str] = []
    for mask in range(len(response.masks)):
        if mask not in of_mask:
            return phrases
        phrases.append(of_mask[mask])
    return phrases + [span.phrase for span in response.spans if not span.masks]


def _mask_values(images: list[dict[str, Any]]) -> dict[str, MetricValue]:
    ordered = _in_official_order(images)
    ap = average_precision(_matches(image, position) for position, image in enumerate(ordered))
    values = {name: MetricValue(name, ap[name], len(images)) for name in AP_METRICS}
    with_caption = [image for image in images if image["references"]]
    matched = [mean_matched_iou(_floats(image)) for image in with_caption]
    every = [iou for image in with_caption if (iou := mean_reference_iou(_floats(image))) is not None]
    for name, per_image in (("mIoU", matched), ("mIoU_all", every)):
        mean = math.fsum(per_image) / len(per_image) if per_image else None
        values[name] = MetricValue(name, mean, len(per_image))
    return values


def _in_official_order(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By image id as COCOeval sorts: numbers as numbers, texts as texts.

    Every score is 1.0, so this order decides AP. Ids of both types, at which COCOeval stops, go by their texts.
    """
    of_one_type = len({isinstance(image["image_id"], str) for image in images}) == 1
    return sorted(images, key=lambda image: image["image_id"] if of_one_type else str(image["image_id"]))


def _floats(image: dict[str, Any]) -> Any:
    import numpy as np

    shape = (len(image["prediction_areas_px"]), len(image["reference_areas_px"]))
    return np.array(image["iou"], dtype=np.float64).reshape(shape)


def _matches(image: dict[str, Any], position: int) -> ImageMatches:
    """The record as COCOeval's AP wants it: two empty masks have IoU 0, at most 100 masks in file order count.

    The position stands for the id, which a repeated record would give twice.
    """
    most = MAX_PREDICTIONS[-1]
    n_references = len(image["reference_areas_px"])
    return ImageMatches(
        image_id=position,
        iou=tuple(tuple(value or 0.0 for value in row) for row in image["iou"][:most]),
        scores=(1.0,) * min(most, len(image["iou"])),
        prediction_areas_px=tuple(image["prediction_areas_px"][:most]),
        reference_areas_px=tuple(image["reference_areas_px"]),
        reference_is_crowd=tuple(image["reference_is_crowd"]),
        reference_ids=tuple(range(1, n_references + 1)),
    )


def _caption_values(images: list[dict[str, Any]]) -> dict[str, MetricValue]:
    if not images:
        return {}
    # The position keeps repeated records apart; the id is for messages.
    items = {f"{image['image_id']}#{position}": image for position, image in enumerate(images)}
    references = {item: image["references"] for item, image in items.items()}
    hypotheses = {item: image["caption"] for item, image in items.items()}
    scores = score_captions(references, hypotheses, metrics=CAPTION_METRICS)
    return {
        name: MetricValue(
            name, scores.corpus.get(name), len(images), " ".join(scores.not_computed.get(name, "").split())
        )
        for name in CAPTION_METRICS
    }


def _recalled(image: dict[str, Any], model: TextModel) -> int:
    similarity = model.similarity(image["labels"], image["phrases"])
    return mask_recall(_floats(image).T, similarity).n_matched
