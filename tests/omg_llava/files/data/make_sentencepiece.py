"""Trains small.model and writes small.json: strings with the ids and the decoded text that sentencepiece itself gives.

python make_sentencepiece.py      # needs sentencepiece; small.json was written with 0.2.3
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece

FOLDER = Path(__file__).resolve().parent
CORPUS = """The man in a red jacket is standing next to a white horse on the grass, and the woman holds two umbrellas.
Could you please give me a detailed description of the image? Please respond with interleaved segmentation masks.
Sure, it is the second dog from the left. A person rides a bicycle down the street in front of several parked cars.
请对这张图片进行详细的描述，并分割出图中的物体。一个男人站在白色的马旁边，左边的狗在草地上。天空是蓝色的。
def area(mask):    return int(mask.sum())        # 12 345 678 90 pixels
if x  ==  y:   print("equal",   x)      else:          pass
aaaa aaaaa aaaaaa hahahaha hahaha ---- ------ ======== ..........
la maison est très belle; où êtes-vous? Größe, Straße, naïve café."""
TEXTS = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    " a  b   c    ",
    "The man in a red jacket",
    "Please segment the second dog from the left in this image.",
    "请对这张图片进行详细的描述",
    "左边 的 狗，and the 白色 horse。",
    "龘 is not in the vocabulary, nor is ﷽",
    "👩‍🚀 rides a 🐎 at 100% 🎉🎉",
    "line one\nline two\n\n\tindented\r\n",
    "é (one) and é (two code points)",
    "½ ﬁ Ａ ① full-width　space, nbsp\u00a0here, zero\u200bwidth",
    "▁ is what a space becomes ▁▁",
    "aaaaaaaaaa hahahahahahaha ----------- =====",
    "def f(x):\n    return x  # 3.14159",
    "12345678901234567890",
    "\x00\x01\x7f control \ufffd",
    "<0x0A> written out, <|im_end|> and <mark> too",
    "[UNUSED_TOKEN_1] and [UNUSED_TOKEN_2][UNUSED_TOKEN_1]x",
]


def main() -> None:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()),
        model_writer=written,
        model_type="bpe",
        vocab_size=640,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(1, 9)],
        minloglevel=2,
    )
    (FOLDER / "small.model").write_bytes(written.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    records = []
    for text in TEXTS:
        ids = processor.encode(text)
        records.append({"text": text, "ids": ids, "decoded": processor.decode(ids)})
    lines = ",\n".join(json.dumps(record, ensure_ascii=True) for record in records)
    (FOLDER / "small.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
