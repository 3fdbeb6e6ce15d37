# SPDX-License-Identifier: Apache-2.0
"""Several real processes as one run, over gloo: the same result, stopping together, losing one."""

import itertools
import json
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mrti_jax import train
from mrti_jax.concept import Concept
from mrti_jax.errors import UserError
from mrti_jax.parallel.processes import join, means_a_lost_process

from . import launch
from .meeting import NUM_PHOTOS

ENDLESS = 100_000
MEETING = Path(__file__).with_name("meeting.py")


def training(model: Path, out: Path, steps: int) -> list[str]:
    flags = {
        "model.path": model,
        "out": out,
        "train.steps": steps,
        "train.batch-size": 8,
        "train.metrics-every": 2,
        "optimizer.schedule": "constant",
    }
    return [f"--{key}={value}" for key, value in flags.items()] + ["--train.no-final-grid"]


def start_endless(model: Path, out: Path) -> Sequence[launch.Process]:
    """Two processes of two devices each that have trained a few steps."""
    processes = launch.start(["mrti_jax.train", *training(model, out, ENDLESS)], 2)
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert all(process.poll() is None for process in processes), launch.finish(processes)
        time.sleep(0.1)
    return processes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_stop_together_and_one_goes_on_to_the_same_table(
    tiny_folder: Path, tmp_path: Path
):
    processes = start_endless(tiny_folder, tmp_path / "cut")
    processes[1].send_signal(signal.SIGTERM)
    first, second = launch.finish(processes)
    assert (first[0], second[0]) == (75, 75), (first, second)
    assert "devices: 4 x cpu (cpu) in 2 processes | mesh: data 4, fsdp 1" in first[1]
    assert "devices:" not in second[1]  # one process speaks
    (done,) = {int(re.search(r"stopped after (\d+) of", end[2])[1]) for end in (first, second)}
    (saved,) = (tmp_path / "cut" / "checkpoints").iterdir()
    assert saved.name == str(done)

    more = done + 2
    assert train.main(training(tiny_folder, tmp_path / "cut", more)) == 0
    assert train.main(training(tiny_folder, tmp_path / "whole", more)) == 0
    cut, whole = (Concept.load(tmp_path / name) for name in ("cut", "whole"))
    # float32 rounding of gradients summed in another order, which Adam's first steps enlarge.
    np.testing.assert_allclose(cut.embeddings, whole.embeddings, rtol=0, atol=2e-5)
    assert cut.metadata == whole.metadata and cut.metadata["steps"] == str(more)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.long)])
def test_a_process_that_dies_ends_the_other_with_a_reason(
    lost: int, tiny_folder: Path, tmp_path: Path
):
    processes = start_endless(tiny_folder, tmp_path)
    since = time.monotonic()
    processes[lost].kill()
    other = launch.finish(processes)[1 - lost]
    assert time.monotonic() - since < 120  # a minute if nothing else is running
    if other[0] == 75:
        assert re.search(
            r"^error: a process of this run was lost.*same command again",
            other[2],
            re.MULTILINE,
        )
    else:  # JAX's own watch was faster: it aborts
        assert other[0] == -signal.SIGABRT and "another task died" in other[2]


@pytest.mark.long
def test_the_same_table_and_pictures_on_any_devices_in_any_processes(
    tiny_folder: Path, tmp_path: Path
):
    tables, pictures = {}, {}
    # Processes, devices of each, devices that hold the weights together.
    for layout in [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 8, 1), (2, 4, 1), (4, 2, 1), (2, 2, 2)]:
        *processes, fsdp = layout
        out = tmp_path / "x".join(map(str, layout))
        training_run = [*training(tiny_folder, out, steps=4), f"--model.fsdp={fsdp}"]
        sample = [
            "mrti_jax.sample",
            "--grid=a photo of a <jane[{k}]>",
            f"--concept={out}",
            f"--model={tiny_folder}",
            "--steps=2",
            "--grid-value=0",
            "--grid-value=9",
            f"--out={out / 'drawn'}",
            f"--fsdp={fsdp}",
        ]
        for command in (["mrti_jax.train", *training_run], sample):
            ended = launch.finish(launch.start(command, *processes))
            assert [status for status, *_ in ended] == [0] * processes[0], ended
        tables[layout] = Concept.load(out).embeddings
        drawn = sorted((out / "drawn").glob("*seed0.png"))
        assert len(drawn) == 2
        pictures[layout] = np.stack([np.asarray(Image.open(path)) for path in drawn])
    for one, other in itertools.pairwise(tables):
        np.testing.assert_allclose(tables[one], tables[other], rtol=0, atol=2e-5)
        # One grey level, where rounding tips it.
        assert np.abs(pictures[one].astype(int) - pictures[other]).max() <= 1


