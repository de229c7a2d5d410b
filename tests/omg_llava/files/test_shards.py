"""Folders of shards: written whole, read piece by piece, put into modules without gaps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from omg_llava.errors import ModelError
from omg_llava.files import weights as weights_module
from omg_llava.files.fingerprint import fingerprint
from omg_llava.files.loading import load_into
from omg_llava.files.safetensors_file import DTYPES, read_entries, write_file
from omg_llava.files.shard_writer import ShardWriter
from omg_llava.files.weights import open_weights

INDEX = "model.safetensors.index.json"


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found: dict[str, torch.Tensor] = {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    for i, dtype in enumerate(DTYPES.values()):
        values = torch.randint(0, 2, (7, i + 1), generator=generator)
        found[f"layer.{i}.weight"] = values.to(dtype)
    found["turned"] = torch.randn(30, 20, generator=generator).T
    found['names with 中文 and \\ quotes"'] = torch.randn(5, generator=generator)
    return found


def write(folder: Path, content: dict[str, torch.Tensor], max_shard_bytes: int = 2**30) -> Path:
    with ShardWriter(folder, max_shard_bytes, {"source": "test"}) as writer:
        for name, tensor in content.items():
            writer.add(name, tensor)
    return folder


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    as_bytes = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (found, expected)]
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(*as_bytes)


def assert_holds(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    weights = open_weights(folder)
    assert sorted(weights.names()) == sorted(expected)
    assert weights.n_bytes == sum(tensor.nbytes for tensor in expected.values())
    for name, tensor in expected.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert weights.dtype(name) == tensor.dtype
        assert same(weights.tensor(name), tensor), name
    read = list(weights.items())
    assert [name for name, _ in read] == weights.names()
    assert all(same(tensor, expected[name]) for name, tensor in read)


# Writing and reading


@pytest.mark.parametrize("max_shard_bytes", [2**30, 900, 1])
def test_a_folder_reads_as_it_was_written(tmp_path: Path, max_shard_bytes: int) -> None:
    assert_holds(write(tmp_path / "m", tensors(), max_shard_bytes), tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_shards_keep_their_limit_and_the_index_names_them(tmp_path: Path) -> None:
    content = {f"t{i}": torch.full((100,), float(i)) for i in range(10)} | {"big": torch.zeros(1000)}
    folder = write(tmp_path / "m", content, max_shard_bytes=1200)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"] == {"total_size": 8000, "source": "test"}
    assert index["weight_map"].keys() == content.keys()
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)
    ]
    for path in folder.glob("*.safetensors"):
        held = load_file(path)
        assert sum(tensor.nbytes for tensor in held.values()) <= 1200 or list(held) == ["big"]


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", tensors())
    found = load_file(folder / "model.safetensors")
    assert found.keys() == tensors().keys()
    assert all(same(found[name], tensor) for name, tensor in tensors().items())
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "source": "test"}
    entries = read_entries(folder / "model.safetensors")
    assert all(entry.start % entry.dtype.itemsize == 0 for entry in entries.values())


def test_we_read_files_of_the_safetensors_library(tmp_path: Path) -> None:
    content = {name: tensor.contiguous() for name, tensor in tensors().items()}
    save_file(content, tmp_path / "model.safetensors", {"a": "b"})
    assert_holds(tmp_path, content)
    assert_holds(tmp_path / "model.safetensors", content)


def save_bins(folder: Path, content: dict[str, torch.Tensor], new_format: bool) -> None:
    names, weight_map = list(content), {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save({name: content[name] for name in part}, folder / file, _use_new_zipfile_serialization=new_format)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_torch_shards(tmp_path: Path, new_format: bool) -> None:
    content = tensors()
    if not new_format:
        # The old format of torch cannot hold types that came after it.
        content = {name: tensor for name, tensor in content.items() if "float8" not in str(tensor.dtype)}
    save_bins(tmp_path, content, new_format)
    assert_holds(tmp_path, content)


@pytest.mark.parametrize("torch_file", [True, False])
def test_pieces_and_renewed_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_file: bool) -> None:
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 1000)
    monkeypatch.setattr(weights_module, "MAPPED_BYTES", 3000)
    content = {"a": torch.randn(999), "turned": torch.randn(40, 30).T, "b": torch.arange(700), "c": torch.ones(1)}
    if torch_file:
        torch.save(content, tmp_path / "pytorch_model.bin")
    else:
        write(tmp_path / "m", content)
    folder = tmp_path if torch_file else tmp_path / "m"
    assert_holds(folder, content)
    assert all(piece.nbytes <= 1000 for piece in open_weights(folder).pieces("a"))


def test_an_empty_folder_is_a_good_target(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert_holds(write(tmp_path / "m", tensors()), tensors())


def test_files_put_into_partial_move_along(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "m") as writer:
        writer.add("a", torch.ones(1))
        (writer.partial / "config.json").write_text("{}")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "m", 1) as writer:
        writer.add("a", torch.ones(1))
        writer.add("b", torch.ones(1))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_conversion_leaves_no_target(tmp_path: Path) -> None:
    code = (
        "import os, sys, torch\n"
        "from omg_llava.files.shard_writer import ShardWriter\n"
        "with ShardWriter(sys.argv[1], 1) as writer:\n"
        "    for name in 'abc': writer.add(name, torch.ones(1))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], env=environment, check=False)
    assert not (tmp_path / "m").exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert_holds(write(tmp_path / "m", tensors()), tensors())


def test_what_a_writer_refuses(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the tensor a twice"), ShardWriter(tmp_path / "m") as writer:
        writer.add("a", torch.ones(1))
        writer.add("a", torch.ones(1))
    with pytest.raises(ModelError, match="complex64"), ShardWriter(tmp_path / "m") as writer:
        writer.add("a", torch.ones(1, dtype=torch.complex64))
    with pytest.raises(ModelError, match="__metadata__"), ShardWriter(tmp_path / "m") as writer:
        writer.add("__metadata__", torch.ones(1))
    with pytest.raises(ModelError, match="no tensor"), ShardWriter(tmp_path / "m"):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    with pytest.raises(ModelError, match="holds files already"):
        ShardWriter(tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_target_filled_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds files already"), ShardWriter(tmp_path / "m") as writer:
        writer.add("a", torch.ones(1))
        write(tmp_path / "m", {"other": torch.zeros(1)})
    assert_holds(tmp_path / "m", {"other": torch.zeros(1)})


# Folders that are not right


def sharded(folder: Path) -> Path:
    return write(folder / "m", {name: torch.full((50,), ord(name) * 1.0) for name in "abc"}, max_shard_bytes=200)


def rewrite_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def assert_refused(folder: Path, match: str) -> ModelError:
    with pytest.raises(ModelError, match=match) as error:
        open_weights(folder)
    assert error.value.where is not None and str(folder) in error.value.where
    return error.value


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert_refused(folder, "1 of 3 shards missing: model-00002-of-00003.safetensors")
    with pytest.raises(ModelError, match="1 of 3 shards missing"):
        fingerprint(folder)


def test_an_index_that_does_not_fit_its_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    rewrite_index(folder, lambda index: index.update(d="model-00002-of-00003.safetensors"))
    assert_refused(folder, "no tensor d in its shard")
    rewrite_index(folder, lambda index: index.pop("d"))
    write_file(folder / "model-00002-of-00003.safetensors", {"b": torch.ones(1), "a": torch.ones(1)})
    error = assert_refused(folder, "the tensor a in two files")
    assert "model-00001-of-00003" in error.found and "model-00002-of-00003" in error.found
    write_file(folder / "model-00002-of-00003.safetensors", {"b": torch.ones(1), "z": torch.ones(1)})
    assert_refused(folder, "does not name: z")


OUTSIDE = ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "C:\\x", "..\\x", "a\0b", 3, None, []]


@pytest.mark.parametrize("file", OUTSIDE, ids=repr)
def test_an_index_that_leaves_its_folder(tmp_path: Path, file: object) -> None:
    folder = sharded(tmp_path)
    write_file(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    rewrite_index(folder, lambda index: index.update(a=file))
    error = assert_refused(folder, "an index that points to")
    assert error.where is not None and error.where.endswith("index.json, a")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "\xff", "[" * 100_000]
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    folder = sharded(tmp_path)
    (folder / INDEX).write_text(text, encoding="latin-1")
    assert_refused(folder, "no JSON|an index without weights")


def test_two_ways_to_read_a_folder(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    write_file(folder / "model.safetensors", {"a": torch.ones(1)})
    assert_refused(folder, "both model.safetensors and")
    (folder / "model.safetensors").unlink()
    (folder / INDEX).unlink()
    assert_refused(folder, "shards without their index")


def test_folders_without_weights(tmp_path: Path) -> None:
    assert_refused(tmp_path, "an empty folder")
    (tmp_path / "readme").write_text("")
    assert_refused(tmp_path, "a folder of readme")
    (tmp_path / "zero_to_fp32.py").write_text("")
    assert_refused(tmp_path, "DeepSpeed")
    assert_refused(tmp_path / "nowhere", "no such folder")


def header_file(path: Path, header: object, n_values: int) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(n_values))


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "n_values", "match"),
    [
        ({"a": F32}, 7, "tells of"),
        ({"a": F32}, 9, "tells of"),
        ({"a": {**F32, "shape": [3]}}, 8, "8 bytes for shape"),
        ({"a": {**F32, "shape": [-2]}}, 8, "shape"),
        ({"a": {**F32, "shape": [True, 2]}}, 8, "shape"),
        ({"a": {**F32, "shape": [2.0]}}, 8, "shape"),
        ({"a": {**F32, "shape": 2}}, 8, "shape"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, 8, "bytes for shape"),
        ({"a": {**F32, "data_offsets": [4, 12]}}, 12, "values begin at byte"),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, 12, "values begin at byte"),
        ({"a": F32, "b": F32}, 8, "values begin at byte"),
        ({"a": {**F32, "shape": [2**40, 2**40, 0, 3], "data_offsets": [0, 0]}, "b": F32}, 4, "tells of"),
        ({"a": {**F32, "dtype": "F33"}}, 8, "values of type 'F33'"),
        ({"a": {**F32, "dtype": []}}, 8, "values of type"),
        ({"a": 3}, 8, "without dtype"),
        ({"a": {}}, 8, "without dtype"),
        (b'{"a": 1, "a": 2}', 8, "the same name twice"),
        (b'{"a": ', 8, "damaged"),
        (b'{"a\xff": 3}', 8, "damaged"),
        (b'{"a": ' + b"[" * 100_000, 8, "damaged"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, n_values: int, match: str) -> None:
    path = tmp_path / "model.safetensors"
    header_file(path, header, n_values)
    assert_refused(tmp_path, match)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors()) / "model.safetensors"
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            open_weights(tmp_path / "m")


def test_flipped_header_bytes_never_leave_modelerror(tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors()) / "model.safetensors"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    n_header = int.from_bytes(whole[:8], "little")
    for place in rng.integers(0, n_header + 8, 300):
        broken = bytearray(whole)
        broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        try:
            list(open_weights(tmp_path / "m").items())
        except ModelError:
            continue


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    weights = open_weights(write(tmp_path / "m", {"a": torch.ones(1000)}))
    os.truncate(tmp_path / "m" / "model.safetensors", 2000)
    with pytest.raises(ModelError, match="became shorter"):
        weights.tensor("a")


def test_a_pointer_instead_of_a_shard(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"
    (folder / "model-00001-of-00003.safetensors").write_text(pointer)
    assert assert_refused(folder, "git-lfs pointer").hint == "fetch the file behind it: git lfs pull"


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tensor nowhere"):
        open_weights(sharded(tmp_path)).shape("nowhere")


# Modules


class Net(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 6, bias=False)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.register_buffer("table", torch.zeros(3))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        if tied:
            self.head.weight = self.embed.weight


def built(tied: bool = False) -> Net:
    torch.manual_seed(0)
    net = Net(tied)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape))
    return net


def on_meta(tied: bool = False) -> Net:
    with torch.device("meta"):
        return Net(tied)


def stored(dtype: torch.dtype | None) -> Callable[[str], torch.dtype | None]:
    return lambda _: dtype


def test_a_module_takes_its_weights(tmp_path: Path) -> None:
    net, empty = built(), on_meta()
    empty.body[0].weight.requires_grad_(False)
    empty.embed.weight.learning_rate_factor = 3
    load_into(empty, open_weights(write(tmp_path / "m", net.state_dict(), 50)), dtype_of=stored(None), device="cpu")
    assert empty.state_dict().keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert same(empty.state_dict()[name], tensor), name
    assert not empty.scale.requires_grad and not empty.body[0].weight.requires_grad and empty.head.weight.requires_grad
    assert isinstance(empty.embed.weight, nn.Parameter) and empty.embed.weight.learning_rate_factor == 3
    assert empty.scratch.is_meta


def test_types_change_as_they_pass(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", built().state_dict())
    net = on_meta()

    def dtype_of(name: str) -> torch.dtype | None:
        return {"embed.weight": torch.float64, "scale": None}.get(name, torch.bfloat16)

    load_into(net, open_weights(folder), dtype_of=dtype_of, device="cpu")
    assert net.embed.weight.dtype == torch.float64 and net.scale.dtype == torch.float32
    assert same(net.head.weight.data, built().head.weight.data.to(torch.bfloat16))
    assert net.body[1].num_batches_tracked.dtype == torch.int64


def test_renamed_and_left_out(tmp_path: Path) -> None:
    content = {f"old.{name}": tensor for name, tensor in built().state_dict().items()} | {"extra": torch.ones(1)}
    net = on_meta()

    def rename(name: str) -> str | None:
        return name.removeprefix("old.") if name.startswith("old.") else None

    weights = open_weights(write(tmp_path / "m", content))
    load_into(net, weights, dtype_of=stored(None), device="cpu", rename=rename)
    assert same(net.table, content["old.table"])
    with pytest.raises(ModelError, match=r"two tensors for x: \S+ and \S+"):
        load_into(on_meta(), weights, dtype_of=stored(None), device="cpu", rename=lambda _: "x")


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    content = built().state_dict()
    del content["embed.weight"], content["table"]
    content.update({f"lora.{i:02d}": torch.ones(1) for i in range(13)})
    content["body.0.bias"], content["scale"] = torch.ones(5), torch.ones((), dtype=torch.int64)
    net = on_meta()
    with pytest.raises(ModelError) as error:
        load_into(net, open_weights(write(tmp_path / "m", content)), dtype_of=stored(None), device="cpu")
    assert "2 missing: table, embed.weight;" in error.value.found
    assert "13 surplus: " in error.value.found and "lora.09, ... (3 more);" in error.value.found
    assert "1 of another shape: body.0.bias (expected (4,), found (5,));" in error.value.found
    assert error.value.found.endswith("1 of another kind: scale (expected torch.float32, found torch.int64)")
    assert all(tensor.is_meta for tensor in net.state_dict().values())


@pytest.mark.parametrize("left_out", [None, "embed.weight", "head.weight"])
def test_tied_parameters_stay_tied(tmp_path: Path, left_out: str | None) -> None:
    content = built(tied=True).state_dict()
    content.pop(left_out or "", None)
    net = on_meta(tied=True)
    load_into(net, open_weights(write(tmp_path / "m", content)), dtype_of=stored(torch.bfloat16), device="cpu")
    assert net.head.weight is net.embed.weight
    assert same(net.embed.weight.data, built(tied=True).embed.weight.data.to(torch.bfloat16))


def test_two_parameters_over_one_storage_share_it_afterwards(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = Net()
        net.head.weight = nn.Parameter(net.embed.weight.data, requires_grad=False)
    load_into(
        net, open_weights(write(tmp_path / "m", built(tied=True).state_dict())), dtype_of=stored(None), device="cpu"
    )
    assert net.head.weight.data_ptr() == net.embed.weight.data_ptr()
    assert net.embed.weight.requires_grad and not net.head.weight.requires_grad


def test_a_module_that_is_used_twice(tmp_path: Path) -> None:
    with torch.device("meta"):
        part = nn.Linear(2, 2)
        net = nn.Sequential(part, part)
    weights = open_weights(write(tmp_path / "m", {"1.weight": torch.eye(2), "0.bias": torch.ones(2)}))
    load_into(net, weights, dtype_of=stored(None), device="cpu")
    assert net[0] is net[1] and torch.equal(net[0].weight.data, torch.eye(2))


def test_tied_parameters_with_two_values(tmp_path: Path) -> None:
    weights = open_weights(write(tmp_path / "m", built(tied=False).state_dict()))
    with pytest.raises(ModelError, match=r"tied .* different values: embed\.weight, head\.weight"):
        load_into(on_meta(tied=True), weights, dtype_of=stored(None), device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_values_that_are_not_finite(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    net = nn.ParameterDict({"a": nn.Parameter(torch.zeros(67))})
    for place in range(67):
        values = torch.randn(67)
        values[place] = value
        folder = write(tmp_path / f"m{place}", {"a": values.to(dtype)})
        with pytest.raises(ModelError, match="in a") as error:
            load_into(net, open_weights(folder), dtype_of=stored(None), device="cpu")
        assert error.value.where == f"{folder / 'model.safetensors'}, a"
    load_into(net, open_weights(folder), dtype_of=stored(None), device="cpu", check_finite=False)
    assert not torch.isfinite(net["a"].float()).all()


def test_a_type_too_narrow_for_the_values(tmp_path: Path) -> None:
    net = nn.ParameterDict({"a": nn.Parameter(torch.zeros(3))})
    weights = open_weights(write(tmp_path / "m", {"a": torch.tensor([1.0, 2.0, 1e6])}))
    with pytest.raises(ModelError, match=r"as torch\.float16"):
        load_into(net, weights, dtype_of=stored(torch.float16), device="cpu")
    load_into(net, weights, dtype_of=stored(torch.bfloat16), device="cpu")


# Fingerprints


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first, second = sharded(tmp_path / "one"), sharded(tmp_path / "two")
    expected = fingerprint(first)
    assert len(expected) == 64 and expected == fingerprint(second)
    (second / "config.json").write_text("{}")
    assert fingerprint(second) == expected
    last = second / "model-00003-of-00003.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    assert fingerprint(second) != expected
    assert fingerprint(first / "model-00001-of-00003.safetensors") != expected


# Memory


@pytest.mark.slow
@pytest.mark.parametrize("case", ["as_stored", "to_bfloat16", "torch_bin"])
def test_memory_holds_the_model_once(tmp_path: Path, case: str) -> None:
    script = Path(__file__).resolve().parents[3] / "benchmarks" / "loading.py"
    command = [sys.executable, str(script), "--mib", "512", "--case", case, "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert 0.9 < json.loads(output.splitlines()[-1])["ratio"] <= 1.2
