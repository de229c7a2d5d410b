"""One row for several training seeds: means, Student's t intervals, marks, and what is never joined."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from omgbench.reports.seeds import mean_and_half_width
from omgbench.reports.tables import render_table
from omgbench.store import ResultRecord, load_result

BASE = json.loads(load_result(Path(__file__).parents[1] / "store" / "historic" / "schema_1.json").to_json())


def _trained(name: str, seed: int | None, values: tuple[float, ...], marks: tuple[str, ...] = ()) -> ResultRecord:
    """A result of a model that was trained with a seed, with these values for its metrics."""
    record: dict[str, Any] = json.loads(json.dumps(BASE)) | {"marks": list(marks), "options": {}}
    options = {} if seed is None else {"training_seed": str(seed)}
    record["model"] |= {"name": name, "fingerprint": f"{name} {seed} {values}", "options": options}
    primary = [metric for metric in record["metrics"] if metric["primary"]]
    for metric, value in zip(primary, values, strict=False):
        metric["value"] = value
    return ResultRecord.model_validate(record)


def _lines(*results: ResultRecord, **options: Any) -> list[str]:
    return [line for line in render_table(results, format="markdown", **options).splitlines() if line.startswith("|")][
        2:
    ]


def test_seeds_make_one_row_with_the_interval_of_their_mean() -> None:
    values = (0.61, 0.64, 0.7)
    [line] = _lines(*(_trained("tiny", seed, (value,)) for seed, value in enumerate(values)), join_seeds=True)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    found = re.search(r"([\d.]+) ± ([\d.]+) ", line)
    assert found is not None
    assert float(found[1]) == pytest.approx(100 * sum(values) / 3, abs=0.05)
    assert float(found[2]) == pytest.approx(100 * (high - low) / 2, abs=0.05)
    assert line.endswith("| 30/30 |")


def test_the_note_names_the_seeds_and_marks_stay() -> None:
    results = [_trained("tiny", 3, (0.5,)), _trained("tiny", 8, (0.6,), marks=("demo data",))]
    text = render_table(results, format="markdown", join_seeds=True)
    assert "training seeds 3, 8" in text
    assert "demo data" in text


def test_without_the_option_every_seed_is_a_row() -> None:
    assert len(_lines(_trained("tiny", 1, (0.5,)), _trained("tiny", 2, (0.6,)))) == 2


def test_other_names_models_without_a_seed_and_second_runs_stay_apart() -> None:
    results = [
        _trained("tiny", 1, (0.5,)),
        _trained("tiny", 1, (0.6,)),
        _trained("other", 2, (0.5,)),
        _trained("published", None, (0.5,)),
        _trained("published", None, (0.7,)),
    ]
    lines = _lines(*results, join_seeds=True)
    assert len(lines) == 5
    assert not any("±" in line for line in lines)


@pytest.mark.parametrize("values", [(1.0, 2.0), (0.2, 0.4, 0.9, 0.3), (5.0, 5.0, 5.0)])
def test_half_width_is_that_of_scipy(values: tuple[float, ...]) -> None:
    mean, half_width = mean_and_half_width(values)
    assert mean == pytest.approx(sum(values) / len(values))
    assert half_width is not None
    scale = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=scale)[1] - mean if scale else 0.0
    assert half_width == pytest.approx(expected)


def test_one_value_has_no_interval() -> None:
    assert mean_and_half_width([0.4]) == (0.4, None)
