"""A hub on this machine for `huggingface_hub` and `modelscope_hub` that misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # the newest
OLDER = "89abcdef0123456789abcdef0123456789abcdef"
LARGE = 1 << 16  # bytes from which a file is kept by LFS, with a SHA-256 instead of Git's hash


class HubServer:
    """Serve `files` (name to bytes) as the model org/tiny; use as a context manager.

    `altered` replaces what is sent for a name (not what is announced), `cut` ends the connection
    once after so many bytes of a file, `hold` sends so many bytes and then nothing until `release`
    is set. `token` is what a gated model asks for. `seen` collects (method, path, Range header),
    `leaked` says whether a token came where the content is stored, which is another host.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.altered: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.hold: dict[str, int] = {}
        self.release = threading.Event()
        self.token: str | None = None
        self.leaked = False
        self.seen: list[tuple[str, str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def transfers(self, name: str) -> list[str | None]:
        """Return the Range headers of the requests for that file's content, in order."""
        return [header for method, path, header in self.seen if method == "GET" and path == name]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            path = address.path
            if path.startswith("/api/v1/models/org/tiny/repo"):
                self._modelscope(path, query)
            elif path.startswith("/api/models/org/tiny"):
                self._huggingface(path)
            elif match := re.fullmatch(rf"/org/tiny/resolve/(?:{COMMIT}|{OLDER})/(.+)", path):
                if not self._refused({"X-Error-Code": "GatedRepo"}):
                    self._content_or_storage(match[1])
            elif path.startswith("/storage/"):
                hub.leaked |= "Authorization" in self.headers
                self._content(path.removeprefix("/storage/"))
            else:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def _huggingface(self, path: str) -> None:
            if "/tree/" in path:
                self._json([self._entry(name, content) for name, content in hub.files.items()])
                return
            asked = path.partition("/revision/")[2] or COMMIT
            if asked in (COMMIT, OLDER):
                self._json({"id": "org/tiny", "sha": asked, "siblings": []})
            else:
                self._json({"error": "no commit"}, 404, {"X-Error-Code": "RevisionNotFound"})

        @staticmethod
        def _entry(name: str, content: bytes) -> dict[str, Any]:
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
            if len(content) >= LARGE:
                lfs = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
                entry |= {"oid": "0" * 40, "lfs": lfs}
            return entry

        def _modelscope(self, path: str, query: dict[str, str]) -> None:
            if path.endswith("/files"):
                files = [
                    {"Path": n, "Name": n, "Type": "blob", "Size": len(c), "Sha256": sha256(c)}
                    for n, c in hub.files.items()
                ]
                self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
            elif not self._refused({}):
                self._content(query["FilePath"])

        def _refused(self, headers: dict[str, str]) -> bool:
            if hub.token is None or self.headers.get("Authorization") == f"Bearer {hub.token}":
                return False
            self._json({"Code": 403, "Message": "accept the licence"}, 403, headers)
            return True

        def _content_or_storage(self, name: str) -> None:
            """Send a large file's client to another host, as the hub does."""
            if len(hub.files[name]) < LARGE:
                self._content(name)
                return
            self.send_response(302)
            self.send_header(
                "Location", f"{hub.url.replace('127.0.0.1', 'localhost')}/storage/{name}"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _json(
            self, value: Any, status: int = 200, headers: dict[str, str] | None = None
        ) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _content(self, name: str) -> None:
            hub.seen.append((self.command, name, self.headers.get("Range")))
            content = hub.altered.get(name, hub.files[name])
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            start = int(match[1]) if match else 0
            end = int(match[2]) + 1 if match and match[2] else len(content)
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if self.command != "HEAD":
                self._send(name, content[start:end])

        def _send(self, name: str, body: bytes) -> None:
            try:
                if name in hub.cut:
                    self.wfile.write(body[: hub.cut.pop(name)])
                    self.close_connection = True
                elif name in hub.hold:
                    count = hub.hold.pop(name)
                    self.wfile.write(body[:count])
                    self.wfile.flush()
                    hub.release.wait()
                    self.wfile.write(body[count:])
                else:
                    self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client was killed, as the test wanted

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
