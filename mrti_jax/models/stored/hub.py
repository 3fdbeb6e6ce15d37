# SPDX-License-Identifier: Apache-2.0
"""Models on the Hugging Face Hub: the files that are needed, through its cache."""

import contextlib
import errno
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeAlias

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.models.stored.folder import (
    INDEX,
    TOKENIZER_FILES,
    check_kind,
    kind_by_class,
    kind_by_names,
    present,
    tokenizers_of,
)
from mrti_jax.models.stored.hub_outline import write_outline
from mrti_jax.models.stored.weights import no_weights, variant_of_parts, weight_files

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The files that describe a model.
_DESCRIPTION = re.compile(
    rf"{re.escape(INDEX)}|(\w+/)?config\.json|scheduler/scheduler_config\.json"
)
# Seconds to wait for the Hub's first answer.
_PATIENCE = 5
# HTTP status of the Hub's refusal -> what to do.
_ADVICE = {
    401: "the token isn't valid: `hf auth login`, or unset HF_TOKEN",
    403: "no access: `hf auth login` with a token that may read it, once its terms are accepted",
    404: "not found: check the name, and HF_ENDPOINT if it is set",
    429: "too many requests: wait a few minutes, or `hf auth login`, which allows more",
}
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

Download: TypeAlias = Callable[[list[str]], epath.Path]
"""Downloads files of a repository; returns their folder, which also holds those fetched before."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model`."""
    return _ID.fullmatch(name) is not None


def fetch_model(
    repo: str, revision: str | None, variant: str | None, outline: epath.Path | None = None
) -> epath.Path:
    """A diffusers folder with the needed files of a model on the Hub.

    Its descriptions are fetched first, and nothing more if it is another kind of model.

    Args:
        outline: an empty folder to return instead, with all files but of safetensors only the
            headers, before a hole for the numbers; these are not downloaded.

    Raises:
        UserError: there is no such model, no access, or neither a connection nor a cached copy; it
            is another kind of model.
    """

    def fetch(names: Collection[str], download: Download) -> epath.Path:
        what = f"{repo} on the Hub"
        tops = {name.partition("/")[0] for name in names}
        descriptions = [name for name in names if _DESCRIPTION.fullmatch(name)]
        if INDEX not in names:
            raise UserError(f"{what} {_what_else(tops, descriptions, download)}")
        check_kind(what, download(descriptions))
        parts = {part: _inside(part, names) for part in present(tops)}
        chosen = variant_of_parts(parts, variant)
        files = []
        for part, inside in parts.items():
            weights = weight_files(inside, chosen[part])
            if not weights:
                raise no_weights(f"{what}: {part}", inside, variant)
            files += [f"{part}/{name}" for name in weights]
        for folder in tokenizers_of(parts):
            files += [f"{folder}/{name}" for name in TOKENIZER_FILES]
        files = [name for name in files if name in names]
        if outline is None:
            return download(files)
        whole = [name for name in files if not name.endswith(".safetensors")]
        downloaded = download(whole)
        for name in {*descriptions, *whole}:
            (outline / name).parent.mkdir(parents=True, exist_ok=True)
            (downloaded / name).copy(outline / name)
        with _downloading(repo):
            for name in files:
                if name not in whole:
                    write_outline(repo, revision, name, outline / name)
        return outline

    return _fetch(repo, revision, fetch, marks=(INDEX,))


def fetch_tokenizer(repo: str) -> epath.Path:
    """A folder with the tokenizer of a model on the Hub. Raises UserError as `fetch_model`."""

    def fetch(names: Collection[str], download: Download) -> epath.Path:
        return download([name for name in TOKENIZER_FILES if name in names])

    return _fetch(repo, None, fetch, marks=("vocab.json", "tokenizer.json"))


def _fetch(
    repo: str,
    revision: str | None,
    fetch: Callable[[Collection[str], Download], epath.Path],
    marks: Collection[str],
) -> epath.Path:
    """What `fetch(names of all files, download)` returns.

    `marks`: files of which one is in the cache if the repository is.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download, try_to_load_from_cache

    def download(files: list[str]) -> epath.Path:
        with _downloading(repo):
            return epath.Path(snapshot_download(repo, revision=revision, allow_patterns=files))

    at = "" if revision is None else f" at revision '{revision}'"
    try:
        # Unlike listing its files, this is not retried over and over without a connection.
        info = HfApi().model_info(repo, revision=revision, timeout=_PATIENCE)
        return fetch([file.rfilename for file in info.siblings or ()], download)
    except errors.GatedRepoError:
        raise UserError(
            f"{repo} is gated: accept its terms on https://huggingface.co/{repo}, then "
            "`hf auth login`, and try again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no model '{repo}', neither as a local folder or file nor on the Hub (a "
            "private one needs `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo} on the Hub has no revision '{revision}'") from None
    except errors.HFValidationError:
        raise UserError(f"'{repo}' is neither a folder, a file nor a Hub id") from None
    except (errors.HTTPError, OSError) as error:  # no connection, told to be offline, Hub is down
        if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
            raise UserError(
                f"{repo} can't be written to the Hub's cache, {constants.HF_HUB_CACHE} "
                f"(HF_HUB_CACHE sets another): {error.strerror}"
            ) from None
        found = (try_to_load_from_cache(repo, mark, revision=revision) for mark in marks)
        cached = next((path for path in found if isinstance(path, str)), None)
        trouble = (
            f"answers with an error ({_why(error)})"
            if isinstance(error, errors.HfHubHTTPError)
            else f"can't be reached ({type(error).__name__})"
        )
        if cached is None:
            raise UserError(
                f"there is no folder or file '{repo}', it is not in the Hub's cache{at}, and the "
                f"Hub {trouble}"
            ) from None
        if not isinstance(error, errors.OfflineModeIsEnabled):
            warn(f"the Hub {trouble}: using the cached {repo}{at}")
        return epath.Path(Path(cached).parent)


@contextlib.contextmanager
def _downloading(repo: str) -> Iterator[None]:
    """Raises UserError if the connection breaks off; refusals of Hub and disk pass through."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    # hf_xet, which downloads large files, raises RuntimeError.
    except (errors.HTTPError, OSError, RuntimeError) as error:
        if getattr(error, "errno", None) in _NOT_WRITTEN:
            raise
        raise UserError(
            f"the download of {repo} was interrupted ({_why(error)}): run the same command "
            "again to resume it"
        ) from None


def _why(error: Exception) -> str:
    """An error in a few words: the Hub's status and what to do about it, or its first line."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what kept it from asking the Hub
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return f"HTTP {status}, {_ADVICE.get(status, 'try again later')}"
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _what_else(names: Collection[str], descriptions: list[str], download: Download) -> str:
    """What a repository without a `model_index.json` is, as in `refuse.what_else`."""
    kind = kind_by_names(names)
    if kind is None and descriptions:
        kind = kind_by_class(download(descriptions))
    return kind or (
        f"is not a diffusers model (no {INDEX}): if it holds a single file, download that and give "
        "its path"
    )


def _inside(folder: str, names: Collection[str]) -> list[str]:
    start = f"{folder}/"
    return [name.removeprefix(start) for name in names if name.startswith(start)]