@pytest.mark.long
def test_two_processes_leave_the_last_pictures_together(tiny_folder: Path, tmp_path: Path):
    command = [*training(tiny_folder, tmp_path, steps=3), "--train.final-grid"]
    processes = launch.start(["mrti_jax.train", *command, "--train.picture-steps=500"], 2)
    while not (tmp_path / "checkpoints" / "3").exists():
        assert all(process.poll() is None for process in processes), launch.finish(processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    ended = launch.finish(processes)
    assert [status for status, *_ in ended] == [75, 75], ended
    assert all("stopped after 3 of 3 steps" in stderr for *_, stderr in ended)
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "missing", "told"),
    [
        ("train recipe.yaml --data.path=photos", "photos/a.png", "the folder 'photos' holds no"),
        ("train recipe.yaml --data.path=photos", "photos", "there is no folder of images"),
        ("train recipe.yaml --data.path=photos", "recipe.yaml", "there is no configuration file"),
        ("sample --prompts-file=prompts.txt", "prompts.txt", "the prompts file prompts.txt"),
    ],
)
def test_what_one_process_finds_wrong_ends_both_with_its_line(
    command: str, missing: str, told: str, tmp_path: Path
):
    for number in range(2):
        folder = tmp_path / f"{number}"
        (folder / "photos").mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / "photos" / "a.png")
        (folder / "recipe.yaml").write_text("concept: {name: rex, initializer: star}\n")
        (folder / "prompts.txt").write_text("a star\n")
    (tmp_path / "1" / missing).rename(tmp_path / "elsewhere")
    flags = f"mrti_jax.{command} --out={tmp_path / 'out'}".split()
    folders = [tmp_path / "0", tmp_path / "1"]
    ended = launch.finish(launch.start(flags, 2, folders=folders))
    assert [status for status, *_ in ended] == [2, 2], ended
    first, second = (stderr.splitlines()[-1] for *_, stderr in ended)
    assert first == second and f"process 1 of 2: {told}" in first


@pytest.mark.long
def test_drawing_ends_at_once_when_told_to(tiny_folder: Path):
    command = ["mrti_jax.sample", "a dog", f"--model={tiny_folder}", "--images-per-prompt=9999"]
    processes = launch.start(command, 2)
    assert processes[0].stdout is not None
    # Gloo may print messages of its own before.
    told = any("devices:" in line for line in processes[0].stdout)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert told, launch.finish(processes)
    assert [status for status, *_ in launch.finish(processes)] == [-signal.SIGTERM] * 2


@pytest.mark.long
@pytest.mark.parametrize("batch", [4, 6])
def test_a_batch_that_leaves_devices_idle(batch: int, tiny_folder: Path, tmp_path: Path):
    tables = []
    for devices in (1, 8):
        out = tmp_path / f"{devices}"
        flags = [*training(tiny_folder, out, steps=4), f"--train.batch-size={batch}"]
        ((status, stdout, stderr),) = launch.finish(
            launch.start(["mrti_jax.train", *flags], devices_each=devices)
        )
        assert status == 0, stderr
        tables.append(Concept.load(out).embeddings)
    assert f"batch: {batch}, up to 1 per device" in stdout
    assert f"{8 - batch} of 8 places" in stderr and "--train.batch-size 8 would" in stderr
    np.testing.assert_allclose(*tables, rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("at_once", [4, 3])  # concepts for each device, and shared by all
def test_many_concepts_in_two_processes(at_once: int, tiny_folder: Path, tmp_path: Path):
    colours = {"ann": "red", "bob": "blue", "cid": "green", "dan": "black"}
    for name, colour in colours.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "photos" / name / "0.png")
    shared = [
        f"--data.path={tmp_path / 'photos'}",
        "--concept.initializer=star",
        "--concept.num-buckets=2",
        f"--train.at-once={at_once}",
    ]
    for processes in (1, 2):
        out = tmp_path / f"{processes}"
        command = ["mrti_jax.train", *training(tiny_folder, out, steps=3), *shared]
        ended = launch.finish(launch.start(command, processes))
        assert [status for status, *_ in ended] == [0] * processes, ended
    for name in colours:
        one, two = (Concept.load(tmp_path / number / name) for number in ("1", "2"))
        np.testing.assert_allclose(one.embeddings, two.embeddings, rtol=0, atol=2e-5)
        assert (tmp_path / "2" / name / "checkpoints" / "3").is_dir()


