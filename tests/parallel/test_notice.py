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


class Metadata(BaseHTTPRequestHandler):
    """Each value has changed once `taken` is set; until then a request for another one waits."""

    taken: threading.Event

    def do_GET(self) -> None:
        assert self.headers["Metadata-Flavor"] == "Google"
        url = urlparse(self.path)
        if parse_qs(url.query)["last_etag"] == ["before"]:
            self.taken.wait(10)
        value, etag = ("TRUE", "after") if self.taken.is_set() else ("FALSE", "before")
        self.send_response(200 if url.path.endswith("/preempted") else 503)
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Sets off the preemption."""
    Metadata.taken = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked
    yield Metadata.taken
    Metadata.taken.set()
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Google Cloud is taking this machine away")
def test_a_preemption_is_a_sigterm(taken: threading.Event) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        heed_notice()
        time.sleep(0.5)
        assert not heard  # nothing has changed yet
        taken.set()
        end = time.monotonic() + 10
        # Short sleeps: a signal just before one long wait would be heard only at its end.
        while not heard and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
