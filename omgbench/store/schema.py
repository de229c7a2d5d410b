"""The form of everything that is stored: immutable, and unknown fields are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """Base of every stored record."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