@pytest.mark.long
@pytest.mark.parametrize("file", ["config.yaml", "pictures/step_000002.png"])
def test_what_the_writer_can_not_write_ends_that_concept_in_both(
    file: str, tiny_folder: Path, tmp_path: Path
):
    for name, colour in {"ann": "red", "bob": "blue", "cid": "green"}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "photos" / name / "0.png")
    (tmp_path / "out" / "bob" / file).mkdir(parents=True)
    flags = [
        *training(tiny_folder, tmp_path / "out", steps=3),
        f"--data.path={tmp_path / 'photos'}",
        "--concept.initializer=star",
        "--concept.num-buckets=2",
        "--train.at-once=2",
        "--train.picture-every=2",
        "--train.picture-steps=1",
    ]
    ended = launch.finish(launch.start(["mrti_jax.train", *flags], 2))
    assert [status for status, *_ in ended] == [2, 2], ended
    first, second = (stderr.splitlines()[-1] for *_, stderr in ended)
    assert first == second and re.search(r"<bob>: .*can't (write|read) .*out/bob", first)
    for name in ("ann", "cid"):
        assert Concept.load(tmp_path / "out" / name).metadata["steps"] == "3"


def test_what_processes_of_slurm_do_together(tmp_path: Path):
    """Each reads its part, and what one finds wrong ends all of them with the same words."""
    for photo in ("missing/0/a", "others/0/a", "others/0/b", "others/1/a", "others/1/c"):
        path = tmp_path / f"{photo}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    ended = launch.finish(launch.start_by_slurm(MEETING, str(tmp_path), num_processes=2))
    assert [status for status, *_ in ended] == [0, 0], ended
    first, second = (
        json.loads(stdout.splitlines()[-1]) for _, stdout, _ in ended
    )  # Gloo speaks too
    names = [str(i) for i in range(NUM_PHOTOS)]
    assert [first.pop("read"), second.pop("read")] == [names[::2], names[1::2]]
    assert first == second and first["photos"] == names
    missing, others, writer = first["said"]
    assert missing.startswith("process 1 of 2: there is no folder of images")
    assert re.search(r"differ between process 0 and process 1 \(b\.png, c\.png\)", others)
    assert writer.startswith("process 0 of 2: can't write") and "a.png/new" in writer


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: heartbeat timeout"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ValueError("shapes differ"), False),
        (OSError("Gloo is no file"), False),
    ],
)
def test_errors_that_mean_a_lost_process(error: Exception, lost: bool):
    assert means_a_lost_process(error) == lost


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distributed": "off", "num_processes": 2}, "contradicts"),
        (
            {"num_processes": 2, "process_id": 0},
            r"coordinator_address should be defined.*HOST:PORT",
        ),
        (
            {"coordinator": "localhost", "num_processes": 2, "process_id": 0},
            "'localhost', but must be HOST:PORT",
        ),
        (
            {"coordinator": "localhost:99999", "num_processes": 2, "process_id": 1},
            "'localhost:99999', but must be HOST:PORT",
        ),
        ({"coordinator": "localhost:1", "num_processes": 2, "process_id": 2}, "can't find"),
    ],
)
def test_processes_that_can_not_be_found(
    arguments: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    with pytest.raises(UserError, match=message):
        join(**arguments)
    join("auto")  # nothing mentions other processes: alone
