# SPDX-License-Identifier: Apache-2.0
"""Google Cloud's notice of a preemption, from a stand-in for its metadata server."""

import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from mrti_jax.parallel.notice import heed_notice

NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}


class Metadata(BaseHTTPRequestHandler):
    """Each value has changed once its key is `taken`; until then a request for another one waits.

    The first request for each fails.
    """

    taken: dict[str, threading.Event]
    asked: set[str]

    def do_GET(self) -> None:
        assert self.headers["Metadata-Flavor"] == "Google"
        url = urlparse(self.path)
        key = url.path.rpartition("/")[2]
        taken = self.taken[key]
        if parse_qs(url.query)["last_etag"] == ["before"]:
            taken.wait(10)
        value, etag = (NOTICES[key], "after") if taken.is_set() else ("NONE", "before")
        self.send_response(200 if key in self.asked else 503)
        self.asked.add(key)
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, threading.Event]]:
    """Sets off each kind of notice."""
    Metadata.taken, Metadata.asked = {key: threading.Event() for key in NOTICES}, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked
    monkeypatch.setattr("mrti_jax.parallel.notice._RETRY_SECONDS", 0.01)
    yield Metadata.taken
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Google Cloud is taking this machine away")
def test_each_notice_is_a_sigterm(taken: dict[str, threading.Event]) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        heed_notice()
        time.sleep(0.5)
        assert not heard  # nothing has changed yet
        for number, event in enumerate(taken.values(), start=1):
            event.set()
            end = time.monotonic() + 10
            # Short sleeps: a signal just before one long wait would be heard only at its end.
            while len(heard) < number and time.monotonic() < end:
                time.sleep(0.01)
            assert heard == [signal.SIGTERM] * number
    finally:
        signal.signal(signal.SIGTERM, before)
