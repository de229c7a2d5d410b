"""Class-name embeddings for models trained from nothing: a bag of words in place of CLIP's text tower.

Every word has a direction of its own, at right angles to all others; a name is the normalised sum of its words. So a
class that training never saw as such, "circle", is near everything called a circle, and names of looks ("small striped
red circle") can be learned as classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from omg_llava.config import ClassSetConfig
from omg_llava.errors import ModelError
from omg_llava.open_vocabulary import synonyms


class WordVectors:
    """Unit vectors of the words in some names.

    Args:
        names: all names that will be asked for; their words, sorted, are the vocabulary.
        width: of the vectors, at least the number of words.
    """

    def __init__(self, names: Iterable[str], width: int) -> None:
        words = sorted({word for name in names for word in name.split()})
        if len(words) > width:
            raise ModelError(f"the class names hold {len(words)} words", expected=f"at most clip_dim, {width}")
        random = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        directions = torch.linalg.qr(random).Q.float()
        self._vectors = dict(zip(words, directions, strict=False))

    def of(self, name: str) -> torch.Tensor:
        """Unit vector (D,) of a name. Raises `ModelError` for a word that is not in the vocabulary."""
        words = name.split()
        unknown = [word for word in words if word not in self._vectors]
        if unknown or not words:
            raise ModelError(f"no vector for {name!r}", expected="words of the class names")
        return F.normalize(torch.stack([self._vectors[word] for word in words]).sum(dim=0), dim=0)

    def table(self, names: Sequence[str]) -> torch.Tensor:
        """(K, 1, D): prototypes of K names, one each, as `ClassHead.logits` takes them."""
        return torch.stack([self.of(name) for name in names])[:, None]

    def prototypes(self, class_set: ClassSetConfig) -> torch.Tensor:
        """(K, P, D) for a label space, synonyms padded by repeating the first."""
        rows = []
        for item in class_set.classes:
            names = synonyms(item.prompt)
            if len(names) > class_set.n_prototypes:
                raise ModelError(
                    f"class {item.name!r} has {len(names)} synonyms", expected=f"at most {class_set.n_prototypes}"
                )
            padded = names + names[:1] * (class_set.n_prototypes - len(names))
            rows.append(torch.stack([self.of(name) for name in padded]))
        return torch.stack(rows)
