"""The size of a picture, without decoding it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from omgbench.errors import DataError


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture, from its header. Raises `DataError`."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except FileNotFoundError:
        raise DataError("the picture is not there", where=str(path)) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the picture cannot be read: {error}", expected="an image file", where=str(path)) from None
