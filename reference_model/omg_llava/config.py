"""What an OMG-LLaVA is made of: sizes, options, label spaces; read from and written to JSON.

`load_config("omg_llava_7b")` gives the paper's model; `load_config("omg_llava_7b", ablation="table5_m0")` a row of its
ablation tables. The values are those of the official configuration files (lxtGH/OMG-Seg, commit 1ae2e7d).
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from omg_llava.errors import ModelError

SegEmbedding = Literal["last", "mean", "concat"]
AnswerFormat = Literal["grounded", "plain"]
_CONFIGS = Path(__file__).parent / "configs"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a picture becomes the network's square input.

    Attributes:
        side: edge of the square in pixels, a multiple of 64.
        mean, std: of RGB in 0..1. Four decimals, as the official files have them, not CLIP's own seven.
        universal_px, clip_px: most pixels of the (long, short) side in universal segmentation, where a picture keeps
            its shape: of a picture (the released configuration for COCO), of a clip's frame (for VIPSeg).
    """

    side: int = 1024
    mean: tuple[float, float, float] = (0.4814, 0.4578, 0.4082)
    std: tuple[float, float, float] = (0.2686, 0.2613, 0.2757)
    universal_px: tuple[int, int] = (1333, 800)
    clip_px: tuple[int, int] = (1280, 736)


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """OpenCLIP's ConvNeXt. `clip_dim` is the width of the shared space of pictures and texts."""

    depths: tuple[int, ...] = (3, 3, 27, 3)
    widths: tuple[int, ...] = (192, 384, 768, 1536)
    clip_dim: int = 768


@dataclass(frozen=True, slots=True)
class SegmenterConfig:
    """OMG-Seg's pixel decoder and query decoder.

    Attributes:
        width: channels of queries, memories and mask features; a multiple of 32.
        n_heads: attention heads of both decoders.
        pixel_decoder_layers, pixel_decoder_ffn: deformable encoder.
        decoder_layers, decoder_ffn: masked-attention decoder.
        n_queries: learned object queries.
        logit_scale_log: natural logarithm of the class logits' scale.
    """

    width: int = 256
    n_heads: int = 8
    pixel_decoder_layers: int = 6
    pixel_decoder_ffn: int = 1024
    decoder_layers: int = 9
    decoder_ffn: int = 2048
    n_queries: int = 300
    logit_scale_log: float = 4.6052


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """From perception to the language model (paper, tables 5 and 8).

    Attributes:
        pixel_shuffle: the stride-32 map is folded by this factor into the pixel tokens.
        use_prior: the perception prior is concatenated to the pixel features; False zeroes it (table 5, M0).
        use_queries: object tokens follow the pixel tokens; False leaves them and the separator out (M0 and M1).
        cross_attention: object tokens look at the pixel tokens before they go in (table 8, M1).
        own_prompt_projector: visual prompts have a projector of their own (table 8, M2).
    """

    pixel_shuffle: int = 2
    use_prior: bool = True
    use_queries: bool = True
    cross_attention: bool = False
    own_prompt_projector: bool = False


@dataclass(frozen=True, slots=True)
class SegTokenConfig:
    """How a `[SEG]` becomes a mask (paper, tables 9 and 10).

    Attributes:
        own_decoder: a decoder and mask head of its own (the RefSeg and GCG checkpoints); False uses the frozen ones.
        embedding: the language model's last hidden state, the mean over all layers, or a linear map of `layers`.
        layers: indices of the hidden states to concatenate (0 = embeddings), for `embedding` "concat"; empty = all.
        answer_format: what training answers look like: `<p> dog </p> [SEG].` or `It is [SEG].`
    """

    own_decoder: bool = False
    embedding: SegEmbedding = "last"
    layers: tuple[int, ...] = ()
    answer_format: AnswerFormat = "grounded"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Low-rank adapters kept beside the base weights; the effective factor is `alpha / rank`."""

    rank: int = 512
    alpha: float = 256.0
    dropout: float = 0.05


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """The language model.

    Attributes:
        family: names the chat template and the layout of the published weights.
        transformers: keyword arguments of the transformers configuration, `model_type` and final `vocab_size` included.
        base_vocab: length of the tokenizer before the five special tokens; their ids follow on from it, and the first
            four have rows in both vocabulary matrices (`vocab_size` is `base_vocab` + 4).
        lora: adapters that are kept apart, None where they are merged or absent.
    """

    family: Literal["internlm2", "phi3", "qwen2"]
    transformers: Mapping[str, Any]
    base_vocab: int
    lora: LoraConfig | None = None

    @property
    def hidden_size(self) -> int:
        return int(self.transformers["hidden_size"])

    @property
    def n_layers(self) -> int:
        return int(self.transformers["num_hidden_layers"])

    @property
    def max_positions(self) -> int:
        return int(self.transformers["max_position_embeddings"])


@dataclass(frozen=True, slots=True)
class ClassSetConfig:
    """A label space of universal segmentation, with text embeddings of its class names among the weights.

    Attributes:
        name: such as "coco_panoptic".
        n_things: the first classes are countable, the rest are stuff.
        classes: `id`, `name` of the benchmark and `prompt` (synonyms, comma-separated) of each class.
        n_prototypes: synonyms per class, padded by repeating the first.
    """

    name: str
    n_things: int
    classes: tuple[ClassConfig, ...]
    n_prototypes: int


@dataclass(frozen=True, slots=True)
class ClassConfig:
    """One class: the benchmark's own number and name, and the words that were embedded."""

    id: int
    name: str
    prompt: str


