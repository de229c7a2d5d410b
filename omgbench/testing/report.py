"""What a conformance check found: one line per rule, and an exception for those who want one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one rule.

    Attributes:
        name: the rule, stable over versions (`ids`, `poisoned frame`).
        passed: it holds; True for a skipped one.
        detail: what broke it, why it was skipped, or a remark.
        skipped: it could not be tried.
    """

    name: str
    passed: bool
    detail: str = ""
    skipped: bool = False

    def __str__(self) -> str:
        mark = "skip" if self.skipped else "ok" if self.passed else "FAIL"
        detail = " ".join(self.detail.split())
        return f"{mark:4}  {self.name}" + (f": {detail}" if detail else "")


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one model or task, in the order in which they were tried."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """No rule is broken."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The broken rules."""
        return tuple(check for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        """The check of that name. Raises `KeyError` listing the names there are."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check is named {name!r}; there are: {', '.join(check.name for check in self.checks)}")

    def raise_for_failures(self) -> None:
        """Raise `AssertionError` with the whole report when a rule is broken."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        skipped = sum(check.skipped for check in self.checks)
        passed = len(self.checks) - skipped - len(self.failures)
        head = f"{self.subject}: {passed} passed, {len(self.failures)} failed, {skipped} skipped"
        return "\n".join([head, *(f"  {check}" for check in self.checks)])


class Findings:
    """Collects outcomes rule by rule; the first problem of a rule is kept, later ones are only counted."""

    def __init__(self) -> None:
        self._problems: dict[str, list[str]] = {}
        self._tried: set[str] = set()
        self._skips: dict[str, str] = {}
        self._remarks: dict[str, str] = {}

    def expect(self, name: str, problem: str | None) -> bool:
        """The rule was tried; `problem` says how it is broken, None that it holds. Returns whether it holds."""
        self._tried.add(name)
        found = self._problems.setdefault(name, [])
        if problem is not None:
            found.append(problem)
        return problem is None

    @property
    def ok(self) -> bool:
        """No rule is broken so far."""
        return not any(self._problems.values())

    def skip(self, name: str, reason: str) -> None:
        """The rule could not be tried. A rule that is tried elsewhere counts as tried."""
        self._problems.setdefault(name, [])
        self._skips.setdefault(name, reason)

    def remark(self, name: str, remark: str) -> None:
        """The rule holds; something about it is worth telling."""
        self.expect(name, None)
        self._remarks[name] = remark

    def report(self, subject: str) -> Report:
        """Everything found so far."""
        return Report(subject, tuple(self._checks()))

    def _checks(self) -> Iterator[Check]:
        for name, problems in self._problems.items():
            if problems:
                more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
                yield Check(name, False, problems[0] + more)
            elif name in self._skips and name not in self._tried:
                yield Check(name, True, self._skips[name], skipped=True)
            else:
                yield Check(name, True, self._remarks.get(name, ""))
