"""Metrics: masks, boxes and text in, exact mergeable sums out."""
