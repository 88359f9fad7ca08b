"""The one way images change size, so that training and inference see the same pixels."""

import numpy as np
from PIL import Image


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [h, w, 3] to uint8 [size, size, 3].

    Shrinking averages areas, so that small objects fade instead of flickering; growing is
    bilinear. A frame is treated alone, whatever batch it belongs to.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    kind = Image.Resampling.BOX if min(height, width) >= size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((size, size), kind))
