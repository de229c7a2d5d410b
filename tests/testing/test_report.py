"""Reports count, name and raise."""

from __future__ import annotations

import pytest

from omgbench.testing.report import Check, Findings, Report


def found() -> Report:
    findings = Findings()
    findings.expect("good", None)
    findings.expect("bad", "first problem")
    findings.expect("bad", None)
    findings.expect("bad", "second problem")
    findings.skip("absent", "no Java")
    findings.skip("tried elsewhere", "not here")
    findings.expect("tried elsewhere", None)
    findings.remark("odd", "worth telling")
    return findings.report("model x")


def test_the_text_has_a_line_per_rule() -> None:
    assert str(found()).splitlines() == [
        "model x: 3 passed, 1 failed, 1 skipped",
        "  ok    good",
        "  FAIL  bad: first problem (and 1 more)",
        "  skip  absent: no Java",
        "  ok    tried elsewhere",
        "  ok    odd: worth telling",
    ]


def test_failures_raise() -> None:
    report = found()
    assert not report.ok
    assert [check.name for check in report.failures] == ["bad"]
    with pytest.raises(AssertionError, match="first problem"):
        report.raise_for_failures()


def test_a_skipped_rule_is_no_failure() -> None:
    report = Report("x", (Check("a", True, "no Java", skipped=True),))
    report.raise_for_failures()
    assert report.ok


def test_an_unknown_check_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="good, bad"):
        found()["worse"]
