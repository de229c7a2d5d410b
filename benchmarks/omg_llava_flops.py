"""Floating-point operations of OMG-LLaVA's parts, from its configuration alone.

Counted are matrix products, convolutions and attention, two operations for a multiplication with its addition, as
`torch.utils.flop_counter` counts them; attention counts masked entries too. Norms, activations, interpolation and the
sampling of the deformable attention are left out: they are a few operations a value.
"""

from __future__ import annotations

from dataclasses import dataclass

from omg_llava.config import LanguageConfig, OmgLlavaConfig

_N_LEVELS = 3
_N_POINTS = 4
"""Memory levels, and places that each head of the deformable attention reads on each of them (Mask2Former)."""


@dataclass(frozen=True, slots=True)
class Load:
    """Questions about one picture.

    Attributes:
        n_questions: of one picture.
        n_question_tokens: of one question, what follows the picture in the chat template included.
        n_answer_tokens: of one answer, its end token included.
        n_segs: `[SEG]` in one answer.
    """

    n_questions: int
    n_question_tokens: int
    n_answer_tokens: int
    n_segs: int


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the model and how often a question pays for it.

    Attributes:
        name: for people.
        flops: of one run about one picture or question.
        shared: share of a run that a question pays where all questions of a picture are answered together.
        encoded_once: the same where only the picture's encoding is shared.
        alone: the same where nothing is shared.
    """

    name: str
    flops: int
    shared: float
    encoded_once: float
    alone: float


def linear(n: int, width_in: int, width_out: int) -> int:
    """A matrix on `n` vectors."""
    return 2 * n * width_in * width_out


def attention(n_queries: int, n_keys: int, width: int) -> int:
    """Scores and weighted sum over all heads together, projections apart."""
    return 2 * linear(n_queries, n_keys, width)


def cells(config: OmgLlavaConfig, stride: int) -> int:
    """Places of a map of the square input."""
    return (config.image.side // stride) ** 2


def backbone(config: OmgLlavaConfig) -> int:
    """ConvNeXt: stem 4 x 4, downsampling 2 x 2, blocks of a depthwise 7 x 7 and two linear layers of ratio 4."""
    widths, depths = config.backbone.widths, config.backbone.depths
    total = linear(cells(config, 4), 4 * 4 * 3, widths[0])
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        n = cells(config, 4 * 2**stage)
        if stage:
            total += linear(n, 2 * 2 * widths[stage - 1], width)
        total += depth * (linear(n, 7 * 7, width) + 2 * linear(n, width, 4 * width))
    return total


def pixel_decoder(config: OmgLlavaConfig) -> int:
    """Input projections, deformable encoder over strides 8 to 32, one step of the pyramid to stride 4."""
    parts, widths = config.segmenter, config.backbone.widths
    width = parts.width
    n_tokens = sum(cells(config, stride) for stride in (8, 16, 32))
    total = sum(linear(cells(config, 4 * 2**stage), widths[stage], width) for stage in (1, 2, 3))
    n_samples = parts.n_heads * _N_LEVELS * _N_POINTS
    layer = linear(n_tokens, width, 3 * n_samples) + 2 * linear(n_tokens, width, width)
    layer += 2 * linear(n_tokens, width, parts.pixel_decoder_ffn)
    n_fine = cells(config, 4)
    pyramid = linear(n_fine, widths[0], width) + linear(n_fine, 3 * 3 * width, width) + linear(n_fine, width, width)
    return total + parts.pixel_decoder_layers * layer + pyramid


def mask_decoder(config: OmgLlavaConfig, n_queries: int, *, isolated: bool) -> int:
    """Masked attention. The keys' projections do not depend on the number of queries."""
    parts = config.segmenter
    width = parts.width
    total = (parts.decoder_layers + 1) * (
        3 * linear(n_queries, width, width) + linear(n_queries, width, cells(config, 4))
    )
    for index in range(parts.decoder_layers):
        n_keys = cells(config, (32, 16, 8)[index % _N_LEVELS])
        total += 2 * linear(n_queries, width, width) + 2 * linear(n_keys, width, width)
        total += attention(n_queries, n_keys, width)
        # An isolated query attends to itself alone: its value and the output remain.
        total += (2 if isolated else 4) * linear(n_queries, width, width)
        total += 0 if isolated else attention(n_queries, n_queries, width)
        total += 2 * linear(n_queries, width, parts.decoder_ffn)
    return total


