# SPDX-License-Identifier: Apache-2.0
"""What a drawn PNG file says about itself."""

import json
import os
from typing import Any

from PIL import Image


def read_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in the text chunk `mrti_jax`."""
    with Image.open(path) as image:
        return json.loads(image.info["mrti_jax"])
