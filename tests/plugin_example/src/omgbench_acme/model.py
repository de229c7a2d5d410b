"""A model that knows three colours: it names the one that covers most, and segments the one that it is asked for."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from omgbench.contract import Capabilities, Intent, Mask, ModelIdentity, PerRequestModel, Request, Response, Rle, Status

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class AcmeModel(PerRequestModel):
    """Args: max_distance: how far, in RGB units, a pixel may be from a colour."""

    def __init__(self, max_distance: float = 100.0) -> None:
        self.max_distance = float(max_distance)

    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({Intent.CHAT, Intent.REFER_SEGMENT}), language_model=False)

    def identity(self) -> ModelIdentity:
        return ModelIdentity("acme", "0.1.0", "none", options={"max_distance": str(self.max_distance)})

    def answer(self, request: Request) -> Response:
        pixels = np.asarray(request.frames[0].image, np.float64)
        masks = {name: np.linalg.norm(pixels - rgb, axis=2) < self.max_distance for name, rgb in COLOURS.items()}
        if request.intent is Intent.CHAT:
            return Response(request.id, text=max(masks, key=lambda name: int(masks[name].sum())))
        named = [name for name in COLOURS if name in (request.text or "")]
        if not named or not masks[named[0]].any():
            return Response(request.id, Status.EMPTY, text="")
        counts = coco_mask.encode(np.asfortranarray(masks[named[0]], np.uint8))["counts"].decode()
        return Response(request.id, text="", masks=(Mask(Rle(pixels.shape[:2], counts)),))
