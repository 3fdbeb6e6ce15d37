# SPDX-License-Identifier: Apache-2.0
"""Checks that JAX uses this machine's accelerator, rather than silently the CPU."""

from pathlib import Path

import jax

from mrti_jax.errors import UserError
from mrti_jax.files import reason

GOOGLE_PCI_VENDOR = "0x1ae0"
TPU_PCI_DEVICES = frozenset(["0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"])
INSTALL = {"TPU": "'.[tpu]'", "NVIDIA GPU": "'.[cuda13]' (or '.[cuda12]' for older drivers)"}
PLATFORM = {"TPU": "tpu", "NVIDIA GPU": "cuda"}


def check_accelerator(root: Path = Path("/")) -> None:
    """Raises UserError if JAX would run on the CPU of a machine that has a TPU or an NVIDIA GPU, or
    can't run at all.

    If the CPU was chosen (JAX_PLATFORMS), that choice holds. `root`: the folder of /dev, /sys and
    /usr.
    """
    chosen = jax.config.values.get("jax_platforms") or ""
    try:
        used = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # a missing plugin fails an assertion
        raise UserError(
            f"JAX can't use what JAX_PLATFORMS={chosen} asks for ({reason(error)}): install JAX "
            "for it (`pip install -e` with '.[tpu]', '.[cuda13]' or '.[cuda12]'), or choose another"
        ) from error
    if chosen.split(",")[0] == "cpu" or used != "cpu":
        return
    found = find_accelerator(root)
    if found is None:
        return
    why = ""
    try:
        jax.devices(PLATFORM[found])
    except RuntimeError as error:
        why = f" ({reason(error)})"
    raise UserError(
        f"this machine has a {found}, but JAX would run on the CPU{why}: install JAX for it, "
        f"`pip install -e {INSTALL[found]}`, or set JAX_PLATFORMS=cpu if the CPU is what you want"
    )


def find_accelerator(root: Path = Path("/")) -> str | None:
    """ "TPU" or "NVIDIA GPU" if the system has such a device, whatever is installed for it."""
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        kind = vendor.read_text().strip(), vendor.with_name("device").read_text().strip()
        if kind[0] == GOOGLE_PCI_VENDOR and kind[1] in TPU_PCI_DEVICES:
            return "TPU"
    in_wsl = (root / "usr/lib/wsl/lib/nvidia-smi").exists()  # there the GPU has another device file
    if in_wsl or any((root / "dev").glob("nvidia[0-9]*")):
        return "NVIDIA GPU"
    return None
