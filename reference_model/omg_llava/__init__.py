"""OMG-LLaVA (NeurIPS 2024), the reference model of omgbench, usable without it.

Read in this order: `wording` (what the model is asked), `answers` (how what it writes is read).
"""
