"""A model hub on the loopback, for tests of fetching: one repository over one folder."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """The part of the hub's protocol that fetching a model takes.

    After `stall_after` bytes of a body nothing more comes, once, until `go_on` is set; `stalled` says that it is so.
    The file `alters` comes with another content than the one that its ETag is of.
    """

    daemon_threads = True
    commit = "a" * 40

    def __init__(self, repository: str, folder: Path) -> None:
        self.repository, self.folder = repository, folder
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.alters: str | None = None
        self.stall_after: int | None = None
        self.stalled, self.go_on = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class HubRequest(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.asked.append(self.path)
        head, _, name = self.path.partition(f"/resolve/{hub.commit}/")
        asked = self.path.partition("?")[0]
        if asked in (f"/api/models/{hub.repository}/revision/{name}" for name in ("main", hub.commit)):
            files = [{"rfilename": name, "size": path.stat().st_size} for name, path in self.files()]
            self.answer(json.dumps({"id": hub.repository, "sha": hub.commit, "siblings": files}).encode())
        elif self.path.startswith(f"/api/models/{hub.repository}/tree/{hub.commit}"):
            tree = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": f"{at:040x}"}
                for at, (name, path) in enumerate(self.files())
            ]
            self.answer(json.dumps(tree).encode())
        elif name and head == f"/{hub.repository}":
            self.send_file(hub.folder / name)
        else:
            self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

    def files(self) -> list[tuple[str, Path]]:
        folder = self.server.folder
        return [
            (path.relative_to(folder).as_posix(), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def send_file(self, path: Path) -> None:
        """Weights have their SHA-256 as ETag, as on the hub; small files a shorter one."""
        body = path.read_bytes()
        digest = hashlib.sha256 if path.suffix == ".safetensors" else hashlib.sha1
        tag = digest(body).hexdigest()
        if path.name == self.server.alters:
            body = body[:-1] + b"!"
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": self.server.commit, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            return self.answer(body, headers)
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self.answer(body[start:], headers, 206)

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.server
        if hub.stall_after is None or len(body) <= hub.stall_after:
            self.wfile.write(body)
            return
        self.wfile.write(body[: hub.stall_after])
        hub.stall_after = None
        hub.stalled.set()
        hub.go_on.wait()  # and then the connection is closed
