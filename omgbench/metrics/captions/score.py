"""Scoring of captions against references by the metrics of the COCO caption evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from omgbench.errors import MetricNotComputed, UserError
from omgbench.metrics.captions.bleu import bleu
from omgbench.metrics.captions.cider import cider
from omgbench.metrics.captions.java import Java, find_java
from omgbench.metrics.captions.meteor import MeteorScorer, open_meteor
from omgbench.metrics.captions.ngrams import count_ngrams
from omgbench.metrics.captions.rouge import rouge_l
from omgbench.metrics.captions.text import one_line
from omgbench.metrics.captions.tokenizer import ptb_tokenize

METEOR, CIDER, ROUGE_L = "METEOR", "CIDEr", "ROUGE-L"
BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
CAPTION_METRICS = (METEOR, CIDER, *BLEU, ROUGE_L)
DEFAULT_METRICS = (METEOR, CIDER, "BLEU-4", ROUGE_L)

_SHOWN_IDS = 5
_Values = tuple[float, Sequence[float]]


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores of a set of captions.

    Attributes:
        corpus: metric -> value of the set. METEOR and BLEU are **not** the mean of the items' values.
        per_item: item id -> metric -> value; every item, in the references' order.
        not_computed: metric -> reason, for each metric that was asked for and could not be had.
        java: version and place of the Java that was used; None when none was.
    """

    corpus: dict[str, float] = field(default_factory=dict)
    per_item: dict[str, dict[str, float]] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    java: str | None = None


def score_captions(
    references: Mapping[str, Sequence[str]],
    hypotheses: Mapping[str, str],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    tokenize: bool = True,
) -> CaptionScores:
    """Score one caption per item against the item's references, as pycocoevalcap 1.2 does.

    Values equal the official code's to 1e-12 (METEOR: exactly); its Python classes are not used, because they hang,
    shift captions and write into the installed package. METEOR and the PTB tokenizer are its official jars and need
    Java. Where a needed Java is missing or fails, the metrics that need it stand in `not_computed`; nothing is put in
    their place. A single wait for Java ends after `OMGBENCH_JAVA_TIMEOUT` seconds (default 300).

    METEOR, BLEU and ROUGE-L range from 0 to 1, CIDEr from 0 to 10; higher is better. CIDEr weighs n-grams by the
    references of the evaluated set: leaving items out changes the values of the others.

    Args:
        references: item id -> one or more reference captions. The order of items and references is kept.
        hypotheses: item id -> caption, for exactly the same items; the empty string is a caption.
        metrics: any of `METEOR`, `CIDEr`, `BLEU-1` to `BLEU-4`, `ROUGE-L`.
        tokenize: run the PTB tokenizer, as the official evaluation does; False takes the captions as tokenised.

    Raises:
        UserError: unknown metric, no items, an item without hypothesis or without references, a hypothesis without
            item, a caption that is not a string.
    """
    wanted = _checked_metrics(metrics)
    _check_captions(references, hypotheses)
    reference_lists = [[one_line(text) for text in texts] for texts in references.values()]
    hypothesis_list = [one_line(hypotheses[item]) for item in references]
    not_computed: dict[str, str] = {}
    java: Java | None = None
    meteor: MeteorScorer | None = None
    with contextlib.ExitStack() as stack:
        try:
            if tokenize or METEOR in wanted:
                java = find_java()
                # First of all: its table loads while the rest is computed.
                meteor = stack.enter_context(open_meteor(java)) if METEOR in wanted else None
            if tokenize and java is not None:
                reference_lists, hypothesis_list = _tokenized(reference_lists, hypothesis_list, java)
        except MetricNotComputed as failure:
            not_computed = {name: str(failure) for name in wanted if tokenize or name == METEOR}
        computable = [name for name in wanted if name not in not_computed]
        values = _ngram_and_rouge_values(reference_lists, hypothesis_list, computable)
        if meteor is not None and METEOR in computable:
            try:
                values[METEOR] = meteor.score(reference_lists, hypothesis_list, _item_names(references))
            except MetricNotComputed as failure:
                not_computed[METEOR] = str(failure)
    return _scores(list(references), [name for name in wanted if name in values], values, not_computed, java)


def _tokenized(
    reference_lists: Sequence[Sequence[str]], hypotheses: Sequence[str], java: Java
) -> tuple[list[list[str]], list[str]]:
    flat, tokenized_hypotheses = ptb_tokenize([[text for texts in reference_lists for text in texts], hypotheses], java)
    remaining = iter(flat)
    return [[next(remaining) for _ in texts] for texts in reference_lists], tokenized_hypotheses


def _ngram_and_rouge_values(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], wanted: Iterable[str]
) -> dict[str, _Values]:
    wanted = set(wanted)
    values: dict[str, _Values] = {}
    if wanted & {CIDER, *BLEU}:
        ngrams = count_ngrams(references, hypotheses)
        if CIDER in wanted:
            corpus, items = cider(ngrams)
            values[CIDER] = corpus, items.tolist()
        if wanted & set(BLEU):
            for name, (corpus, items) in zip(BLEU, bleu(ngrams), strict=True):
                if name in wanted:
                    values[name] = corpus, items.tolist()
    if ROUGE_L in wanted:
        corpus, items = rouge_l(references, hypotheses)
        values[ROUGE_L] = corpus, items.tolist()
    return values


def _scores(
    items: Sequence[str],
    names: Sequence[str],
    values: Mapping[str, _Values],
    not_computed: dict[str, str],
    java: Java | None,
) -> CaptionScores:
    columns = [values[name][1] for name in names]
    return CaptionScores(
        corpus={name: values[name][0] for name in names},
        per_item={
            item: {name: column[row] for name, column in zip(names, columns, strict=True)}
            for row, item in enumerate(items)
        },
        not_computed=not_computed,
        java=None if java is None else f"{java.version} ({java.source})",
    )


def _item_names(items: Iterable[str]) -> list[str]:
    ids = list(items)
    return [f"item {item!r} (caption {number} of {len(ids)})" for number, item in enumerate(ids, start=1)]


def _checked_metrics(metrics: Sequence[str]) -> list[str]:
    names = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    unknown = [name for name in names if name not in CAPTION_METRICS]
    if unknown or not names:
        found = f"unknown caption metric {', '.join(map(repr, unknown))}" if unknown else "no caption metric named"
        raise UserError(found, expected=f"any of {', '.join(CAPTION_METRICS)}")
    return names


def _check_captions(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise UserError("no captions to score", expected="at least one item with a reference")
    _refuse("without a hypothesis", [item for item in references if item not in hypotheses], "one caption per item")
    _refuse("without references", [item for item in hypotheses if item not in references], "hypotheses of these items")
    _refuse(
        "whose references are not a list of strings with at least one",
        [item for item, texts in references.items() if not _is_list_of_text(texts)],
        "a list of captions, which may be empty strings",
    )
    _refuse(
        "whose hypothesis is not a string",
        [item for item, text in hypotheses.items() if not isinstance(text, str)],
        "a caption, which may be the empty string",
    )


def _is_list_of_text(texts: object) -> bool:
    return (
        isinstance(texts, Sequence)
        and not isinstance(texts, str)
        and len(texts) > 0
        and all(isinstance(text, str) for text in texts)
    )


def _refuse(what: str, items: Sequence[str], expected: str) -> None:
    if items:
        shown = ", ".join(repr(item) for item in items[:_SHOWN_IDS]) + (", ..." if len(items) > _SHOWN_IDS else "")
        raise UserError(f"{len(items)} item(s) {what}: {shown}", expected=expected)
