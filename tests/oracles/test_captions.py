"""Caption scores of pycocoevalcap 1.2 and of nlg-eval's README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omgbench.metrics.captions import CAPTION_METRICS, score_captions
from omgbench.metrics.captions.java import find_java
from omgbench.metrics.captions.tokenizer import ptb_tokenize

OFFICIAL = {"Bleu_1": "BLEU-1", "Bleu_2": "BLEU-2", "Bleu_3": "BLEU-3", "Bleu_4": "BLEU-4"}
OFFICIAL |= {"METEOR": "METEOR", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr"}
PER_ITEM = ("METEOR", "ROUGE_L", "CIDEr")


def test_random_captions(oracles: Any) -> None:
    folder = oracles.folder("caption_synth")
    references = _references(folder / "captions_gt.json")
    hypotheses = _hypotheses(folder / "captions_results.json")
    first_only = {item: texts[:1] for item, texts in references.items()}
    measured = {
        "image_captioning": _score(references, hypotheses),
        "region_captioning_single_reference": _score(first_only, hypotheses),
    }
    oracles.assert_same(measured, oracles.expected(folder.name)["expected"], _tolerance)


def test_human_captions(oracles: Any) -> None:
    folder = oracles.folder("captions")
    expected = oracles.expected(folder.name)["expected"]
    names = [name for name in expected if name != "nlg_eval_example"]
    assert names, "no set of human captions is left to compare with"
    for name in names:
        references = next(
            path for path in folder.glob("*_references.json") if name.startswith(path.stem.removesuffix("_references"))
        )
        measured = _score(_references(references), _hypotheses(folder / f"{name}_results.json"))
        oracles.assert_same(measured, expected[name], _tolerance, name)


def test_published_numbers_of_nlg_eval(oracles: Any) -> None:
    """That tool splits at spaces, so the PTB tokenizer stays out."""
    folder = oracles.folder("captions")
    expected = oracles.expected(folder.name)["expected"]["nlg_eval_example"]
    example = json.loads((folder / "nlg_eval_example.json").read_text(encoding="utf-8"))
    hypotheses = {item: texts[0] for item, texts in example["hypotheses"].items()}
    measured = _score(example["references"], hypotheses, tokenize=False)
    oracles.assert_same(measured, expected["without_ptb_tokenizer"], _tolerance)
    published = {official: measured[official] for official in OFFICIAL}
    oracles.assert_same(published, expected["published"], 5e-7)


def _tolerance(place: str) -> float:
    """METEOR comes from a Java process that prints it."""
    return 1e-6 if "METEOR" in place else 1e-9


def _references(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
        found.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    return found


def _hypotheses(path: Path) -> dict[str, str]:
    return {str(entry["image_id"]): entry["caption"] for entry in json.loads(path.read_text(encoding="utf-8"))}


def _score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], tokenize: bool = True
) -> dict[str, Any]:
    scores = score_captions(references, hypotheses, metrics=CAPTION_METRICS, tokenize=tokenize)
    per_item = {item: {name: values[OFFICIAL[name]] for name in PER_ITEM} for item, values in scores.per_item.items()}
    texts = [hypotheses[item] for item in references]
    tokens = texts
    if tokenize:
        reference_lists = [text for found in references.values() for text in found]
        tokens = ptb_tokenize([reference_lists, texts], find_java())[1]
    meteors = [values["METEOR"] for values in per_item.values()]
    return {
        **{official: scores.corpus[ours] for official, ours in OFFICIAL.items()},
        "METEOR_mean_of_segments": sum(meteors) / len(meteors),
        "per_item": per_item,
        "tokenized_hypotheses": dict(zip(references, tokens, strict=True)),
    }
