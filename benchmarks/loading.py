# SPDX-License-Identifier: Apache-2.0
"""Host memory and time of loading a Stable Diffusion of full size (random weights) in bfloat16:
ours, PyTorch diffusers', and for comparison reading the same files, casting and keeping that.

Each is a process of its own on the CPU; all find the files in the page cache, where they were just
written. Memory is what the process has beyond what its imports took. Pages of mapped files
(diffusers maps them, we read them) can be dropped by the system, so they are reported separately.
Processor time says more than wall time if something else is running.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import tyro
from etils import epath

from benchmarks.report import Report
from mrti_jax.models import export
from mrti_jax.models.checkpoint import stored_axes, tensor_name
from mrti_jax.models.frozen import abstract
from mrti_jax.models.parts import build_part
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.models.stored.safetensors_file import read_safetensors
from mrti_jax.planning.presets import PRESETS

Size = Literal["sd15", "sdxl"]
Loader = Literal["ours", "diffusers", "read and cast"]

ON_DISK: dict[Size, str] = {"sd15": "F32", "sdxl": "F16"}
MOST_MEMORY = 1.3
CHUNK = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Flags:
    size: tuple[Size, ...] = ("sd15", "sdxl")
    """Which models; sd15: 4.3 GB of float32 files, sdxl: 6.9 GB of float16 files."""
    folder: str | None = None
    """Where to write the models, which are deleted again; a temporary folder if not given."""
    diffusers: bool = True
    """Measure PyTorch's diffusers as well."""
    runs: int = 3
    """Processes of each kind; the median is reported."""
    out: str | None = None
    """File for the report."""
    measure: tuple[Loader, str] | None = None
    """For the processes that this one starts: what to load, and from where."""


def main(flags: Flags) -> None:
    """Writes each model, measures, deletes it."""
    if flags.measure is not None:
        print(json.dumps(measured(*flags.measure)))
        return
    report = Report("Loading a Stable Diffusion in bfloat16: host memory and seconds")
    report.line(f"load before: {os.getloadavg()[0]:.1f} (1 minute; it counts against the times)")
    for size in flags.size:
        with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
            parameters, on_disk = write_model(size, Path(folder))
            loaded = parameters * 2
            loaders: list[Loader] = ["read and cast", "ours"]
            rows = []
            for loader in [*loaders, "diffusers"] if flags.diffusers else loaders:
                results = [in_process(loader, folder) for _ in range(flags.runs)]
                median = {k: float(np.median([r[k] for r in results])) for k in results[0]}
                rows.append(row(loader, median, loaded))
        report.line()
        report.line(
            f"{size}: {parameters / 1e6:.0f} M parameters, {on_disk / 1e9:.2f} GB of "
            f"{ON_DISK[size]} on disk, {loaded / 1e9:.2f} GB loaded"
        )
        header = (
            "loader",
            "seconds",
            "of processor",
            "peak GB",
            "x loaded",
            "with mapped files GB",
        )
        report.table(header, rows)
    report.line()
    report.line(
        f"target for ours: a peak of at most {MOST_MEMORY} x the loaded size, and no more "
        "seconds than reading and casting"
    )
    report.end(flags.out)


def row(loader: Loader, result: dict[str, float], loaded: int) -> tuple[str, ...]:
    """A line of the table."""
    peak = result["peak"]
    seconds, cpu = f"{result['seconds']:.1f}", f"{result['cpu_seconds']:.1f}"
    with_mapped = f"{result['with_mapped'] / 1e9:.2f}"
    return loader, seconds, cpu, f"{peak / 1e9:.2f}", f"{peak / loaded:.2f}", with_mapped


