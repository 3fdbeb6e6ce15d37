# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file on the Hugging Face Hub, without its numbers."""

import dataclasses
import json

from etils import epath

from mrti_jax.errors import UserError

# No file of a model is larger.
_MOST_BYTES = 2**40


def write_outline(repo: str, revision: str | None, name: str, path: epath.Path) -> None:
    """Writes a local file with the header of a file on the Hub and a hole for the numbers.

    Raises:
        UserError: it is no safetensors file.
        HTTPError, OSError: the Hub can't be reached or refuses, or the disk does.
    """
    from huggingface_hub import HfApi, errors

    try:
        found = HfApi().parse_safetensors_file_metadata(repo, name, revision=revision).tensors
        end = max((info.data_offsets[1] for info in found.values()), default=0)
        if type(end) is not int or not 0 <= end < _MOST_BYTES:
            raise TypeError("no such place")
    except (errors.SafetensorsParsingError, LookupError, TypeError):
        raise UserError(f"{name} of {repo} is not a safetensors file, or is damaged") from None
    header = json.dumps({key: dataclasses.asdict(info) for key, info in found.items()}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
