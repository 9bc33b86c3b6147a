"""A Hugging Face Hub on loopback: the few endpoints that huggingface_hub's own client calls, in memory, and a list of
faults to answer with instead. Nothing here is used outside the tests."""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LONG = 30.0  # seconds until a server that keeps somebody waiting gives up: longer than anybody should wait for it
INLINE = 100_000  # larger files, and weights, go through LFS
KINDS = {"": "model", "spaces/": "space", "datasets/": "dataset"}


@dataclass
class Repo:
    """Its commits in order, each with its files; the variables, hardware and kind of a Space."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    created: dict = field(default_factory=dict)
    hardware: str | None = None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{id(self)}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((c for c in self.commits if c[0] == revision), None)


@dataclass
class Fault:
    """What to do with requests whose "METHOD /path" matches: answer `status`, `stall` (no answer), `cut` (half of the
    body, then the end), `trickle` (a byte every 50 ms), `garbage` (no JSON), `flip` (one byte changed). `times`: how
    often, None for always."""

    pattern: str
    kind: str = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None


def is_lfs(path: str, content: bytes) -> bool:
    return path.endswith((".safetensors", ".npz", ".png")) or len(content) > INLINE


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Runs while it is used as a context manager. `address` is what HF_ENDPOINT must be."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens = {"hf_writer": "owner", "hf_stranger": "stranger"}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, authorization
        self.extra_bytes = 0  # what a repository is said to hold beyond its files
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", **options) -> str:
        """A repository with one commit, or one more commit of it; the commit's hash."""
        repo = self.repos.setdefault((kind, name), Repo(**options))
        self.blobs |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}
        return repo.commit(files)

    def fault(self, pattern: str, kind: str = "status", **options) -> None:
        self.faults.append(Fault(pattern, kind, **options))

    def asked(self, pattern: str = "") -> list[str]:
        """The requests so far that match, as "METHOD /path"."""
        return [f"{method} {path}" for method, path, _ in self.requests if re.search(pattern, f"{method} {path}")]


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    fault: Fault | None = None

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.path, self.query = unquote(url.path), parse_qs(url.query)
        authorization = self.headers.get("Authorization")
        self.user = self.hub.tokens.get((authorization or "").removeprefix("Bearer "))
        self.hub.requests.append((self.command, self.path, authorization))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fault = self.take_fault()
        try:
            if self.fault and self.fault.kind == "stall":
                self.hub.closing.wait(LONG)
                self.close_connection = True
            elif self.fault and self.fault.kind == "status":
                self.answer(self.fault.status, {"error": "a fault of the test"}, self.fault.headers)
            elif authorization and self.user is None and "/cdn/" not in self.path:
                self.answer(401, {"error": "Invalid credentials in Authorization header"})
            else:
                self.route()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def take_fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times != 0 and re.search(fault.pattern, f"{self.command} {self.path}"):
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None

    def route(self) -> None:
        routes = [
            (r"GET /api/whoami-v2", self.whoami),
            (r"POST /api/repos/create", self.create),
            (r"POST /api/validate-yaml", lambda: self.answer(200, {"errors": [], "warnings": []})),
            (r"POST /api/(\w+)s/([\w.-]+/[\w.-]+)/preupload/(.+)", self.preupload),
            (r"POST /api/(\w+)s/([\w.-]+/[\w.-]+)/commit/(.+)", self.commit),
            (r"POST /api/(space)s/([\w.-]+/[\w.-]+)/(variables|hardware)", self.space_setting),
            (r"GET /api/(\w+)s/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", self.info),
            (r"POST /(spaces/|datasets/|)([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"PUT /lfs/(\w+)", self.lfs_upload),
            (r"(?:GET|HEAD) /(spaces/|datasets/|)([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"(?:GET|HEAD) /cdn/(\w+)", self.cdn),
        ]
        for pattern, action in routes:
            if match := re.fullmatch(pattern, f"{self.command} {self.path}"):
                return action(*match.groups())
        return self.answer(404, {"error": f"no such address: {self.command} {self.path}"})

    def answer(self, status: int, content: dict | bytes = b"", headers: dict | None = None) -> None:
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        kind = self.fault.kind if self.fault else ""
        if kind == "garbage":
            body = b"<html>captive portal</html>"
        if kind == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut" and len(body) > 1:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif kind == "trickle":
            for i in range(min(len(body), int(LONG / 0.05))):
                if self.hub.closing.is_set():
                    break
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
                time.sleep(0.05)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def find(self, kind: str, name: str) -> Repo | None:
        """The repository, if whoever asks may see it; otherwise the refusal has been sent."""
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self.user != name.split("/")[0]):
            status = 404 if self.user else 401
            self.answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def owned(self, kind: str, name: str) -> Repo | None:
        if self.user != name.split("/")[0]:
            self.answer(403 if self.user else 401, {"error": "You don't have the rights to write here"})
            return None
        return self.find(kind, name)

    def whoami(self) -> None:
        if self.user:
            self.answer(200, {"type": "user", "name": self.user, "orgs": []})
        else:
            self.answer(401, {"error": "Invalid username or password."})

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        kind = wanted.get("type", "model")
        if self.user != name.split("/")[0]:
            return self.answer(403 if self.user else 401, {"error": "You don't have the rights to create this"})
        url = f"{self.hub.address}/{'spaces/' if kind == 'space' else ''}{name}"
        if (kind, name) in self.hub.repos:
            return self.answer(409, {"error": "You already created this repo", "url": url})
        repo = Repo(wanted.get("visibility") == "private" or bool(wanted.get("private")), created=wanted)
        repo.variables = {v["key"]: v["value"] for v in wanted.get("variables", [])}
        repo.hardware = wanted.get("hardware")
        repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.hub.repos[kind, name] = repo
        return self.answer(200, {"url": url, "name": name})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if repo := self.owned(kind, name):
            answers = []
            for wanted in json.loads(self.body)["files"]:
                path, old = wanted["path"], repo.files.get(wanted["path"])
                mode = "lfs" if is_lfs(path, b"." * wanted["size"]) else "regular"
                oid = None
                if old is not None:
                    oid = hashlib.sha256(old).hexdigest() if mode == "lfs" else git_hash(old)
                answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.answer(200, {"files": answers})

    def lfs_batch(self, prefix: str, name: str) -> None:
        if self.owned(KINDS[prefix], name):
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                upload = {"upload": {"href": f"{self.hub.address}/lfs/{wanted['oid']}", "header": {}}}
                known = wanted["oid"] in self.hub.blobs
                objects.append(wanted | ({} if known else {"actions": upload}))
            self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "the content is not what its hash says"})
        self.hub.blobs[oid] = self.body
        return self.answer(200)

    def commit(self, kind: str, name: str, revision: str) -> None:
        if repo := self.owned(kind, name):
            files = dict(repo.files)
            for line in self.body.decode().splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                elif item["key"] == "deletedFile":
                    del files[value["path"]]
            oid = repo.commit(files)
            self.answer(
                200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid, "success": True}
            )

    def space_setting(self, kind: str, name: str, what: str) -> None:
        if repo := self.owned(kind, name):
            value = json.loads(self.body)
            if what == "variables":
                repo.variables[value["key"]] = value["value"]
                return self.answer(200, {k: {"value": v} for k, v in repo.variables.items()})
            repo.hardware = value["flavor"]
            return self.answer(200, {"stage": "BUILDING", "hardware": {"requested": value["flavor"]}})
        return None

    def info(self, kind: str, name: str, revision: str | None) -> None:
        if repo := self.find(kind, name):
            found = repo.at(revision or "main")
            if found is None:
                return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            oid, files = found
            siblings = []
            for path, content in sorted(files.items()):
                entry = {"rfilename": path}
                if "blobs" in self.query:
                    entry |= {"size": len(content) + self.hub.extra_bytes, "blobId": git_hash(content)}
                    if is_lfs(path, content):
                        sha256 = hashlib.sha256(content).hexdigest()
                        entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                siblings.append(entry)
            about = {"id": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []}
            return self.answer(200, about | {"disabled": False, "gated": False, "downloads": 0, "likes": 0})
        return None

    def resolve(self, prefix: str, name: str, revision: str, path: str) -> None:
        if repo := self.find(KINDS[prefix], name):
            found = repo.at(revision)
            if found is None or path not in found[1]:
                code = "RevisionNotFound" if found is None else "EntryNotFound"
                return self.answer(404, {"error": code}, {"X-Error-Code": code})
            oid, files = found
            content, headers = files[path], {"X-Repo-Commit": oid}
            if not is_lfs(path, content):
                return self.send_range(content, headers | {"ETag": f'"{git_hash(content)}"'})
            sha256 = hashlib.sha256(content).hexdigest()
            self.hub.blobs[sha256] = content
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
            # Another host name for the same server, as a content network is: credentials must not follow.
            return self.answer(302, b"", headers | {"Location": f"http://localhost:{self.hub.port}/cdn/{sha256}"})
        return None

    def cdn(self, sha256: str) -> None:
        self.send_range(self.hub.blobs[sha256], {"ETag": f'"{sha256}"'})

    def send_range(self, content: bytes, headers: dict[str, str]) -> None:
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(match[1])
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return self.answer(206, content[start:], headers)
        return self.answer(200, content, headers)
