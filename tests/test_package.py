# SPDX-License-Identifier: Apache-2.0
"""What `import mrti_jax` gives, and what it costs."""

import subprocess
import sys

import pytest

import mrti_jax


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


HEAVY = "{'jax', 'numpy', 'ml_dtypes', 'flax', 'transformers', 'torch'}"


def test_importing_the_package_imports_nothing_heavy() -> None:
    result = run(f"import mrti_jax, sys; print({HEAVY} & set(sys.modules))")
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("command", ["train", "sample", "plan"])
def test_help_imports_nothing_heavy(command: str) -> None:
    result = run(
        f"import sys, mrti_jax.{command} as command\n"
        "try: command.main(['--help'])\n"
        f"finally: print({HEAVY} & set(sys.modules), file=sys.stderr)\n"
    )
    assert "--help" in result.stdout
    assert result.stderr == "set()\n"


def test_public_names() -> None:
    assert all(callable(getattr(mrti_jax, name)) for name in mrti_jax.__all__)
    assert set(mrti_jax.__all__) <= set(dir(mrti_jax))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'mrti_jax' has no attribute 'lern'"):
        mrti_jax.lern  # noqa: B018


def test_nobody_is_told_to_install_pytorch() -> None:
    hide_torch = "import sys; sys.modules['torch'] = None\n"
    result = run(hide_torch + "from mrti_jax import StableDiffusion")
    assert "PyTorch" not in result.stderr
