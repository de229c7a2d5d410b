"""Sine codes: of places in a picture, of frames in a clip, of boxes.

One rule for all: a number becomes n values, sines at even and cosines at odd places, of frequencies
10000^(-2 floor(k/2) / n).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

_EPSILON = 1e-6


def sine_code(angles: torch.Tensor, n: int) -> torch.Tensor:
    """(...) angles in radians to (..., n)."""
    k = torch.arange(n, dtype=torch.float32, device=angles.device)
    divisors = 10000 ** (2 * torch.div(k, 2, rounding_mode="floor") / n)
    phases = angles[..., None] / divisors
    return torch.stack((phases[..., 0::2].sin(), phases[..., 1::2].cos()), dim=-1).flatten(-2)


def _steps(n: int, device: torch.device) -> torch.Tensor:
    """1..n as angles of one turn."""
    return torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + _EPSILON) * (2 * math.pi)


def grid_code(height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """(height, width, channels): the row's code, then the column's."""
    rows = sine_code(_steps(height, device), channels // 2)[:, None].expand(height, width, -1)
    columns = sine_code(_steps(width, device), channels // 2)[None].expand(height, width, -1)
    return torch.cat((rows, columns), dim=-1)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def clip_code(n_frames: int, height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """(n_frames, height, width, channels): the place's code plus the frame's. A single picture is a clip of one frame
    and carries that frame's code everywhere, as the official decoder does. Kept from picture to picture: do not change
    the result.
    """
    frames = sine_code(_steps(n_frames, device), channels)
    return grid_code(height, width, channels, device)[None] + frames[:, None, None]


def box_code(boxes_cxcywh: torch.Tensor, channels: int) -> torch.Tensor:
    """(N, 4) boxes in 0..1 as (centre x, centre y, width, height) to (N, 2 * channels), in the order centre y,
    centre x, width, height.
    """
    codes = sine_code(boxes_cxcywh * (2 * math.pi), channels // 2)
    return codes[:, [1, 0, 2, 3]].flatten(1)
