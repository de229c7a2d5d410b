"""OMG-LLaVA: a perception network, a language model, and the two bridges between them.

pixels -> OmgSeg -> pixel tokens, object tokens -> language model -> text, and at each [SEG] a hidden state
              \\-> features ------------------------------------------> mask decoder <- text projector <-/
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from omg_llava.config import ClassSetConfig, OmgLlavaConfig
from omg_llava.decoder import Decoded, MaskDecoder
from omg_llava.errors import ModelError
from omg_llava.features import VisualFeatures
from omg_llava.language_model import HiddenStates, SegState, build_language_model, run_transformer
from omg_llava.omg_seg import OmgSeg
from omg_llava.perception_prior import PerceptionPrior, fold, perception_prior
from omg_llava.projectors import TextProjector, VisualProjector
from omg_llava.visual_prompts import PromptSet
from omg_llava.vocabulary import SpecialIds


@dataclass(frozen=True, slots=True)
class Percept:
    """What the perception network makes of one picture.

    Attributes:
        features: what masks are decoded from (a batch of one).
        objects: (Q, 2C), embeddings of the object queries.
        prior: the perception prior and which objects get a token.
    """

    features: VisualFeatures
    objects: torch.Tensor
    prior: PerceptionPrior

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.features.nbytes() + self.objects.nbytes + self.prior.nbytes()


class ClassEmbeddings(nn.Module):
    """Text embeddings of a label space's class names."""

    prototypes: torch.Tensor

    def __init__(self, config: ClassSetConfig, width: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(len(config.classes), config.n_prototypes, width))


class OmgLlava(nn.Module):
    """The whole model. Built with fresh weights; `omg_llava.checkpoint.load_model` gives it trained ones.

    Perception, projectors and [SEG] decoder compute in float32 always; the language model in its own dtype.
    """

    def __init__(self, config: OmgLlavaConfig) -> None:
        super().__init__()
        self.config = config
        self.special = SpecialIds.after(config.language.base_vocab)
        self.perception = OmgSeg(config.backbone, config.segmenter)
        self.projector = VisualProjector(config)
        self.text_projector = TextProjector(config)
        self.seg_state = SegState(config.seg_token, config.language)
        self.own_seg_decoder = MaskDecoder(config.segmenter) if config.seg_token.own_decoder else None
        self.class_sets = nn.ModuleDict(
            {item.name: ClassEmbeddings(item, config.backbone.clip_dim) for item in config.class_sets}
        )
        self.llm = build_language_model(config.language)

    @property
    def seg_decoder(self) -> MaskDecoder:
        """What decodes `[SEG]`: the RefSeg and GCG checkpoints have trained one for it, others use the frozen one."""
        return self.own_seg_decoder or self.perception.decoder

    @property
    def device(self) -> torch.device:
        return self.projector.separator.weight.device

    def prototypes(self, class_set: str | None = None) -> torch.Tensor:
        """Class-name embeddings (K, P, D) of a label space; where none is named, of the one that scores the objects for
        the perception prior.
        """
        name = class_set or self.config.prior_class_set or next(iter(self.class_sets), "")
        if name not in self.class_sets:
            names = ", ".join(self.class_sets)
            raise ModelError(
                f"the checkpoint has no class embeddings {name!r}" if names else "no class embeddings are there",
                expected=names or "a checkpoint converted with --class-embeddings",
            )
        chosen = self.class_sets[name]
        assert isinstance(chosen, ClassEmbeddings)
        return chosen.prototypes

    def perceive(self, pixels: torch.Tensor) -> list[Percept]:
        """Pictures (B, 3, side, side) as `square_pixels` gives them. One percept each."""
        features = self.perception.features(pixels)
        decoded = self.perception.objects(features)
        logits = self.perception.class_logits(decoded.queries, decoded.mask_logits, features, self.prototypes())
        cell_px = 32 * self.config.projector.pixel_shuffle
        percepts = []
        for index, embeddings in enumerate(decoded.embedding):
            prior = perception_prior(logits[index], decoded.mask_logits[index, :, 0], embeddings, cell_px)
            percepts.append(Percept(features.of(index), embeddings, prior))
        return percepts

    def image_tokens(self, percept: Percept) -> torch.Tensor:
        """What the language model sees of a picture, (V, D) float32."""
        folded = fold(percept.features.stride32[0, 0], self.config.projector.pixel_shuffle)
        objects = percept.objects[percept.prior.kept]
        return self.projector.image_tokens(folded, percept.prior.prior, objects)

    def prompt_tokens(self, percept: Percept, prompts: PromptSet) -> torch.Tensor:
        """What the language model sees of visual prompts on a picture, (N, D) float32."""
        return self.projector.prompt_tokens(self.perception.prompted(percept.features, prompts).embedding[0])

    def decode_seg(self, features: VisualFeatures, states: torch.Tensor, *, keep_steps: bool = False) -> Decoded:
        """Masks of `[SEG]` tokens about one picture: hidden states (N, D), features of a batch of one.

        The tokens neither see each other nor the object queries.
        """
        queries, positions = self.text_projector(states.to(self.projector.separator.weight.dtype))
        decoded: Decoded = self.seg_decoder(
            queries[None], positions[None], features, isolated=True, keep_steps=keep_steps
        )
        return decoded

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (L,) to input embeddings (L, D)."""
        embeds: torch.Tensor = self.llm.get_input_embeddings()(ids)
        return embeds

    def read(self, embeds: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor) -> HiddenStates:
        """Hidden states of a right-padded batch (B, L, D), for training and whole-sequence evaluation."""
        return run_transformer(self.llm, self.seg_state, embeds, attention_mask, position_ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits (..., V) of last hidden states (..., D)."""
        logits: torch.Tensor = self.llm.lm_head(hidden)
        return logits
