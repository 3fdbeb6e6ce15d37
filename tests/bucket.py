# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Cloud Storage: `gs://` in memory, for epath (fsspec) and for Orbax (tensorstore).

Orbax's arrays are written by tensorstore over HTTP, so the same memory is served on the loopback
interface, with as much of Cloud Storage's JSON API as tensorstore asks for.
"""

import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """All buckets; as in the real ones, objects can't be appended to."""

    protocol = ("gs", "gcs")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(re.sub("^gc?s://", "", path))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "a" in mode:
            raise NotImplementedError("objects can't be appended to")
        return super()._open(path, mode, **options)


class JsonApi(BaseHTTPRequestHandler):
    """https://cloud.google.com/storage/docs/json_api/v1/objects"""

    protocol_version = "HTTP/1.1"
    files = Bucket()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        bucket, name, query = self._address()
        if name is None:
            inside = [path.removeprefix(f"/{bucket}/") for path in self.files.find(bucket)]
            names = [name for name in sorted(inside) if name.startswith(query.get("prefix", ""))]
            self._reply(200, {"items": [self._describe(bucket, name) for name in names]})
            return
        path = f"{bucket}/{name}"
        if not self.files.isfile(path):
            self._reply(404, {})
            return
        if query.get("alt") != "media":
            self._reply(200, self._describe(bucket, name))
            return
        content = self.files.cat_file(path)
        headers = {"x-goog-generation": self._generation(path)}
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = wanted.groups()
            begin = int(first) if first else max(len(content) - int(last), 0)
            end = min(int(last) + 1, len(content)) if first and last else len(content)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
            self._reply(206, content[begin:end], headers)
        else:
            self._reply(200, content, headers)

    def do_POST(self) -> None:
        bucket, _, query = self._address()
        path = f"{bucket}/{query['name']}"
        content = self.rfile.read(int(self.headers["Content-Length"]))
        now = self._generation(path) if self.files.isfile(path) else "0"
        if query.get("ifGenerationMatch", now) != now:
            self._reply(412, {})
            return
        self.files.pipe_file(path, content)
        self._reply(200, self._describe(bucket, query["name"]))

    def do_DELETE(self) -> None:
        bucket, name, _ = self._address()
        there = self.files.isfile(f"{bucket}/{name}")
        if there:
            self.files.rm_file(f"{bucket}/{name}")
        self._reply(204 if there else 404, b"")

    def _address(self) -> tuple[str, str | None, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        parts = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o(?:/(.*))?", url.path)
        assert parts is not None, self.path
        bucket, name = parts.groups()
        query = dict(urllib.parse.parse_qsl(url.query))
        return bucket, None if name is None else urllib.parse.unquote(name), query

    def _generation(self, path: str) -> str:
        return str(int(1e6 * self.files.created(path).timestamp()))

    def _describe(self, bucket: str, name: str) -> dict[str, str]:
        path = f"{bucket}/{name}"
        size, generation = str(self.files.size(path)), self._generation(path)
        return {"bucket": bucket, "name": name, "size": size, "generation": generation}

    def _reply(
        self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def buckets(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, `gs://...` is in memory."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), JsonApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = sys.modules["fsspec.registry"]._registry  # type: ignore[attr-defined]
    patch.setitem(known, "gcs", Bucket)
    patch.setitem(known, "gs", Bucket)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    # Orbax asks Google's client library for it, which asks Google.
    question = "orbax.checkpoint._src.path.gcs_utils.is_hierarchical_namespace_enabled"
    patch.setattr(question, lambda path: False)
    cached = type(backend.fsspec_backend)._get_filesystem
    cached.cache_clear()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        cached.cache_clear()
        Bucket.store.clear()
        Bucket.pseudo_dirs[:] = [""]
