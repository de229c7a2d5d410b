"""METEOR, CIDEr, BLEU and ROUGE-L of captions, as the official COCO caption evaluation computes them."""

from __future__ import annotations

from omgbench.metrics.captions.score import CAPTION_METRICS, DEFAULT_METRICS, CaptionScores, score_captions

__all__ = ["CAPTION_METRICS", "DEFAULT_METRICS", "CaptionScores", "score_captions"]