@dataclass(frozen=True, slots=True)
class TrainedBy:
    """Where weights come from that were trained with this package.

    Attributes:
        recipe: its name.
        seed: of initial weights, order and draws.
        demo: trained on the demo world, no real picture among its data.
    """

    recipe: str
    seed: int
    demo: bool


@dataclass(frozen=True, slots=True)
class OmgLlavaConfig:
    """All of it. See the parts.

    Attributes:
        prior_class_set: the label space that scores objects for the perception prior, COCO panoptic in the released
            models; None = the first of `class_sets`.
        trained_by: the recipe, where the weights were trained with this package.
    """

    name: str
    language: LanguageConfig
    image: ImageConfig = ImageConfig()
    backbone: BackboneConfig = BackboneConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    projector: ProjectorConfig = ProjectorConfig()
    seg_token: SegTokenConfig = SegTokenConfig()
    class_sets: tuple[ClassSetConfig, ...] = field(default=())
    prior_class_set: str | None = None
    trained_by: TrainedBy | None = None

    def __post_init__(self) -> None:
        from omg_llava.config_checks import check_config

        check_config(self)

    @property
    def tokens_side(self) -> int:
        """Pixel tokens along one edge of the square: side / 32 / pixel_shuffle."""
        return self.image.side // 32 // self.projector.pixel_shuffle

    def to_json(self) -> str:
        """A JSON document that `parse_config` reads back."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def parse_config(data: Any, where: str = "config") -> OmgLlavaConfig:
    """A configuration from parsed JSON. Unknown, missing and mistyped entries raise `ModelError` naming the entry."""
    return build_from_json(OmgLlavaConfig, data, where)


def config_names() -> tuple[str, ...]:
    """Names of the configurations that come along."""
    return tuple(sorted(path.stem for path in _CONFIGS.glob("*.json") if path.stem != "ablations"))


def ablation_names() -> tuple[str, ...]:
    """Names of the rows of the paper's ablation tables."""
    return tuple(read_json_object(_CONFIGS / "ablations.json"))


def load_config(name: str, *, ablation: str | None = None, changes: Mapping[str, Any] | None = None) -> OmgLlavaConfig:
    """The configuration called `name`, with the changes of an ablation and then others laid over it, entry by entry.

    Raises:
        ModelError: for a name that is not among `config_names()` or `ablation_names()`.
    """
    if name not in config_names():
        raise ModelError(f"no configuration is called {name!r}", expected=" or ".join(config_names()))
    data = read_json_object(_CONFIGS / f"{name}.json")
    if ablation is not None:
        rows = read_json_object(_CONFIGS / "ablations.json")
        if ablation not in rows:
            raise ModelError(f"no ablation is called {ablation!r}", expected=" or ".join(rows))
        data = _changed(data, {key: value for key, value in rows[ablation].items() if key != "what"})
        data["name"] = f"{name}+{ablation}"
    data = _changed(data, changes or {})
    return parse_config(data, f"{name}.json")


def read_config(path: Path) -> OmgLlavaConfig:
    """The configuration in a file."""
    return parse_config(read_json_object(path), str(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `ModelError` for a file that has none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise ModelError(f"the document is a {type(data).__name__}", expected="a JSON object", where=str(path))
    return data


def _changed(data: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `changes` laid over it, mappings entry by entry."""
    result = dict(data)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _changed(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def build_from_json(kind: type[T], data: Any, where: str) -> T:
    """A dataclass from a mapping, with types checked as far as the annotations say. Raises `ModelError`."""
    if not isinstance(data, Mapping):
        raise ModelError(f"{where} is {data!r}", expected=f"the entries of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(cast(Any, kind))}
    for key in data:
        if key not in known:
            raise ModelError(f"unknown entry {key!r}", where=where, expected=", ".join(known))
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ModelError(f"entry {name!r} is missing", where=where)
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotation wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build_from_json(cast(type, hint), value, where)
    if type(None) in arguments:
        return None if value is None else _value(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ModelError(f"{where} is {value!r}", expected="a list")
        fixed = len(arguments) > 1 and arguments[1] is not Ellipsis
        if fixed and len(value) != len(arguments):
            raise ModelError(f"{where} has {len(value)} entries", expected=str(len(arguments)))
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise ModelError(f"{where} is {value!r}", expected=" or ".join(map(repr, arguments)))
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if origin is not None else hint
    if plain in (bool, int, float, str, dict) and type(value) is not plain:
        raise ModelError(f"{where} is {value!r}", expected=f"a {plain.__name__}")
    return value
