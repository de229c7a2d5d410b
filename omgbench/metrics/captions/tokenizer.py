"""The PTB tokenizer of the COCO caption evaluation, driven so that it cannot shift captions or hang."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from omgbench.errors import MetricNotComputed
from omgbench.metrics.captions.java import Java, JavaProcess, java_timeout_s, official_file
from omgbench.metrics.captions.text import one_line

TOKENIZER_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"

# pycocoevalcap 1.2, tokenizer/ptbtokenizer.py. Tokens arrive in lower case, so brackets (`-lrb-`) are never removed.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


def ptb_tokenize(caption_sets: Sequence[Sequence[str]], java: Java) -> list[list[str]]:
    """Tokenise captions as pycocoevalcap's PTBTokenizer does: Stanford CoreNLP 3.4.1, lower case, no punctuation.

    One JVM reads every set as a file of its own, in the given order: the tokenizer looks ahead over the end of a line
    (after an abbreviation), so order and company are part of the official result.

    Args:
        caption_sets: e.g. all references and all hypotheses. A caption may be empty and of any length. Line breaks
            become spaces, lone surrogates `?` (which is punctuation, hence dropped).
        java: the Java to run.

    Returns:
        The sets again: of each caption its tokens, joined by single spaces. A token may hold a no-break space
        (`2 1/2`).

    Raises:
        MetricNotComputed: the jar is missing, Java fails, is too slow, or returns another number of lines than there
            are captions.
    """
    jar = official_file(TOKENIZER_JAR)
    with tempfile.TemporaryDirectory(prefix="omgbench-ptb-") as name:
        folder = Path(name)
        for index, captions in enumerate(caption_sets):
            text = "\n".join(one_line(caption) for caption in captions)
            (folder / f"{index}.txt").write_bytes(text.encode("utf-8", errors="replace"))
        pairs = "".join(f"{index}.txt {index}.tok\n" for index in range(len(caption_sets)))
        (folder / "files").write_text(pairs, encoding="utf-8")
        _run(jar, java, folder)
        return [_read_tokens(folder / f"{index}.tok", len(captions)) for index, captions in enumerate(caption_sets)]


def _run(jar: Path, java: Java, folder: Path) -> None:
    arguments = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    try:
        with JavaProcess(java.path, [*arguments, "-ioFileList", "files"], folder=folder) as process:
            process.wait(java_timeout_s())
    except MetricNotComputed as failure:
        raise MetricNotComputed(f"the PTB tokenizer failed: {failure}") from None


def _read_tokens(path: Path, n_captions: int) -> list[str]:
    if n_captions == 0:
        return []
    lines = path.read_bytes().decode("utf-8").split("\n") if path.is_file() else []
    if len(lines) != n_captions:
        raise MetricNotComputed(f"the PTB tokenizer returned {len(lines)} lines for {n_captions} captions")
    return [" ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION) for line in lines]
