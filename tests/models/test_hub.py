# SPDX-License-Identifier: Apache-2.0
"""Models on the Hub: what is fetched, what works offline, what is told. The Hub is never asked."""

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from etils import epath
from huggingface_hub import constants, errors
from safetensors.numpy import load_file, save_file

from mrti_jax.errors import UserError
from mrti_jax.models.stored.find import mini_folder, open_model, tokenizer_folder
from mrti_jax.models.stored.model import ModelSource, StoredTokenizer

REPO = "owner/model-1.5"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """A repository in `folder`, and the library's cache, empty at first."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.error: Exception | None = None
        self.fetched: set[str] = set()

    def list_repo_files(self, repo_id: str, *, revision: str | None = None) -> list[str]:
        if self.error is not None:
            raise self.error
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path.relative_to(self.folder).as_posix() for path in found]

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str]
    ) -> str:
        store = self.cache / f"models--{repo_id.replace('/', '--')}"
        snapshot = store / "snapshots" / COMMIT
        for name in self.list_repo_files(repo_id):
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                self.fetched.add(name)
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / name, snapshot / name)
        (store / "refs").mkdir(exist_ok=True)
        (store / "refs" / (revision or "main")).write_text(COMMIT)
        return str(snapshot)


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The tiny model with what else repositories hold: other formats, variants, pictures."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "repo"))
    for part in ("unet", "vae", "text_encoder"):
        (plain,) = (folder / part).glob("*.safetensors")
        half = {name: value.astype(np.float16) for name, value in load_file(plain).items()}
        save_file(half, plain.with_suffix(".fp16.safetensors"))
        (folder / part / f"{plain.stem}.bin").write_bytes(b"a pickle")
        (folder / part / "flax_model.msgpack").write_bytes(b"msgpack")
    for name in ("README.md", "v1-5-pruned.safetensors", "safety_checker/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    fake = FakeHub(folder, tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fake.cache))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "list_repo_files", lambda _, *a, **k: fake.list_repo_files(*a, **k)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def weights(variant: str) -> set[str]:
    return {
        f"unet/diffusion_pytorch_model{variant}.safetensors",
        f"vae/diffusion_pytorch_model{variant}.safetensors",
        f"text_encoder/model{variant}.safetensors",
    }


@pytest.mark.parametrize(("variant", "dtype"), [(None, np.float32), ("fp16", np.float16)])
def test_only_what_is_needed_is_fetched(hub: FakeHub, variant: str | None, dtype: Any) -> None:
    stored = open_model(ModelSource(path=REPO, variant=variant))
    assert stored.modules["unet"].tensors["conv_in.bias"].dtype == dtype
    assert {name for name in hub.fetched if not name.endswith((".json", ".txt"))} == weights(
        f".{variant}" if variant else ""
    )
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"} <= (
        hub.fetched
    )


@pytest.mark.parametrize("revision", [None, "v2"])
def test_offline_from_the_cache(hub: FakeHub, revision: str | None) -> None:
    source = ModelSource(path=REPO, revision=revision)
    online = open_model(source)
    hub.error = errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    assert open_model(source) == online  # and without a warning
    hub.error = ConnectionError("no route to host")
    with pytest.warns(UserWarning, match=f"can't be reached .* using the cached {REPO}"):
        assert open_model(source) == online


def answer(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response = errors.Response(status)
    response.request = object()
    return kind("the Hub's own words", response=response)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: errors.OfflineModeIsEnabled("offline"), "it is not in the Hub's cache"),
        (lambda: ConnectionError("no route to host"), "can't be reached (ConnectionError)"),
        (lambda: errors.HTTPError("timed out"), "can't be reached (HTTPError)"),
        (lambda: answer(errors.HfHubHTTPError, 503), "can't be reached (HfHubHTTPError)"),
        (lambda: answer(errors.GatedRepoError, 403), "is gated: accept its terms"),
        (
            lambda: answer(errors.RepositoryNotFoundError, 401),
            "there is no model 'owner/model-1.5'",
        ),
        (lambda: answer(errors.RevisionNotFoundError, 404), "has no revision 'v2'"),
    ],
)
def test_what_keeps_from_the_hub_is_told(
    hub: FakeHub, error: Callable[[], Exception], told: str
) -> None:
    hub.error = error()
    with pytest.raises(UserError) as caught:
        open_model(ModelSource(path=REPO, revision="v2"))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_other_repositories_are_told(hub: FakeHub) -> None:
    def told(**options: Any) -> str:
        with pytest.raises(UserError) as caught:
            open_model(ModelSource(path=REPO, **options))
        return str(caught.value)

    assert "unet holds no variant 'fp8' of the weights; there is the variant fp16" in told(
        variant="fp8"
    ).replace("text_encoder", "unet")
    (hub.folder / "model_index.json").unlink()
    assert "is no diffusers model (no model_index.json)" in told()


@pytest.mark.parametrize("path", ["nowhere", "a/b/c", "../model", "owner/model name"])
def test_what_is_no_hub_id_is_not_asked_for(hub: FakeHub, path: str) -> None:
    hub.error = AssertionError("asked")
    with pytest.raises(UserError, match="does not exist: give a diffusers folder"):
        open_model(ModelSource(path=path))


def test_options_without_use_are_told(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match="is not on the Hub: --revision 'v2' has no use"):
        open_model(ModelSource(path=str(tiny_folder), revision="v2"))


def test_tokenizer_from_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.folder = Path(mini_folder()) / "tokenizer"
    folder = tokenizer_folder(StoredTokenizer("openai/clip"))
    assert (folder / "merges.txt").exists() and hub.fetched <= {
        path.name for path in hub.folder.iterdir()
    }
    hub.error = ConnectionError("no route to host")
    with pytest.raises(
        UserError, match=r"no tokenizer .--tokenizer gives a folder.*not in the Hub"
    ):
        tokenizer_folder(StoredTokenizer("openai/another"))
    assert tokenizer_folder(StoredTokenizer(str(tmp_path))) == epath.Path(tmp_path)
