# SPDX-License-Identifier: Apache-2.0
"""A path of a store that is unknown or can't be reached is one line and status 2."""

import importlib
import sys
from collections.abc import Callable

import pytest

from mrti_jax import sample, train
from mrti_jax.models import __main__ as models

OWN = ["--concept.name", "rex", "--concept.initializer", "heart"]


def without_gcsfs(patch: pytest.MonkeyPatch) -> None:
    known = importlib.import_module("fsspec.registry")._registry
    patch.delitem(known, "gs", raising=False)
    patch.setitem(sys.modules, "gcsfs", None)


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("ftp", "no store's paths start with 'ftp://'"),
        ("gs", "pip install -e '.[gcs]'"),
    ],
)
@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (train.main, ["STORE://x/a.yaml"]),
        (train.main, ["--out", "STORE://x/a"]),
        (train.main, ["--data.path", "STORE://x/a", *OWN]),
        (train.main, ["--model.path", "STORE://x/a"]),
        (sample.main, ["a star", "--model", "STORE://x/a"]),
        (sample.main, ["a star", "--tokenizer", "STORE://x/a"]),
        (sample.main, ["a star", "--concept", "STORE://x/a"]),
        (sample.main, ["a star", "--out", "STORE://x/a"]),
        (sample.main, ["--prompts-file", "STORE://x/a"]),
        (models.main, ["STORE://x/a"]),
    ],
)
def test_a_store_that_can_not_be_reached(
    main: Callable[[list[str]], int],
    argv: list[str],
    store: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_gcsfs(monkeypatch)
    assert main([word.replace("STORE", store) for word in argv]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: '{store}://x/a") and reason in error
    assert "\n" not in error


def test_a_web_page_of_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["https://huggingface.co/owner/model/tree/main"]) == 2
    assert "is a web page: give its Hub id, 'owner/model'" in capsys.readouterr().err
