"""Tokenizers from folders: the ids and the text of sentencepiece, no code of the folder, ids that stay."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from omg_llava.errors import ModelError
from omg_llava.files.sentencepiece_model import PieceKind, read_sentencepiece_model
from omg_llava.files.tokenizer import add_special_tokens_in_order, load_tokenizer, save_tokenizer

DATA = Path(__file__).resolve().parent / "data"
RECORDS: list[dict[str, Any]] = json.loads((DATA / "small.json").read_text(encoding="utf-8"))
N_PIECES = 640
ADDED = ["[SEG]", "<p>", "</p>", "<region>", "<mark>"]
MARKERS = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
FIRST_MARKER = 5
"""The id of [UNUSED_TOKEN_3] in the small model; in the released tokenizer the markers are 92538 to 92543."""


def flags(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def internlm2_config() -> dict[str, Any]:
    added = dict(enumerate(["<unk>", "<s>", "</s>"])) | dict(enumerate(MARKERS, start=FIRST_MARKER))
    classes = ["tokenization_internlm2.InternLM2Tokenizer", "tokenization_internlm2_fast.InternLM2TokenizerFast"]
    return {
        "added_tokens_decoder": {str(id_): flags(content) for id_, content in added.items()},
        "additional_special_tokens": MARKERS[::-1],
        "auto_map": {"AutoTokenizer": classes},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": "{{ bos_token }}",
        "clean_up_tokenization_spaces": False,
        "decode_with_prefix_space": False,
        "model_max_length": 1000000000000000019884624838656,
        "sp_model_kwargs": None,
        "tokenizer_class": "InternLM2Tokenizer",
    }


def make_folder(folder: Path, config: dict[str, Any] | None = None, model: Path = DATA / "small.model") -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(model, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(internlm2_config() if config is None else config))
    return folder


def plain_folder(folder: Path, config: dict[str, Any]) -> Path:
    words = {word: id_ for id_, word in enumerate(["<unk>", "<s>", "</s>", "a", "red", "dog", "<p>"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("internlm2"))


# Against sentencepiece


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: repr(record["text"])[:30])
def test_ids_and_text_of_sentencepiece(internlm2: Path, record: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(internlm2)
    ids = tokenizer.encode(record["text"], add_special_tokens=False)
    if "<|im_end|>" in record["text"] or "[UNUSED" in record["text"]:
        # Sentencepiece does not know the markers of the configuration, and they stand for some of its unused pieces.
        assert ids != record["ids"] or "[UNUSED_TOKEN_2]" in record["text"]
    else:
        assert ids == record["ids"]
    assert tokenizer.decode(ids) == record["text"].replace("\u2581", " ")
    assert tokenizer.decode(record["ids"]) == record["decoded"]


def random_texts(n: int) -> list[str]:
    rng = random.Random(0)
    sample = "".join(record["text"] for record in RECORDS if "<" not in record["text"] and "[" not in record["text"])

    def text(kind: int) -> str:
        if kind == 0:
            return "".join(rng.choice("aaaahh -=.。的狗 \n\t🐎é龘1234") for _ in range(rng.randint(0, 30)))
        if kind == 1:
            return "".join(rng.choice(sample) for _ in range(rng.randint(0, 40)))
        ranges = [(32, 59), (61, 126), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF), (0xA0, 0x2FF), (32, 32)]
        return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 30)))

    return [text(i % 3) for i in range(n)]


def test_every_text_comes_back(internlm2: Path) -> None:
    tokenizer = load_tokenizer(internlm2)
    for text in random_texts(600):
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        assert back == text.replace("\u2581", " ")


SETTINGS = [
    {},
    {"add_dummy_prefix": True},
    {"remove_extra_whitespaces": True},
    {"add_dummy_prefix": True, "remove_extra_whitespaces": True, "normalization_rule_name": "nmt_nfkc"},
    {"user_defined_symbols": ["\u2581\u2581\u2581", "<x>"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_random_texts_against_sentencepiece(tmp_path: Path, settings: dict[str, Any]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    own = {"vocab_size": 420, "normalization_rule_name": "identity", "add_dummy_prefix": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(record["text"] for record in RECORDS if "\0" not in record["text"]),
        model_writer=written,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        minloglevel=2,
        **{**own, "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, **settings},
    )
    folder = make_folder(tmp_path, config={})
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    ours, theirs = load_tokenizer(folder), sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    for text in random_texts(900):
        ids = theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == ids, text
        assert ours.decode(ids) == theirs.decode(ids)


# What InternLM2 adds


def test_special_tokens_in_the_middle(internlm2: Path) -> None:
    tokenizer = load_tokenizer(internlm2)
    by_text = {record["text"]: record["ids"] for record in RECORDS}
    first, second = by_text[" a  b   c    "], by_text["line one\nline two\n\n\tindented\r\n"]
    text = "<|im_start|> a  b   c    <|im_end|>line one\nline two\n\n\tindented\r\n</s>"
    ids = [FIRST_MARKER + 5, *first, FIRST_MARKER + 4, *second, 2]
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.encode(text) == [1, *ids]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == " a  b   c    line one\nline two\n\n\tindented\r\n"


def test_names_and_ids(internlm2: Path) -> None:
    tokenizer = load_tokenizer(internlm2)
    assert len(tokenizer) == N_PIECES
    assert tokenizer.convert_tokens_to_ids(MARKERS) == list(range(FIRST_MARKER, FIRST_MARKER + 6))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        1,
        2,
        2,
        0,
    )
    assert tokenizer.padding_side == "right"
    assert set(MARKERS) <= set(tokenizer.all_special_tokens)
    batch = tokenizer(["a", "a a a"], padding=True)
    assert batch["input_ids"][0][-1] == 2 and batch["attention_mask"][0][-1] == 0


@pytest.mark.parametrize(
    ("ends", "expected"),
    [({}, [1, 551]), ({"add_bos_token": False}, [551]), ({"add_bos_token": False, "add_eos_token": True}, [551, 2])],
)
def test_ends_of_a_text(tmp_path: Path, ends: dict[str, bool], expected: list[int]) -> None:
    tokenizer = load_tokenizer(make_folder(tmp_path / "m", internlm2_config() | ends))
    assert tokenizer.encode("a") == expected
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode("a") == expected


def test_added_tokens_behind_the_model(tmp_path: Path) -> None:
    config = internlm2_config()
    config["added_tokens_decoder"][str(N_PIECES)] = flags("<extra>")
    tokenizer = load_tokenizer(make_folder(tmp_path, config))
    assert tokenizer.encode("a<extra>a", add_special_tokens=False) == [551, N_PIECES, 551]
    del config["added_tokens_decoder"][str(N_PIECES)]
    config["added_tokens_decoder"][str(N_PIECES + 1)] = flags("<extra>")
    with pytest.raises(ModelError, match=f"'<extra>' gets the id {N_PIECES}"):
        load_tokenizer(make_folder(tmp_path, config))


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    (make_folder(tmp_path) / "tokenizer_config.json").unlink()
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a") == [1, 551]
    assert tokenizer.encode("[UNUSED_TOKEN_1]", add_special_tokens=False) == [3]


def test_code_in_the_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("a question at the terminal")

    monkeypatch.setattr("builtins.input", refuse)
    for folder in (make_folder(tmp_path / "a"), plain_folder(tmp_path / "b", internlm2_config())):
        code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass InternLM2Tokenizer: ...\nInternLM2TokenizerFast = 0\n"
        for name in ("tokenization_internlm2", "tokenization_internlm2_fast"):
            (folder / f"{name}.py").write_text(code)
    assert load_tokenizer(tmp_path / "a").encode("a") == [1, 551]
    with pytest.raises(ModelError, match="not in the vocabulary"):
        load_tokenizer(tmp_path / "b")
    assert not (tmp_path / "ran").exists()
    assert not any("internlm2" in name for name in sys.modules if name.startswith("transformers_modules"))


# Plain folders


def test_a_plain_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    config = {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "tokenizer_class": "LlamaTokenizer"}
    tokenizer = load_tokenizer(plain_folder(tmp_path, config))
    assert tokenizer.encode("a red dog") == [3, 4, 5]
    assert tokenizer.bos_token_id == 1 and tokenizer.eos_token is None
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).encode("a red dog") == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tokenizer.json", "{}", "no tokenizer: "),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("tokenizer.model", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("tokenizer.model", "", "no pieces"),
        ("tokenizer.model", "no protocol buffer", "no sentencepiece model"),
        ("tokenizer_config.json", "{", "no JSON"),
        ("tokenizer_config.json", "[" * 100_000, "no JSON"),
        ("tokenizer_config.json", "[]", "no object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "added_tokens_decoder that is no object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "the added token x"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": "<s>"}}', "the added token 1"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"7": {"content": "a"}}}', "two pieces 'a'"),
        ("tokenizer_config.json", '{"pad_token": "[PAD]"}', r"'\[PAD\]' is not in the vocabulary"),
        ("tokenizer_config.json", '{"bos_token": 3}', "None is not in the vocabulary"),
        ("tokenizer_config.json", '{"extra_special_tokens": ["<x>"]}', "'<x>' is not in the vocabulary"),
        ("tokenizer_config.json", '{"extra_special_tokens": 3}', "None is not in the vocabulary"),
    ],
)
def test_broken_folders(tmp_path: Path, name: str, content: str, match: str) -> None:
    folder = make_folder(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=match) as error:
        load_tokenizer(folder)
    assert error.value.where is not None and error.value.where.startswith(str(folder))


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("")
    with pytest.raises(ModelError, match=r"a folder of vocab\.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_damaged_model_is_read_or_refused(tmp_path: Path) -> None:
    whole, rng = (DATA / "small.model").read_bytes(), random.Random(0)
    for i in range(200):
        broken = bytearray(whole if i % 2 else whole[: rng.randrange(len(whole))])
        if broken:
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        (tmp_path / "tokenizer.model").write_bytes(broken)
        try:
            load_tokenizer(tmp_path)
        except ModelError:
            continue


def test_the_parts_of_a_model() -> None:
    model = read_sentencepiece_model(DATA / "small.model")
    kinds = [piece.kind for piece in model.pieces]
    assert len(kinds) == N_PIECES and kinds[0] is PieceKind.UNKNOWN and kinds.count(PieceKind.BYTE) == 256
    assert (model.model_type, model.byte_fallback, model.add_dummy_prefix) == (2, True, False)
    assert (model.remove_extra_whitespaces, model.escape_whitespaces, model.charsmap) == (False, True, b"")
    assert model.pieces[11].text == "<0x00>" and model.pieces[-1].score == -372.0


# Tokens of OMG-LLaVA


def test_tokens_added_in_order(internlm2: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(internlm2)
    expected = {token: N_PIECES + i for i, token in enumerate(ADDED)}
    assert add_special_tokens_in_order(tokenizer, ADDED[:4]) == dict(list(expected.items())[:4])
    assert add_special_tokens_in_order(tokenizer, ADDED) == expected
    assert add_special_tokens_in_order(tokenizer, ADDED) == expected
    assert len(tokenizer) == N_PIECES + 5
    text = "<p> the red dog </p> [SEG]<region>x <mark>."
    ids = tokenizer.encode(text)
    assert [id_ for id_ in ids if id_ >= N_PIECES] == [N_PIECES + i for i in (1, 2, 0, 3, 4)]
    assert tokenizer.decode(ids) == f"<s>{text}"
    assert tokenizer.decode(ids, skip_special_tokens=True) == " the red dog  x ."
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert add_special_tokens_in_order(loaded, ADDED) == expected
    assert len(loaded) == N_PIECES + 5 and loaded.padding_side == "right"
    for sample in [text, "<|im_start|>user\n 你好<|im_end|>", *random_texts(100)]:
        assert loaded.encode(sample) == tokenizer.encode(sample)
        assert loaded.decode(loaded.encode(sample)) == tokenizer.decode(tokenizer.encode(sample))
    assert loaded.all_special_tokens == tokenizer.all_special_tokens


@pytest.mark.parametrize(
    ("before", "tokens", "match"),
    [
        ([], ["[SEG]", "<p>"], "<p> is ordinary text with the id 6"),
        ([], ["<p>", "[SEG]"], "<p> is ordinary text with the id 6"),
        (["[SEG]", "x", "y"], ["[SEG]", "y"], "y is special with the id 9"),
        (["[SEG]", "x"], ["[SEG]", "y"], "y would get the id 9"),
        (["[SEG]", "x"], ["x", "[SEG]"], r"\[SEG\] is special with the id 7"),
        ([], ["x", "x"], "named twice"),
    ],
)
def test_ids_that_cannot_follow(tmp_path: Path, before: list[str], tokens: list[str], match: str) -> None:
    tokenizer = load_tokenizer(plain_folder(tmp_path, {}))
    add_special_tokens_in_order(tokenizer, before)
    n_tokens = len(tokenizer)
    with pytest.raises(ModelError, match=match):
        add_special_tokens_in_order(tokenizer, tokens)
    assert len(tokenizer) == n_tokens
