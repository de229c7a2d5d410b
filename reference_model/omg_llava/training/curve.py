"""The losses of a run as a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from omg_llava.training.run_log import RunLog

_NOT_LOSSES = ("stage", "step", "n_steps", "loss", "gradient_norm", "learning_rate", "seconds")
_WINDOWS = 100


def draw_curve(log: Path, target: Path) -> None:
    """A panel per stage, a line per loss, each a running mean on a logarithmic scale. Nothing for an empty log."""
    stages: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in RunLog(log).read():
        for name, value in entry.items():
            if name not in _NOT_LOSSES:
                stages[entry["stage"]][name].append((entry["step"], value))
    if not stages:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(stages), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (stage, losses) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        for name, points in losses.items():
            steps, values = np.array(points).T
            axes.plot(*_smoothed(steps, values), label=name, linewidth=1.2)
        axes.set(title=stage, xlabel="step", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    figure.savefig(target, dpi=110)


def _smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows, at most `_WINDOWS` of them."""
    windows = np.array_split(np.arange(len(steps)), min(len(steps), _WINDOWS))
    return np.array([steps[w].mean() for w in windows]), np.array([max(values[w].mean(), 1e-6) for w in windows])
