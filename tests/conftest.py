# SPDX-License-Identifier: Apache-2.0
"""What all tests share: two CPU devices, checked array shapes, and tiny models.

Each array annotation of the package is checked at every call (jaxtyping with beartype).
"""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before jax is imported. Two devices, so that every program is a sharded one; with fewer pool
# threads than NPROC asks for, sharded CPU programs can deadlock on machines with few cores.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the time goes to compiling programs that run for milliseconds.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and version("jax").startswith("0.10."):
    # A third off; later versions have no other way of compiling, and end at a flag they don't know.
    # In one part, as in several it rounds differently.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("mrti_jax", "typechecker.check")

import fuzz  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from tiny import save_tiny  # noqa: E402

from mrti_jax.models.stable_diffusion import StableDiffusion  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch") is None:
        skip = pytest.mark.skip(reason="PyTorch is not installed")
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(skip)
    # A process takes a file at a time: those with slow tests first, so that none is left for last.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder shaped like SD 1.x: epsilon, PNDM, latents 8x8, pictures 16x16."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "sd1", "sd1")


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder shaped like SD 2.x: v_prediction, linear projections, GELU, pads with !"""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "sd2", "sd2")


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder shaped like SDXL: two text models, pooled text and sizes, Euler."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "xl", "xl")


@pytest.fixture(scope="session")
def tiny_sd(tiny_folder: Path) -> StableDiffusion:
    return StableDiffusion.load(tiny_folder)


@pytest.fixture(scope="session")
def tiny_v_sd(tiny_v_folder: Path) -> StableDiffusion:
    return StableDiffusion.load(tiny_v_folder)


@pytest.fixture(scope="session")
def tiny_xl_sd(tiny_xl_folder: Path) -> StableDiffusion:
    return StableDiffusion.load(tiny_xl_folder)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """An entry for every program that XLA compiles or takes from the compilation cache."""
    events: list[str] = []
    watching = True

    def listen(event: str, duration: float, **_: object) -> None:
        if watching and event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    watching = False  # a listener can't be removed again


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Adds the cases that a worker process has run to those of this one."""
    fuzz.ran.update(getattr(node, "workeroutput", {}).get("cases", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cases"] = dict(fuzz.ran)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if fuzz.ran:
        terminalreporter.section("generated cases")
        for name, number in sorted(fuzz.ran.items()):
            terminalreporter.line(f"{number:8,} {name}")
        terminalreporter.line(f"{fuzz.ran.total():8,} in all")
