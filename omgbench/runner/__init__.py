"""Runs one model on one cell: plan, answer, journal, score."""
