"""A hub of one folder, for huggingface_hub's own client: the few requests that it makes.

Repositories are folders ``root/owner/name``. Every commit of a folder is called by a hash of its
files; a push writes into the folder.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


def _commit(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha1(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


class _Hub(BaseHTTPRequestHandler):
    root: Path
    log: list[str]

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _folder(self, repo: str) -> Path | None:
        folder = self.root / repo
        if not folder.is_dir():
            self._send({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        return folder

    def do_GET(self) -> None:
        self.log.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/([^/]+))?", path):
            if (folder := self._folder(match[1])) is not None:
                files = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
                self._send({"id": match[1], "sha": _commit(folder), "siblings": files})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if (folder := self._folder(match[1])) is not None:
                self._send(
                    [
                        {
                            "type": "file",
                            "path": p.name,
                            "size": p.stat().st_size,
                            "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
                        }
                        for p in sorted(folder.iterdir())
                    ]
                )
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (folder := self._folder(match[1])) is not None:
                file = folder / match[3]
                if not file.is_file():
                    return self._send({}, 404, X_Error_Code="EntryNotFound")
                data = file.read_bytes()
                tag = f'"{hashlib.sha1(data).hexdigest()}"'
                self._send(data, ETag=tag, X_Repo_Commit=_commit(folder))
        else:
            self._send({"error": path}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.log.append(f"POST {self.path}")
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        host = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            body = json.loads(data)
            name = "/".join(x for x in (body.get("organization"), body["name"]) if x)
            (self.root / name).mkdir(parents=True, exist_ok=True)
            self._send({"url": f"{host}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            files = json.loads(data)["files"]
            keep = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._send({"files": [{"path": f["path"]} | keep for f in files]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            folder = self.root / match[1]
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            commit = _commit(folder)
            url = f"{host}/{match[1]}/commit/{commit}"
            self._send({"commitUrl": url, "commitOid": commit})
        else:
            self._send({"error": path}, 404)


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve ``root`` until the block ends; yields the address and the requests so far."""
    log: list[str] = []
    handler = type("Hub", (_Hub,), {"root": root, "log": log})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
