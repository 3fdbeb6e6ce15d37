# SPDX-License-Identifier: Apache-2.0
"""Models on the Hugging Face Hub: the files that are needed, through its cache."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.models.stored.folder import INDEX, MODULES, TOKENIZERS, present
from mrti_jax.models.stored.weights import no_weights, variant_of_parts, weight_files

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model`."""
    return _ID.fullmatch(name) is not None


def fetch_model(repo: str, revision: str | None, variant: str | None) -> epath.Path:
    """A diffusers folder with what is needed of a model on the Hub.

    Raises:
        UserError: there is no such model, no access, or neither a connection nor a cached copy.
    """

    def needed(names: Collection[str]) -> list[str]:
        if INDEX not in names:
            raise UserError(
                f"{repo} on the Hub is no diffusers model (no {INDEX}): if it holds a single file, "
                "download that, and give its path"
            )
        folders = {name.partition("/")[0] for name in names if "/" in name}
        parts = {part: _inside(part, names) for part in present(MODULES, folders)}
        chosen = variant_of_parts(parts, variant)
        files = [INDEX, "scheduler/scheduler_config.json"]
        for part, inside in parts.items():
            weights = weight_files(inside, chosen[part])
            if not weights and "unet" in folders:
                raise no_weights(f"{repo} on the Hub: {part}", inside, variant)
            files += [f"{part}/{name}" for name in ("config.json", *weights)]
        for part in present(TOKENIZERS, folders):
            files += [f"{part}/{name}" for name in _TOKENIZER_FILES]
        return [name for name in files if name in names]

    return _fetch(repo, revision, needed, mark=INDEX)


def fetch_tokenizer(repo: str) -> epath.Path:
    """A folder with the tokenizer of a model on the Hub. Raises UserError as `fetch_model`."""

    def needed(names: Collection[str]) -> list[str]:
        return [name for name in _TOKENIZER_FILES if name in names]

    return _fetch(repo, None, needed, mark="vocab.json")


def _fetch(
    repo: str, revision: str | None, needed: Callable[[Collection[str]], list[str]], mark: str
) -> epath.Path:
    """`mark`: a file that is in the cache if the repository is."""
    from huggingface_hub import HfApi, errors, snapshot_download, try_to_load_from_cache

    at = "" if revision is None else f" at revision '{revision}'"
    try:
        names = HfApi().list_repo_files(repo, revision=revision)
        files = needed(names)
        return epath.Path(snapshot_download(repo, revision=revision, allow_patterns=files))
    except errors.GatedRepoError:
        raise UserError(
            f"{repo} is gated: accept its terms on https://huggingface.co/{repo}, then "
            "`hf auth login`, and try again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no model '{repo}', neither a folder or file here nor on the Hub (a private "
            "one needs `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo} on the Hub has no revision '{revision}'") from None
    except errors.HFValidationError:
        raise UserError(f"'{repo}' is neither a folder, a file nor a Hub id") from None
    except (errors.HTTPError, OSError) as error:  # no connection, told to be offline, Hub is down
        cached = try_to_load_from_cache(repo, mark, revision=revision)
        if not isinstance(cached, str):
            raise UserError(
                f"there is no folder or file '{repo}', it is not in the Hub's cache{at}, and the "
                f"Hub can't be reached ({type(error).__name__})"
            ) from None
        if not isinstance(error, errors.OfflineModeIsEnabled):
            warn(f"the Hub can't be reached ({type(error).__name__}): using the cached {repo}{at}")
        return epath.Path(Path(cached).parent)


def _inside(folder: str, names: Collection[str]) -> list[str]:
    start = f"{folder}/"
    return [name.removeprefix(start) for name in names if name.startswith(start)]
