"""Official .pth files: weights come out, nothing else happens."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
import subprocess
import sys
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omg_llava.errors import ModelError
from omg_llava.files.pth import is_mapped, read_pth, read_pth_tensor

FORMATS = pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "backbone.stem.0.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "turned": torch.randn(3, 4, generator=generator).T,
    }


def save(content: object, path: Path, new_format: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    return path


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def mmengine() -> Iterator[types.ModuleType]:
    """A module that exists only while a checkpoint is written."""
    module = types.ModuleType("vanished_mmengine")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.values = np.arange(5.0)
            self.statistics = {"mean": np.mean, "own": HistoryBuffer.latest}

        def latest(self) -> None: ...

    class ConfigDict(dict[str, Any]): ...

    class Slotted:
        __slots__ = ("size",)

        def __init__(self) -> None:
            self.size = 3

    for made in (HistoryBuffer, ConfigDict, Slotted):
        made.__module__, made.__qualname__ = module.__name__, made.__name__
        setattr(module, made.__name__, made)
    HistoryBuffer.latest.__qualname__, HistoryBuffer.latest.__module__ = "HistoryBuffer.latest", module.__name__
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def mmengine_checkpoint(module: types.ModuleType) -> dict[str, Any]:
    config = module.ConfigDict(model=module.ConfigDict(type="OMG"), steps=[1, 2])
    config.note = "an attribute of a dict"
    hub = {"loss": module.HistoryBuffer(), "recent": collections.deque([1, 2, 3], maxlen=5)}
    return {
        "meta": {"cfg": config, "time": datetime.datetime(2024, 5, 1), "epoch": np.float64(3), "path": Path("a")},
        "message_hub": {"log_scalars": hub, "sizes": collections.defaultdict(list, {"a": [1]})},
        "state_dict": collections.OrderedDict(weights()),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "slots": module.Slotted(), "kinds": {np.int64(3)}},
        "counts": collections.Counter("aab"),
    }


@FORMATS
def test_a_flat_dict(tmp_path: Path, new_format: bool) -> None:
    path = save(weights(), tmp_path / "a.pth", new_format)
    assert is_mapped(path) == new_format
    assert_same(read_pth(path), weights())
    assert_same(read_pth(str(path)), weights())


@FORMATS
def test_objects_of_modules_that_are_not_there(tmp_path: Path, mmengine: types.ModuleType, new_format: bool) -> None:
    path = save(mmengine_checkpoint(mmengine), tmp_path / "a.pth", new_format)
    del sys.modules[mmengine.__name__]
    allowed = torch.serialization.get_safe_globals()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(read_pth(path), weights())
    assert mmengine.__name__ not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_weights_inside_a_dict_of_a_missing_class(tmp_path: Path, mmengine: types.ModuleType) -> None:
    path = save({"state_dict": mmengine.ConfigDict(weights())}, tmp_path / "a.pth")
    del sys.modules[mmengine.__name__]
    assert_same(read_pth(path), weights())


def test_a_parameter_comes_out_as_a_tensor(tmp_path: Path) -> None:
    found = read_pth(save({"a": torch.nn.Parameter(torch.ones(2)), "epoch": 3}, tmp_path / "a.pth"))
    assert type(found["a"]) is torch.Tensor and not found["a"].requires_grad
    assert list(found) == ["a"]


@FORMATS
def test_a_bare_tensor(tmp_path: Path, new_format: bool) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    path = save(tensor, tmp_path / "a.pth", new_format)
    assert torch.equal(read_pth_tensor(path), tensor)
    with pytest.raises(ModelError, match="one tensor of shape \\(3, 4\\)") as error:
        read_pth(path)
    assert error.value.hint == "read it with read_pth_tensor"
    with pytest.raises(ModelError, match="a dict of 5 entries"):
        read_pth_tensor(save(weights(), tmp_path / "b.pth", new_format))


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    before = path.read_bytes()
    read_pth(path)["a"].fill_(1)
    assert path.read_bytes() == before


def test_a_compressed_zip_is_not_mapped(tmp_path: Path) -> None:
    stored = save(weights(), tmp_path / "a.pth")
    compressed = tmp_path / "b.pth"
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert not is_mapped(compressed)
    assert_same(read_pth(compressed), weights())


class Calls:
    """Pickles to a call of a function with one argument."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.call


@FORMATS
@pytest.mark.parametrize("function", [os.system, subprocess.check_output, os.mkdir, eval, __import__])
def test_a_hostile_pickle_does_nothing(tmp_path: Path, function: Any, new_format: bool) -> None:
    mark = tmp_path / "mark"
    argument = {os.system: f"touch {mark}", subprocess.check_output: "touch", os.mkdir: str(mark)}.get(
        function, f"__import__('os').mkdir({str(mark)!r})"
    )
    allowed = torch.serialization.get_safe_globals()
    path = save({**weights(), "meta": Calls(function, argument)}, tmp_path / "a.pth", new_format)
    if function in (os.system, os.mkdir):
        with pytest.raises(ModelError, match="posix"):
            read_pth(path)
    else:
        assert_same(read_pth(path), weights())
    assert not mark.exists()
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps({"a": Calls(os.system, f"touch {mark}")}, protocol=protocol))
        with pytest.raises(ModelError):
            read_pth(path)
    assert not mark.exists()


@FORMATS
def test_every_truncation_is_an_error(tmp_path: Path, new_format: bool) -> None:
    whole = save(weights(), tmp_path / "a.pth", new_format).read_bytes()
    path = tmp_path / "b.pth"
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            read_pth(path)


def test_flipped_bytes_never_leave_modelerror(tmp_path: Path) -> None:
    whole = save(weights(), tmp_path / "a.pth").read_bytes()
    path, rng = tmp_path / "b.pth", np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 150):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        try:
            read_pth(path)
        except ModelError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>404</html>", "a text file that begins '<!DOCTYPE html>"),
        ("模型".encode() * 300, "a text file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a checkpoint: it begins with bytes 89 50 4e"),
        (b"PK\x03\x04" + bytes(100), "truncated or corrupt zip"),
        (b"\x10" + bytes(7) + b"{}", "use open_weights"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=match) as error:
        read_pth(path)
    assert error.value.where == str(path)


@pytest.mark.parametrize("content", [{"epoch": 3, "state_dict": {"a": 1}}, {}, {"model": {"a": torch.ones(1)}}, [1], 5])
def test_no_tensors(tmp_path: Path, content: object) -> None:
    with pytest.raises(ModelError, match=r"none a tensor|an object of type"):
        read_pth(save(content, tmp_path / "a.pth"))


def test_names_are_text(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="under the key 3"):
        read_pth(save({3: torch.ones(1)}, tmp_path / "a.pth"))


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.ones(2, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_values(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="a dense tensor"):
        read_pth(save({"a": tensor}, tmp_path / "a.pth"))


def test_a_deepspeed_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "global_step10").mkdir()
    with pytest.raises(ModelError, match=r"zero_to_fp32\.py"):
        read_pth(tmp_path)
    (tmp_path / "global_step10").rmdir()
    with pytest.raises(ModelError, match="an empty folder"):
        read_pth(tmp_path)
    with pytest.raises(ModelError, match="cannot read the file"):
        read_pth(tmp_path / "missing.pth")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/data.pkl", b"\x80\x02).")
    with pytest.raises(ModelError, match="torchscript"):
        read_pth(path)