def class_head(config: OmgLlavaConfig) -> int:
    """Classes of the object queries. A configuration without label spaces counts no class names."""
    width, n = config.segmenter.width, config.segmenter.n_queries
    named = [item for item in config.class_sets if item.name == config.prior_class_set] or config.class_sets[:1]
    n_prototypes = sum(len(item.classes) * item.n_prototypes for item in named)
    pooled = linear(n, cells(config, 4), width)
    layers = 3 * linear(n, width, width) + linear(n, width, config.backbone.clip_dim)
    return pooled + layers + linear(n, config.backbone.clip_dim, n_prototypes)


def query_decoder(config: OmgLlavaConfig) -> int:
    """Object queries and their classes."""
    return mask_decoder(config, config.segmenter.n_queries, isolated=False) + class_head(config)


def image_tokens(config: OmgLlavaConfig, n_objects: int) -> int:
    """Perception prior and projectors."""
    n_pixels = config.tokens_side**2
    embedding, width = 2 * config.segmenter.width, config.language.hidden_size
    folded = config.backbone.widths[-1] * config.projector.pixel_shuffle**2
    prior = linear(n_pixels, config.segmenter.n_queries, embedding)
    pixels = linear(n_pixels, folded + embedding, width) + linear(n_pixels, width, width)
    objects = linear(n_objects, embedding, folded) + linear(n_objects, folded, width) + linear(n_objects, width, width)
    return prior + pixels + objects


def n_prefix_tokens(config: OmgLlavaConfig, n_head_tokens: int, n_objects: int) -> int:
    """Start of the chat, pixel tokens, separator, object tokens."""
    return n_head_tokens + config.tokens_side**2 + 1 + n_objects


def transformer(language: LanguageConfig, n_tokens: int, n_before: int) -> int:
    """The language model without its head, on `n_tokens` behind `n_before` that are cached."""
    settings = language.transformers
    heads, key_heads = int(settings["num_attention_heads"]), int(settings["num_key_value_heads"])
    width, head_width = language.hidden_size, language.hidden_size // heads
    layer = 2 * linear(n_tokens, width, width) + 2 * linear(n_tokens, width, key_heads * head_width)
    layer += attention(n_tokens, n_before + n_tokens, width)
    layer += 3 * linear(n_tokens, width, int(settings["intermediate_size"]))
    return language.n_layers * layer


def vocabulary(language: LanguageConfig) -> int:
    """The head, for one token."""
    return linear(1, language.hidden_size, int(language.transformers["vocab_size"]))


def answer(config: OmgLlavaConfig, n_before: int, n_tokens: int) -> int:
    """A written answer behind `n_before` tokens: all tokens but the last are put in again."""
    fed = sum(transformer(config.language, 1, n_before + index) for index in range(n_tokens - 1))
    return fed + n_tokens * vocabulary(config.language)


def seg_decoding(config: OmgLlavaConfig, n_segs: int) -> int:
    """Masks of `[SEG]` tokens about one picture, decoded together. None costs nothing."""
    if n_segs == 0:
        return 0
    embedding = 2 * config.segmenter.width
    projector = linear(n_segs, config.language.hidden_size, embedding) + linear(n_segs, embedding, embedding)
    return projector + mask_decoder(config, n_segs, isolated=True)


def parts(config: OmgLlavaConfig, load: Load, *, n_head_tokens: int, n_objects: int) -> list[Part]:
    """The whole model about one picture, in order.

    Without a cached prefix the question runs together with it; that is the same work, taken apart here. `[SEG]` are
    decoded together per picture where all is shared, and one by one elsewhere.
    """
    n_prefix = n_prefix_tokens(config, n_head_tokens, n_objects)
    n_before = n_prefix + load.n_question_tokens
    once = 1 / load.n_questions
    one, together = seg_decoding(config, 1), seg_decoding(config, load.n_questions * load.n_segs)
    share = together / (load.n_questions * one)
    return [
        Part("backbone", backbone(config), once, once, 1),
        Part("pixel decoder", pixel_decoder(config), once, once, 1),
        Part("query decoder, classes", query_decoder(config), once, once, 1),
        Part("prior, projectors", image_tokens(config, n_objects), once, once, 1),
        Part("prefill of the prefix", transformer(config.language, n_prefix, 0), once, 1, 1),
        Part("prefill of the question", transformer(config.language, load.n_question_tokens, n_prefix), 1, 1, 1),
        Part("writing the answer", answer(config, n_before, load.n_answer_tokens), 1, 1, 1),
        Part("[SEG] decoding", one, share, load.n_segs, load.n_segs),
    ]
