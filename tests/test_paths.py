# SPDX-License-Identifier: Apache-2.0
"""A path that looks like a store's, but is of none that is known, is one line and status 2."""

from collections.abc import Callable

import pytest

from mrti_jax import sample, train
from mrti_jax.models import __main__ as models

OWN = ["--concept.name", "rex", "--concept.initializer", "heart"]


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (train.main, ["ftp://x/a.yaml"]),
        (train.main, ["--out", "ftp://x/a"]),
        (train.main, ["--data.path", "ftp://x/a", *OWN]),
        (train.main, ["--model.path", "ftp://x/a"]),
        (sample.main, ["a star", "--model", "ftp://x/a"]),
        (sample.main, ["a star", "--tokenizer", "ftp://x/a"]),
        (sample.main, ["a star", "--concept", "ftp://x/a"]),
        (sample.main, ["a star", "--out", "ftp://x/a"]),
        (sample.main, ["--prompts-file", "ftp://x/a"]),
        (models.main, ["ftp://x/a"]),
    ],
)
def test_an_unknown_store(
    main: Callable[[list[str]], int], argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: 'ftp://x/a") and "no store's paths start with 'ftp://'" in error
    assert "\n" not in error


def test_a_web_page_of_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["https://huggingface.co/owner/model/tree/main"]) == 2
    assert "is a web page: give its Hub id, 'owner/model'" in capsys.readouterr().err
