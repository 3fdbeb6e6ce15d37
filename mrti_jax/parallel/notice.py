# SPDX-License-Identifier: Apache-2.0
"""Google Cloud's notice that this machine is about to be taken away, from its metadata server: a
shutdown's SIGTERM comes later, and does not reach every container.
"""

import os
import signal
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

from mrti_jax.errors import warn

# The values of the instance's metadata that are a notice, by key.
NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}
_PRODUCT = Path("/sys/class/dmi/id/product_name")
_RETRY_SECONDS = 5
_WAIT_SECONDS = 300


def heed_notice() -> None:
    """From now on, turns a notice into a SIGTERM to this process; does nothing on other machines.

    GCE_METADATA_HOST names another metadata server, as for Google's own libraries.
    """
    host = os.environ.get("GCE_METADATA_HOST")
    if host is None:
        if not (_PRODUCT.exists() and "Google" in _PRODUCT.read_text()):
            return
        host = "metadata.google.internal"
    for key in NOTICES:
        threading.Thread(target=_heed, args=(host, key), daemon=True).start()


def _heed(host: str, key: str) -> None:
    """Waits until a metadata value is a notice, and passes it on."""
    value, etag = "", "0"
    while value != NOTICES[key]:
        try:
            value, etag = _changed(host, key, etag)
        except (OSError, HTTPException):
            time.sleep(_RETRY_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    warn(f"Google Cloud is taking this machine away ({key}: {value})")


def _changed(host: str, key: str, etag: str) -> tuple[str, str]:
    """The value and its ETag, as soon as it differs from that of `etag`, or after a while."""
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{key}?wait_for_change=true"
        f"&last_etag={etag}&timeout_sec={_WAIT_SECONDS}",
        headers={"Metadata-Flavor": "Google"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=_WAIT_SECONDS + 30) as answer:
        return answer.read().decode().strip(), answer.headers["ETag"]
