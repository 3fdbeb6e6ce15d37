# SPDX-License-Identifier: Apache-2.0
"""What all commands share: warnings beside a bar, the compilation cache."""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
from tqdm import tqdm

from mrti_jax.commands import run_command, use_compilation_cache


@dataclass
class NoFlags:
    """None."""


def test_a_warning_has_a_line_of_its_own_beside_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def body(flags: NoFlags) -> None:
        with tqdm(total=2, file=sys.stderr) as bar:
            bar.update()
            warnings.warn("the lamp\nis on", UserWarning, stacklevel=1)

    assert run_command(NoFlags, body, [], prog="lamp", description="") == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "warning: the lamp is on" in lines


@pytest.fixture
def no_compilation_cache() -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("no_compilation_cache")
def test_the_compilation_cache_is_among_the_users_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mrti_jax" / "xla")


@pytest.mark.usefixtures("no_compilation_cache")
def test_a_user_without_a_home_has_no_compilation_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
