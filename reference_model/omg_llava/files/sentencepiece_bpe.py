"""A sentencepiece BPE model as a `tokenizers` tokenizer that gives the same ids and the same text back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from omg_llava.errors import ModelError
from omg_llava.files.sentencepiece_model import BPE, PieceKind, SentencePieceModel, read_sentencepiece_model

SPACE = "\u2581"
"""What sentencepiece writes for a space."""
_MANY = 2**16


def convert_sentencepiece(path: Path, added: Mapping[int, AddedToken]) -> Tokenizer:
    """Read a sentencepiece model and convert it.

    Text is cut at added, control and user-defined pieces first, and each part between them is encoded by itself; a
    model with a dummy prefix therefore puts a space in front of each part, as the tokenizer of InternLM2 does.
    Where two cuts of the same piece overlap in a text, sentencepiece merges the left one, here the one with the longer
    left half; no text was found where that gives other ids. Bytes that are no UTF-8 decode to one replacement character
    each; here the whole run of bytes does, there only those that are wrong.

    Args:
        added: tokens by id. An id of the model gives its piece another text (InternLM2 keeps its chat markers in pieces
            that the model calls unused), the others follow the model without a gap.

    Raises:
        ModelError: not a sentencepiece model, not BPE, a setting that has no counterpart, or ids that do not follow.
    """
    model = read_sentencepiece_model(path)
    _check_supported(model, path)
    vocabulary = _vocabulary(model, added, path)
    unknown = next((text for text, id_ in vocabulary.items() if model.pieces[id_].kind is PieceKind.UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(model, vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    tokenizer.normalizer = _normalizer(model)
    tokenizer.decoder = _decoder(model)
    _add_tokens(tokenizer, model, added, path)
    return tokenizer


def _check_supported(model: SentencePieceModel, path: Path) -> None:
    kinds = [piece.kind for piece in model.pieces]
    spaced = any(piece.kind is PieceKind.USER_DEFINED and SPACE in piece.text for piece in model.pieces)
    problems = {
        "a model that is not BPE": model.model_type != BPE,
        "whitespace at the end of pieces": model.whitespace_as_suffix,
        "whitespace that is not escaped": not model.escape_whitespaces,
        "no unknown piece": PieceKind.UNKNOWN not in kinds,
        "byte fallback without 256 byte pieces": model.byte_fallback and kinds.count(PieceKind.BYTE) != 256,
        "user-defined pieces with spaces beside a dummy prefix": spaced and model.add_dummy_prefix,
    }
    found = [problem for problem, present in problems.items() if present]
    if found:
        expected = "a BPE model like that of InternLM2 or Llama"
        raise ModelError(f"a sentencepiece model with {', '.join(found)}", expected=expected, where=str(path))


def _vocabulary(model: SentencePieceModel, added: Mapping[int, AddedToken], path: Path) -> dict[str, int]:
    texts = [added[i].content if i in added else piece.text for i, piece in enumerate(model.pieces)]
    vocabulary = {text: i for i, text in enumerate(texts)}
    if len(vocabulary) != len(texts):
        repeated = next(text for i, text in enumerate(texts) if vocabulary[text] != i)
        raise ModelError(f"two pieces {repeated!r}", expected="each once", where=str(path))
    return vocabulary


def _merges(model: SentencePieceModel, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every cut of a normal piece into two pieces, the highest score first, then the longer left half."""
    parts = {piece.text for i, piece in enumerate(model.pieces) if _merges_on(piece.kind) and piece.text in vocabulary}
    ranked = []
    for i, piece in enumerate(model.pieces):
        if piece.kind is not PieceKind.NORMAL or vocabulary.get(piece.text) != i:
            continue
        for cut in range(len(piece.text) - 1, 0, -1):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in parts and right in parts:
                ranked.append((-piece.score, i, -cut, left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _merges_on(kind: PieceKind) -> bool:
    return kind in (PieceKind.NORMAL, PieceKind.UNUSED)


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.remove_extra_whitespaces:
        steps.append(decoders.Strip(" ", left=_MANY))
    elif model.add_dummy_prefix:
        steps.append(decoders.Strip(" ", left=1))
    return decoders.Sequence(steps)


def _add_tokens(tokenizer: Tokenizer, model: SentencePieceModel, added: Mapping[int, AddedToken], path: Path) -> None:
    special = (PieceKind.UNKNOWN, PieceKind.CONTROL)
    tokens = {
        i: AddedToken(piece.text, normalized=SPACE in piece.text, special=piece.kind in special)
        for i, piece in enumerate(model.pieces)
        if piece.kind in (*special, PieceKind.USER_DEFINED)
    }
    ordered = dict(sorted({**tokens, **added}.items()))
    tokenizer.add_tokens(list(ordered.values()))
    for id_, token in ordered.items():
        found = tokenizer.token_to_id(token.content)
        if found != id_:
            raise ModelError(
                f"the added token {token.content!r} gets the id {found}",
                expected=f"{id_}, as its configuration says",
                where=str(path),
                hint="tokenizer_config.json and tokenizer.model are of different models",
            )
