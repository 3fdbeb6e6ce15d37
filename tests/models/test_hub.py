# SPDX-License-Identifier: Apache-2.0
"""Models on the Hub: what is fetched, works offline and is reported. The Hub is never asked."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from etils import epath
from huggingface_hub import constants, errors
from huggingface_hub.utils import SafetensorsFileMetadata, TensorInfo
from safetensors.numpy import load_file, save_file

from mrti_jax.errors import UserError
from mrti_jax.models.__main__ import main
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stored.find import mini_folder, open_model, tokenizer_folder
from mrti_jax.models.stored.model import StoredTokenizer

REPO = "owner/model-1.5"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """A repository in `folder`, and the library's cache, empty at first."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.error: Exception | None = None
        self.disk_error: OSError | None = None
        self.broken: Callable[[str], Exception | None] = lambda name: None
        self.fetched: set[str] = set()

    @property
    def names(self) -> list[str]:
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path.relative_to(self.folder).as_posix() for path in found]

    def model_info(self, repo_id: str, *, revision: str | None, timeout: float) -> Any:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.names])

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str]
    ) -> str:
        store = self.cache / f"models--{repo_id.replace('/', '--')}"
        snapshot = store / "snapshots" / COMMIT
        if self.disk_error is not None:
            raise self.disk_error
        for name in self.names:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                if error := self.broken(name):
                    raise error
                self.fetched.add(name)
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / name, snapshot / name)
        (store / "refs").mkdir(exist_ok=True)
        (store / "refs" / (revision or "main")).write_text(COMMIT)
        return str(snapshot)

    def parse_safetensors_file_metadata(
        self, repo_id: str, filename: str, *, revision: str | None
    ) -> Any:
        if error := self.broken(filename):
            raise error
        content = (self.folder / filename).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.pop("__metadata__", {})
        tensors = {name: TensorInfo(**entry) for name, entry in header.items()}
        return SafetensorsFileMetadata(metadata, tensors)


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The tiny model with what repositories hold besides: other formats, variants, pictures."""
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
    for name in ("model_info", "parse_safetensors_file_metadata"):
        called = getattr(fake, name)
        monkeypatch.setattr(
            huggingface_hub.HfApi, name, lambda _, *a, called=called, **k: called(*a, **k)
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


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_model_is_described_without_its_weights(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], variant: str | None
) -> None:
    shutil.rmtree(hub.folder / "safety_checker")  # isn't fetched, so isn't told as unused
    flags = [] if variant is None else ["--variant", variant]
    assert main([str(hub.folder), *flags]) == 0
    local = capsys.readouterr().out
    assert main([REPO, *flags]) == 0
    assert capsys.readouterr().out == local.replace(str(hub.folder), REPO)
    assert {Path(name).suffix for name in hub.fetched} == {".json", ".txt"}


def test_only_pickles_are_downloaded_to_be_described(hub: FakeHub, tmp_path: Path) -> None:
    for name in weights(""):
        (hub.folder / name).unlink()
    with pytest.raises(UserError, match=r"\.bin is not a PyTorch file"):
        open_model(ModelSource(path=REPO), epath.Path(tmp_path / "outline"))
    assert "unet/diffusion_pytorch_model.bin" in hub.fetched


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            errors.SafetensorsParsingError("no header"),
            f"unet/diffusion_pytorch_model.safetensors of {REPO} is not a safetensors file",
        ),
        (ConnectionError("reset by peer"), "was interrupted (ConnectionError: reset by peer)"),
    ],
)
def test_a_header_that_does_not_come(
    hub: FakeHub, tmp_path: Path, error: Exception, told: str
) -> None:
    hub.broken = lambda name: error if name.startswith("unet/diffusion") else None
    with pytest.raises(UserError) as caught:
        open_model(ModelSource(path=REPO), epath.Path(tmp_path / "outline"))
    assert told in str(caught.value)


@pytest.mark.parametrize("offsets", [["0", "64"], [0], None, {"0": 64}, [0, 2**63]])
def test_a_header_that_says_nothing_sensible(hub: FakeHub, tmp_path: Path, offsets: Any) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [16], "data_offsets": offsets}})
    path = hub.folder / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(64))
    with pytest.raises(UserError, match="is not a safetensors file, or is damaged"):
        open_model(ModelSource(path=REPO), epath.Path(tmp_path / "outline"))


@pytest.mark.parametrize("revision", [None, "v2"])
def test_offline_from_the_cache(hub: FakeHub, revision: str | None) -> None:
    source = ModelSource(path=REPO, revision=revision)
    online = open_model(source)
    hub.error = errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    assert open_model(source) == online  # and without a warning
    hub.error = ConnectionError("no route to host")
    with pytest.warns(UserWarning, match=f"can't be reached .* using the cached {REPO}"):
        assert open_model(source) == online


def test_an_answer_that_is_no_model_leaves_the_cached_copy(hub: FakeHub) -> None:
    online = open_model(ModelSource(path=REPO))
    hub.error = answer(errors.HfHubHTTPError, 429)
    with pytest.warns(UserWarning, match=rf"answers with an error \(HTTP 429.*cached {REPO}"):
        assert open_model(ModelSource(path=REPO)) == online


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
        (lambda: answer(errors.HfHubHTTPError, 503), "(HTTP 503, try again later)"),
        (lambda: answer(errors.HfHubHTTPError, 401), "(HTTP 401, the token isn't valid: `hf auth"),
        (lambda: answer(errors.HfHubHTTPError, 403), "(HTTP 403, no access: `hf auth login`"),
        (lambda: answer(errors.HfHubHTTPError, 404), "(HTTP 404, not found: check the name"),
        (lambda: answer(errors.HfHubHTTPError, 429), "(HTTP 429, too many requests: wait"),
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


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")],
)
def test_a_cache_that_is_full_or_not_ours(hub: FakeHub, number: int, told: str) -> None:
    hub.disk_error = OSError(number, os.strerror(number))
    with pytest.raises(UserError, match=f"can't be written to the Hub's cache, .*: {told}"):
        open_model(ModelSource(path=REPO))


def not_asked(cause: Exception) -> Exception:
    error = errors.LocalEntryNotFoundError("not on the disk\n\nCheck your connection")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: errors.HTTPError("timed out"), "HTTPError: timed out"),
        (lambda: ConnectionError("reset by peer"), "ConnectionError: reset by peer"),
        (
            lambda: RuntimeError("Data processing error\nin a chunk"),
            "RuntimeError: Data processing",
        ),
        (lambda: answer(errors.HfHubHTTPError, 503), "HTTP 503, try again later"),
        (lambda: not_asked(answer(errors.HfHubHTTPError, 429)), "HTTP 429, too many requests"),
        (lambda: not_asked(errors.HTTPError("timed out")), "HTTPError: timed out"),
    ],
)
def test_a_download_that_breaks_off_goes_on(
    hub: FakeHub, error: Callable[[], Exception], told: str
) -> None:
    hub.broken = lambda name: error() if name.startswith("unet/diffusion") else None
    message = refusal()
    assert f"the download of {REPO} was interrupted ({told}" in message and "\n" not in message
    assert message.endswith("): run the same command again to resume it")
    assert "model_index.json" in hub.fetched  # a mark of a cached copy
    hub.broken = lambda name: None
    assert "conv_in.bias" in open_model(ModelSource(path=REPO)).modules["unet"].tensors


def test_terms_of_a_model_that_tells_its_files(hub: FakeHub) -> None:
    hub.broken = lambda name: answer(errors.GatedRepoError, 403)
    assert "is gated: accept its terms" in refusal()


def test_without_a_network_there_is_no_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library itself, at an address where nobody answers."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UserError, match="and the Hub can't be reached"):
        open_model(ModelSource(path=REPO))
    assert time.monotonic() - start < 3
    assert not caplog.records


def refusal(**options: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_model(ModelSource(path=REPO, **options))
    return str(caught.value)


def test_a_variant_that_is_not_there(hub: FakeHub) -> None:
    told = refusal(variant="fp8")
    assert "text_encoder holds no variant 'fp8' of the weights: use --variant fp16" in told


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "is not a diffusers model (no model_index.json)"),
        ({"pytorch_lora_weights.safetensors": {}}, "is a LoRA"),
        ({"adapter_config.json": {}}, "is a LoRA"),
        ({"config.json": {"_class_name": "ControlNetModel"}}, "is a ControlNetModel"),
        ({"model_index.json": {"_class_name": "FluxPipeline"}}, "is Flux"),
        ({"transformer/config.json": {"_class_name": "SD3Transformer2DModel"}}, "Diffusion 3"),
        (
            {
                "model_index.json": {"_class_name": "StableDiffusionXLImg2ImgPipeline"},
                "unet/config.json": {},
                "text_encoder_2/config.json": {},
            },
            "is the refiner",
        ),
        (
            {
                "model_index.json": {},
                "unet/config.json": {"in_channels": 9},
                "vae/config.json": {},
                "text_encoder/config.json": {},
            },
            "is an inpainting model",
        ),
        (
            {
                "model_index.json": {},
                "unet/config.json": {"time_cond_proj_dim": 256},
                "vae/config.json": {},
                "text_encoder/config.json": {},
            },
            "is a Latent Consistency Model, whose U-Net takes the guidance scale: use the model",
        ),
        (
            {
                "model_index.json": {"_class_name": "StableDiffusionImageVariationPipeline"},
                "unet/config.json": {},
                "vae/config.json": {},
                "image_encoder/config.json": {},
            },
            "is a StableDiffusionImageVariationPipeline: a whole",
        ),
        (
            {
                "model_index.json": {"_class_name": "IFPipeline"},
                "unet/config.json": {},
                "text_encoder/config.json": {},
            },
            "is an IFPipeline: a whole",
        ),
    ],
)
def test_of_other_models_no_weights_are_fetched(
    hub: FakeHub, tmp_path: Path, files: dict[str, Any], told: str
) -> None:
    hub.folder = tmp_path / "other"
    for name in ("README.md", "unet/diffusion_pytorch_model.safetensors"):
        files = {name: None, **files}
    for name, content in files.items():
        (hub.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (hub.folder / name).write_text(json.dumps(content))
    message = refusal()
    assert told in message and f"{REPO} on the Hub" in message
    assert hub.fetched <= {name for name in files if name.endswith("config.json")} | {
        "model_index.json"
    }


@pytest.mark.parametrize("path", ["nowhere", "a/b/c", "../model", "owner/model name"])
def test_what_is_no_hub_id_is_not_asked_for(hub: FakeHub, path: str) -> None:
    hub.error = AssertionError("asked")
    with pytest.raises(UserError, match="does not exist: give a diffusers folder"):
        open_model(ModelSource(path=path))


def test_options_without_use_are_told(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match="is not on the Hub: leave out --revision 'v2'"):
        open_model(ModelSource(path=str(tiny_folder), revision="v2"))


def test_tokenizer_from_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.folder = Path(shutil.copytree(mini_folder() / "tokenizer", tmp_path / "whole"))
    (hub.folder / "model.safetensors").write_bytes(b"not needed")
    (hub.folder / "added_tokens.json").write_text('{"<cat>": 5000}')
    folder = tokenizer_folder(StoredTokenizer("openai/clip"))
    assert {path.name for path in folder.iterdir()} == set(hub.names) - {"model.safetensors"}
    hub.error = ConnectionError("no route to host")
    with pytest.raises(
        UserError, match=r"no tokenizer .--tokenizer gives a folder.*not in the Hub"
    ):
        tokenizer_folder(StoredTokenizer("openai/another"))
    assert tokenizer_folder(StoredTokenizer(str(tmp_path))) == epath.Path(tmp_path)


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
def test_tokenizer_offline(hub: FakeHub, tmp_path: Path, names: tuple[str, ...]) -> None:
    hub.folder = tmp_path / "words"
    hub.folder.mkdir()
    for name in names:
        (hub.folder / name).write_text("{}")
    online = tokenizer_folder(StoredTokenizer("openai/clip"))
    hub.error = errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    assert tokenizer_folder(StoredTokenizer("openai/clip")) == online
