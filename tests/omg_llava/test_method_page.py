"""`docs/method.md` names what is there: modules, classes, files, options with their defaults, sizes, costs."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from omg_llava.config import OmgLlavaConfig, ablation_names, config_names, load_config
from omg_llava.conversion.class_sets import read_class_set
from omg_llava.features import clip_features

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "reference_model" / "omg_llava"
PAGE = ROOT / "docs" / "method.md"
TEXT = re.sub(r"^```.*?^```$", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
CODE = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
MODULES = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
PY_FILES = [name for name in CODE if re.fullmatch(r"[\w/]+\.py", name)]
DOTTED = [name for name in CODE if re.fullmatch(r"[a-z]\w*(\.\w+)+", name) and not name.endswith((".py", ".json"))]
NAMES = [name for name in DOTTED if name.partition(".")[0] in MODULES | {"omg_llava"}]
OPTIONS = [name for name in DOTTED if name not in NAMES]
MIB = 2**20


def resolved(name: str) -> Any:
    """What `module.Class.member` stands for, `omg_llava.` before it or not."""
    parts = name.removeprefix("omg_llava.").split(".")
    thing: Any = importlib.import_module(f"omg_llava.{parts[0]}")
    for part in parts[1:]:
        thing = _member(thing, part)
    return thing


def _member(thing: Any, name: str) -> Any:
    if isinstance(thing, type) and dataclasses.is_dataclass(thing):
        fields = {field.name: field.default for field in dataclasses.fields(thing)}
        if name in fields:
            return fields[name]
    if inspect.isfunction(thing):
        return inspect.signature(thing).parameters[name].default
    if isinstance(thing, ModuleType) and not hasattr(thing, name):
        return importlib.import_module(f"{thing.__name__}.{name}")
    return getattr(thing, name)


def table(head: str) -> list[list[str]]:
    """Cells of the rows of the table whose first row begins with `head`."""
    lines = TEXT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_page_speaks_of_the_code() -> None:
    assert len(NAMES) > 30 and len(PY_FILES) > 8 and len(OPTIONS) > 5


@pytest.mark.parametrize("name", NAMES)
def test_names_exist(name: str) -> None:
    resolved(name)


@pytest.mark.parametrize(
    "name", ["decoder.MaskDecodr", "wording.NOTHING", "fusion.Segment.colour", "files.nowhere", "features.of"]
)
def test_wrong_names_are_found(name: str) -> None:
    with pytest.raises((AttributeError, ImportError)):
        resolved(name)


@pytest.mark.parametrize("name", PY_FILES)
def test_files_exist(name: str) -> None:
    assert any((folder / name).is_file() for folder in (ROOT, PACKAGE, ROOT / "tests" / "omg_llava")), name


def test_options_have_their_defaults() -> None:
    config = load_config("omg_llava_7b")
    assert config == OmgLlavaConfig("omg_llava_7b", config.language)
    rows = table("option")
    for name, default, _ in rows:
        option = name.strip("`")
        value: Any = config if option in OPTIONS else resolved(option)
        if option in OPTIONS:
            for part in option.split("."):
                value = getattr(value, part)
        assert repr(value) == default.strip("`").replace('"', "'"), option
    assert set(OPTIONS) <= {row[0].strip("`") for row in rows}


def test_every_ablation_and_configuration_is_named() -> None:
    assert {name for row in table("name") for name in re.findall(r"`(\w+)`", row[0])} == set(ablation_names())
    assert {name for name in CODE if name.startswith("omg_llava_")} <= set(config_names())


def test_what_a_look_holds() -> None:
    held = {}
    for what, values, n_bytes, mib in table("what"):
        n_values = math.prod(int(number) for number in values.split(" x "))
        assert n_values * int(n_bytes) / MIB == pytest.approx(float(mib), abs=0.05), what
        held[what] = n_values * int(n_bytes)
    config = load_config("omg_llava_7b")
    width, side = config.segmenter.width, config.image.side
    features = clip_features(
        torch.empty(1, width, side // 4, side // 4, device="meta"),
        tuple(torch.empty(1, width, side // stride, side // stride, device="meta") for stride in (32, 16, 8)),
        torch.empty(3, width, device="meta"),
        torch.empty(1, config.backbone.widths[-1], side // 32, side // 32, device="meta"),
        1,
        (side, side),
    )
    assert features.nbytes() == sum(held[what] for what in list(held)[:3])
    settings = json.loads(json.dumps(dict(config.language.transformers)))
    per_head = config.language.hidden_size // settings["num_attention_heads"]
    n_tokens = 4 + config.tokens_side**2 + 1 + 59
    cached = 2 * config.language.n_layers * settings["num_key_value_heads"] * per_head * n_tokens * 2
    assert cached == held[list(held)[-1]]


@pytest.fixture(scope="module")
def flops() -> ModuleType:
    path = ROOT / "benchmarks" / "omg_llava_flops.py"
    spec = importlib.util.spec_from_file_location("flops_of_the_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_costs(flops: ModuleType) -> None:
    config = dataclasses.replace(load_config("omg_llava_7b"), class_sets=(read_class_set("coco_panoptic"),))
    one, two = flops.seg_decoding(config, 1), flops.seg_decoding(config, 2)
    expected = {
        "backbone": [flops.backbone(config)],
        "pixel decoder": [flops.pixel_decoder(config)],
        "object queries and classes": [flops.query_decoder(config)],
        "prior and projectors": [flops.image_tokens(config, 59)],
        "prefill of 320 tokens": [flops.transformer(config.language, 320, 0)],
        "one token more, and the head's choice": [
            flops.transformer(config.language, 1, 320) + flops.vocabulary(config.language)
        ],
        "one `[SEG]`; each further one with it": [one, two - one],
    }
    found = {part: [float(number) for number in numbers.split(";")] for part, numbers in table("part")}
    assert found.keys() == expected.keys()
    for part, numbers in found.items():
        assert numbers == pytest.approx([value / 1e9 for value in expected[part]], rel=0.02), part
