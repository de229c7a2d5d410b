"""A tokenizer of a given length from the words of training data."""

from __future__ import annotations

from pathlib import Path

import pytest

from omg_llava.conversation import TEMPLATES
from omg_llava.errors import ModelError
from omg_llava.files.tokenizer import load_tokenizer, save_tokenizer
from omg_llava.training.encoding import encode_exchanges
from omg_llava.training.own_tokenizer import train_tokenizer
from omg_llava.training.samples import Exchange
from omg_llava.untrained import CONTROL_TOKENS
from omg_llava.vocabulary import ADDED_TOKENS, SpecialIds

N_TOKENS = 300
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black")
SHAPES = ("circle", "square", "triangle", "hexagon", "diamond", "crescent")
TEXTS = [f"the {colour} {shape} [SEG]. <p> The {shape} </p>" for colour in COLOURS for shape in SHAPES]
ODD = ("", " ", "Wo sind die Bäume? 🌳\n\t\x00", "the red circle", "<p> [SEG] </p> <region>, <mark>", "ＡＢ\u0301")


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return train_tokenizer(TEXTS, N_TOKENS)


def test_it_has_the_length_that_was_asked_for(tokenizer) -> None:
    assert tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=True) == N_TOKENS + len(ADDED_TOKENS)
    assert sorted(tokenizer.get_vocab().values()) == list(range(N_TOKENS + len(ADDED_TOKENS)))


def test_special_tokens_are_where_the_model_wants_them(tokenizer) -> None:
    special = SpecialIds.after(N_TOKENS)
    ids = tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS))
    assert ids == [special.seg, special.p_open, special.p_close, special.region, special.mark]
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == list(range(len(CONTROL_TOKENS)))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    for token in (*CONTROL_TOKENS, *ADDED_TOKENS):
        assert tokenizer.encode(f"a{token}b", add_special_tokens=False)[1:-1] == [
            tokenizer.convert_tokens_to_ids(token)
        ]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_any_text_comes_back(tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert 0 not in ids


def test_common_words_are_few_tokens_and_added_tokens_teach_none(tokenizer) -> None:
    assert len(tokenizer.encode(" the circle", add_special_tokens=False)) <= 4
    assert not [token for token in tokenizer.get_vocab() if "SEG" in token and token not in ADDED_TOKENS]
    assert not [
        token for token in tokenizer.get_vocab() if token not in (*ADDED_TOKENS, *CONTROL_TOKENS) and "<" in token[1:]
    ]


def test_the_same_texts_give_the_same_tokenizer(tokenizer) -> None:
    again = train_tokenizer(iter(TEXTS), N_TOKENS)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    other = train_tokenizer([text.replace("circle", "pentagon") for text in TEXTS], N_TOKENS)
    assert other.get_vocab() != tokenizer.get_vocab()


def test_it_can_be_kept(tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in (*TEXTS, *ODD):
        assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert loaded.bos_token_id == 1


def test_pieces_are_encoded_as_evaluation_encodes_the_whole(tokenizer) -> None:
    """Merges reach over no border between pieces that training encodes apart."""
    exchanges = (Exchange("\nthe red circle?", " the <p> red </p> [SEG]."), Exchange("and\n", "the blue square"))
    ids, _ = encode_exchanges(tokenizer, TEMPLATES["internlm2"], exchanges, has_image=False, limit=9999)
    text = "".join(
        f"<|im_start|>user\n{item.question}<|im_end|>\n<|im_start|>assistant\n{item.answer}<|im_end|>\n"
        for item in exchanges
    )
    assert ids.tolist() == [1, *tokenizer.encode(text, add_special_tokens=False)]


def test_too_few_words_for_so_many_tokens() -> None:
    with pytest.raises(ModelError, match=r"the training texts give 2[67]\d tokens") as caught:
        train_tokenizer(["ab"], N_TOKENS)
    assert "base_vocab" in str(caught.value)


def test_fewer_tokens_than_there_are_bytes() -> None:
    with pytest.raises(ModelError, match="tokens"):
        train_tokenizer(TEXTS, 100)
