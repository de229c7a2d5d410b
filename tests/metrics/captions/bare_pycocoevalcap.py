"""Score captions with nothing but pycocoevalcap: a JSON file in, JSON out; run as a script."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Read `{references, hypotheses}` from the file named and print each metric's corpus and item values."""
    captions = json.loads(Path(sys.argv[1]).read_text())
    with contextlib.redirect_stdout(sys.stderr):
        scores = _score(captions["references"], captions["hypotheses"])
    json.dump(scores, sys.stdout)
    sys.stdout.flush()
    # The official METEOR class may wait for ever at a normal exit.
    os._exit(0)


def _score(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, tuple[float, list[float]]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({item: [{"caption": text} for text in texts] for item, texts in references.items()})
    res = tokenizer.tokenize({item: [{"caption": hypotheses[item]}] for item in references})
    meteor = Meteor()
    scores = {"METEOR": meteor.compute_score(gts, res)}
    meteor.meteor_p.kill()
    meteor.meteor_p.wait()
    scores["CIDEr"] = Cider().compute_score(gts, res)
    scores["ROUGE-L"] = Rouge().compute_score(gts, res)
    bleus, items = Bleu(4).compute_score(gts, res)
    for order, pair in enumerate(zip(bleus, items, strict=True), start=1):
        scores[f"BLEU-{order}"] = pair
    return {name: (float(total), [float(value) for value in values]) for name, (total, values) in scores.items()}


if __name__ == "__main__":
    main()
