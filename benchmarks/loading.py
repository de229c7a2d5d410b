"""How much memory it takes to put a sharded checkpoint into a module, in sizes of the model.

    python benchmarks/loading.py                              # every case, 1 GiB of random tensors
    python benchmarks/loading.py --case to_bfloat16 --mib 4096

Each case is loaded in a process of its own: its peak resident memory less what it held after the imports, over the size
of the loaded parameters. The checkpoint is written to a temporary folder first, which is not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omg_llava.files.fingerprint import fingerprint
from omg_llava.files.loading import load_into
from omg_llava.files.shard_writer import ShardWriter
from omg_llava.files.weights import open_weights

LIMIT = 1.2
CASES = {
    "as_stored": "safetensors, bfloat16 and float32 mixed",
    "to_bfloat16": "safetensors, float32 to bfloat16",
    "to_float32": "safetensors, bfloat16 to float32",
    "torch_bin": "pytorch_model.bin shards, mapped, float32 to bfloat16",
}
N_SHARDS = 5
WIDTH = 1024


class Parts(nn.Module):
    """A module of given parameters; one in ten is as large as a vocabulary beside the others."""

    def __init__(self, n_parameters: int) -> None:
        super().__init__()
        n_rows = []
        while sum(n_rows) * WIDTH < n_parameters:
            n_rows.append(16_000 if len(n_rows) % 10 == 0 else 4_000)
        self.parts = nn.ParameterList([nn.Parameter(torch.empty(rows, WIDTH)) for rows in n_rows])


def build(mib: int, case: str) -> Parts:
    """A module without memory, of this size once it is loaded."""
    itemsize = {"as_stored": 3, "to_float32": 4}.get(case, 2)
    with torch.device("meta"):
        return Parts(mib * 2**20 // itemsize)


def values(module: Parts, case: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors as the checkpoint holds them."""
    generator = torch.Generator().manual_seed(0)
    for i, (name, parameter) in enumerate(module.named_parameters()):
        narrow = case == "to_float32" or (case == "as_stored" and i % 2)
        values = torch.randn(parameter.shape, generator=generator)
        yield name, values.to(torch.bfloat16) if narrow else values


def write(folder: Path, mib: int, case: str) -> None:
    module = build(mib, case)
    tensors = values(module, case)
    if case != "torch_bin":
        stored = {"to_bfloat16": 2, "to_float32": 0.5}.get(case, 1) * mib
        with ShardWriter(folder, int(stored * 2**20 / (N_SHARDS - 1))) as writer:
            for name, tensor in tensors:
                writer.add(name, tensor)
        return
    folder.mkdir()
    names = [name for name, _ in module.named_parameters()]
    n_each = -(-len(names) // N_SHARDS)
    weight_map = {name: f"pytorch_model-{i // n_each}.bin" for i, name in enumerate(names)}
    for file in sorted(set(weight_map.values())):
        torch.save(dict(next(tensors) for other in weight_map.values() if other == file), folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def memory_bytes(key: str) -> int:
    """`VmHWM` (the peak) or `VmRSS` of this process; elsewhere than on Linux the peak for both."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def load_here(folder: Path, mib: int, case: str) -> dict[str, Any]:
    """Load in this process; what it took."""
    wanted = {"to_bfloat16": torch.bfloat16, "torch_bin": torch.bfloat16, "to_float32": torch.float32}.get(case)
    # The first use of a kernel brings its code into memory, which is no part of the model.
    torch.aminmax(torch.zeros(10**6).to(torch.bfloat16))
    before = memory_bytes("VmRSS")
    started = time.perf_counter()
    module = build(mib, case)
    load_into(module, open_weights(folder), dtype_of=lambda _: wanted, device="cpu")
    seconds = time.perf_counter() - started
    model_bytes = sum(parameter.nbytes for parameter in module.parameters())
    ratio = (memory_bytes("VmHWM") - before) / model_bytes
    return {"case": case, "model_mib": model_bytes / 2**20, "seconds": seconds, "ratio": ratio}


def measure(parent: Path, mib: int, case: str) -> dict[str, Any]:
    """Write the checkpoint of a case, load it in a fresh process, remove it."""
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        folder = Path(temporary) / "model"
        write(folder, mib, case)
        command = [sys.executable, __file__, "--case", case, "--mib", str(mib), "--load", str(folder)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        started = time.perf_counter()
        fingerprint(folder)
        result: dict[str, Any] = json.loads(output)
        n_bytes = open_weights(folder).n_bytes
        return {**result, "stored_gb": n_bytes / 1e9, "fingerprint_s": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="one case instead of all; its figures are printed as JSON")
    parser.add_argument("--mib", type=int, default=1024, help="size of the loaded model")
    parser.add_argument("--folder", type=Path, help="where the temporary checkpoint is written")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load_here(options.load, options.mib, options.case)))
        return
    results = [measure(options.folder, options.mib, case) for case in ([options.case] if options.case else CASES)]
    print(f"{'':56}{'model MiB':>10}{'peak / model':>14}{'seconds':>9}{'GB/s':>7}{'fingerprint s':>15}")
    for result in results:
        figures = f"{result['model_mib']:10.0f}{result['ratio']:14.3f}{result['seconds']:9.2f}"
        figures += f"{result['stored_gb'] / result['seconds']:7.2f}{result['fingerprint_s']:15.2f}"
        print(f"{CASES[result['case']]:56}{figures}")
    if options.case:
        print(json.dumps(results[0]))
    if any(result["ratio"] > LIMIT for result in results):
        raise SystemExit(f"more than {LIMIT} times the model was held")


if __name__ == "__main__":
    main()
