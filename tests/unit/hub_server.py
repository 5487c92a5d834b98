"""A server on the loopback interface that answers as the Hugging Face hub and as a plain web server do, and fails on
request.

/<owner>/<repo>/resolve/<revision>/<file>   302 to /cdn/… with the X-Linked headers (large files), or the file (small
ones) /cdn/<sha256>                               the bytes, with Range /plain/<file>                               the
bytes, with ETag and Range, no checksum
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    method: str
    path: str
    range: str
    token: str
    if_range: str = ""


@dataclass
class Faults:
    """What goes wrong, each by default not at all."""

    status: dict[str, list[int]] = field(default_factory=dict)  # method → answers to give before the right one
    cuts: list[int] = field(default_factory=list)  # for each of the next downloads, after how many bytes it is cut
    announced_size: int | None = None
    announced_sha256: str = ""
    ignore_range: bool = False
    page: bytes = b""  # a web page instead of the file
    page_type: str = "text/html"
    head_missing: bool = False  # HEAD is not implemented
    slow: threading.Event | None = None  # downloads wait for it half-way
    silent: threading.Event | None = None  # no answer to anything before it is set
    drip: float = 0.0  # seconds before each single byte of a download
    endless: bool = False  # downloads announce no size and never end


class Hub:
    """`with Hub() as hub: hub.put("owner/name", "file", content)`; `hub.url` is what HF_ENDPOINT takes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.small: set[str] = set()
        self.renamed: dict[str, str] = {}  # old repository id → new one
        self.requests: list[Request] = []
        self.faults = Faults()
        self.halfway = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}"  # another host name, as the hub's storage has

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, repo: str, name: str, content: bytes, small: bool = False) -> None:
        """Publish a file; `small` ones are kept in git itself and have git's blob hash as their etag."""
        path = f"/{repo}/resolve/main/{name}"
        for key in (
            path,
            path.replace("/main/", f"/{COMMIT}/"),
            f"/cdn/{hashlib.sha256(content).hexdigest()}",
            f"/plain/{name}",
        ):
            self.files[key] = content
            if small and "/resolve/" in key:
                self.small.add(key)

    def downloads(self) -> list[Request]:
        """The requests for bytes, redirects left out."""
        return [request for request in self.requests if request.method == "GET" and "/resolve/" not in request.path]

    def answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        path, faults = handler.path, self.faults
        wanted = handler.headers.get("Range", "")
        if_range = handler.headers.get("If-Range", "")
        self.requests.append(Request(handler.command, path, wanted, handler.headers.get("Authorization", ""), if_range))
        if faults.silent:
            faults.silent.wait(60)
        codes = faults.status.get(handler.command, [])
        if codes:
            return self.send(handler, codes.pop(0), {}, b"", body)
        if faults.head_missing and not body:
            return self.send(handler, 405, {}, b"", body)
        old = next((repo for repo in self.renamed if path.startswith(f"/{repo}/")), "")
        if old:
            return self.send(handler, 307, {"Location": path.replace(old, self.renamed[old], 1)}, b"", body)
        if path not in self.files:
            missing = {"X-Error-Code": "EntryNotFound"} if "/resolve/" in path else {}
            return self.send(handler, 404, missing, b"", body)
        content = self.files[path]
        if "/resolve/" in path:
            return self.resolve(handler, path, content, body)
        if faults.page and body:
            return self.send(handler, 200, {"Content-Type": faults.page_type}, faults.page, body)
        self.bytes(handler, content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}, wanted, body)

    def resolve(self, handler: BaseHTTPRequestHandler, path: str, content: bytes, body: bool) -> None:
        """As the hub: X-Repo-Commit, and where the bytes are."""
        headers = {"X-Repo-Commit": COMMIT}
        if path in self.small:
            headers["ETag"] = f'"{hashlib.sha1(b"blob %d%c" % (len(content), 0) + content).hexdigest()}"'
            return self.bytes(handler, content, headers, handler.headers.get("Range", ""), body)
        sha256 = hashlib.sha256(content).hexdigest()
        size = self.faults.announced_size if self.faults.announced_size is not None else len(content)
        linked = self.faults.announced_sha256 or sha256
        headers |= {
            "X-Linked-Size": str(size),
            "X-Linked-Etag": f'"{linked}"',
            "ETag": f'"{sha256[:32]}"',
            "Location": f"{self.cdn}/cdn/{sha256}",
        }
        return self.send(handler, 302, headers, b"", body)

    def bytes(
        self, handler: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], wanted: str, body: bool
    ) -> None:
        """The file, from where Range says."""
        if handler.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag"):
            wanted = ""
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not self.faults.ignore_range else 0
        if start >= len(content) > 0 and start:
            return self.send(handler, 416, {"Content-Range": f"bytes */{len(content)}"}, b"", body)
        if start:
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send(handler, 206 if start else 200, headers, content[start:], body)

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, body: bool
    ) -> None:
        endless = self.faults.endless and bool(content)
        length = {} if endless else {"Content-Length": str(len(content))}
        handler.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **headers, **length}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if not (body and content):
            handler.close_connection = handler.close_connection or endless
            return
        with contextlib.suppress(OSError):  # whoever asked may have had enough
            self.write(handler, content, endless)

    def write(self, handler: BaseHTTPRequestHandler, content: bytes, endless: bool) -> None:
        """The body, as the faults have it."""
        while endless:
            handler.wfile.write(content)
        if self.faults.drip:
            handler.close_connection = True
            for byte in content:
                handler.wfile.write(bytes([byte]))
                time.sleep(self.faults.drip)
        if self.faults.slow:
            handler.wfile.write(content[: len(content) // 2])
            self.halfway.set()
            self.faults.slow.wait(20)
            content = content[len(content) // 2 :]
        if self.faults.cuts:
            handler.wfile.write(content[: self.faults.cuts.pop(0)])
            handler.close_connection = True
            return
        handler.wfile.write(content)