def write_model(size: Size, folder: Path) -> tuple[int, int]:
    """Writes a diffusers folder with random weights; gives its parameters and bytes of weights."""
    parameters = 0
    preset = PRESETS[size]
    suffixes = ("", "_2")[: len(preset.text)]
    configs: dict[str, Any] = {
        f"text_encoder{suffix}": text for suffix, text in zip(suffixes, preset.text, strict=True)
    }
    for part, config in {**configs, "unet": preset.unet, "vae": preset.vae}.items():
        (folder / part).mkdir(parents=True)
        if part.startswith("text_encoder"):
            suffix = part.removeprefix("text_encoder")
            name = "model.safetensors"
            kind = "CLIPTextModelWithProjection" if suffix else "CLIPTextModel"
            about = {"architectures": [kind], "model_type": "clip_text_model"}
            described = dataclasses.asdict(config) | about
            copy_tokenizer(folder / f"tokenizer{suffix}")
        else:
            name = export.WEIGHTS
            described = (
                export.unet_config(config) if part == "unet" else export.vae_config(config, 512)
            )
        (folder / part / "config.json").write_text(json.dumps(described))
        _, weights = abstract(partial(build_part, part, config, jnp.float32))
        shapes = {}
        for keys, want in weights:
            axes = stored_axes(keys, len(want.shape))
            tensor = tensor_name(keys)
            if part == "text_encoder_2" and not tensor.startswith("text_projection"):
                tensor = f"text_model.{tensor}"
            shapes[tensor] = [want.shape[axes.index(axis)] for axis in range(len(axes))]
        parameters += write_weights(folder / part / name, shapes, ON_DISK[size])
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(preset.scheduler)))
    index = export.model_index(preset.scheduler["_class_name"], suffixes)
    (folder / "model_index.json").write_text(json.dumps(index))
    return parameters, sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def write_weights(path: Path, shapes: dict[str, list[int]], dtype: str) -> int:
    """A safetensors file with the same random numbers over and over; gives how many."""
    scalar = np.float32 if dtype == "F32" else np.float16
    pattern = np.random.default_rng(0).standard_normal(2**22).astype(scalar).tobytes()
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * np.dtype(scalar).itemsize
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries | {"__metadata__": {"format": "pt"}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, end, len(pattern)):
            file.write(pattern[: end - start])
    return end // np.dtype(scalar).itemsize


def copy_tokenizer(folder: Path) -> None:
    """The embedded model's: loading it takes no less."""
    folder.mkdir()
    for path in (mini_folder() / "tokenizer").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def in_process(loader: Loader, folder: str) -> dict[str, float]:
    """`measured` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--measure", loader, folder]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(loader: Loader, folder: str) -> dict[str, float]:
    """Seconds of loading, and the peak memory (bytes) meanwhile, beyond the imports'."""
    load = LOADERS[loader](folder)
    before = memory()
    peaks = dict(before)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for kind, value in memory().items():
                peaks[kind] = max(peaks[kind], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu_start = time.monotonic(), time.process_time()
    kept = load()
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    done.set()
    watcher.join()
    del kept
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    return times | {kind: float(peaks[kind] - before[kind]) for kind in peaks}


def memory() -> dict[str, int]:
    """Bytes that this process holds, without and with the pages of mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kib = {line.partition(":")[0]: line.split()[1] for line in status if line.startswith("Rss")}
    own = 1024 * (int(kib["RssAnon"]) + int(kib["RssShmem"]))
    return {"peak": own, "with_mapped": own + 1024 * int(kib["RssFile"])}


def chunks(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, in one buffer."""
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb") as file:
        while count := file.readinto(buffer):
            yield buffer[:count]


def ours(folder: str) -> Callable[[], Any]:
    import jax

    from mrti_jax.models.stable_diffusion import StableDiffusion

    jax.devices()

    def load() -> Any:
        sd = StableDiffusion.load(folder, dtype=jnp.bfloat16)
        return sd, jax.block_until_ready(sd.params)

    return load


def diffusers(folder: str) -> Callable[[], Any]:
    import torch
    from diffusers import DiffusionPipeline

    return partial(
        DiffusionPipeline.from_pretrained, folder, torch_dtype=torch.bfloat16, local_files_only=True
    )


def read_and_cast(folder: str) -> Callable[[], Any]:
    paths = list(Path(folder).rglob("*.safetensors"))
    tensors, _ = read_safetensors(epath.Path(paths[0]))
    dtype = next(iter(tensors.values())).dtype

    def load() -> list[np.ndarray]:
        return [
            np.frombuffer(chunk[: len(chunk) // 4 * 4], dtype).astype(ml_dtypes.bfloat16)
            for path in paths
            for chunk in chunks(path)
        ]

    return load


LOADERS: dict[Loader, Callable[[str], Callable[[], Any]]] = {
    "ours": ours,
    "diffusers": diffusers,
    "read and cast": read_and_cast,
}


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
