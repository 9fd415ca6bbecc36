"""A hub on loopback that speaks what huggingface_hub asks of one: repositories, commits, large files, downloads."""

import base64
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "hf_of_test"


@dataclass
class Hub:
    """What the hub has.

    Attributes:
        address: what HF_ENDPOINT is to be.
        repos: repository -> path -> contents; `datasets/` stands before a data set's name, `@` and a tag behind
            the name of what a repository had earlier.
        fails: repository -> the step of an upload that fails, with its status.
        asked: methods and paths of all requests.
    """

    address: str
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fails: dict[str, tuple[str, int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)

    def commit_of(self, repo: str) -> str:
        """The name of its newest commit: a digest of all files."""
        files = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repos[repo].items())
        return hashlib.sha1(json.dumps([repo, files]).encode()).hexdigest()

    def files_at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """The commit that a revision names, and its files."""
        tags = {key.partition("@")[2] or "main": key for key in self.repos if key.partition("@")[0] == repo}
        if not tags:
            raise HTTPException(404, headers={"X-Error-Code": "RepoNotFound"})
        for tag, key in tags.items():
            if revision in (tag, self.commit_of(key)):
                return self.commit_of(key), self.repos[key]
        raise HTTPException(404, headers={"X-Error-Code": "RevisionNotFound"})

    def check(self, repo: str, step: str) -> None:
        failing, status = self.fails.get(repo, ("", 0))
        if failing == step:
            raise HTTPException(status, f"{step} of {repo} is refused")


def _app(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def note(request: Request, handle: Any) -> Response:
        hub.asked.append(f"{request.method} {request.url.path}")
        open_to_all = request.url.path.startswith("/lfs/")
        if not open_to_all and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(status_code=401)
        answer: Response = await handle(request)
        return answer

    app.include_router(_repositories(hub))
    app.include_router(_large_files(hub))
    app.include_router(_downloads(hub))
    return app


def _repositories(hub: Hub) -> APIRouter:
    app = APIRouter()

    @app.get("/api/whoami-v2")
    async def whoami() -> Any:
        return {"type": "user", "name": "tester", "auth": {"type": "access_token"}}

    @app.post("/api/repos/create")
    async def create(request: Request) -> Any:
        asked = await request.json()
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in hub.repos:
            return JSONResponse({"error": "You already created this repo", "url": f"{hub.address}/{repo}"}, 409)
        hub.check(repo, "create")
        hub.repos[repo] = {}
        return {"url": f"{hub.address}/{repo}"}

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Any:
        """The card's head, as the hub looks at it before a commit."""
        head = yaml.safe_load((await request.json())["content"].split("---")[1])
        return {"errors": [] if "library_name" in head else [{"message": "no library_name"}], "warnings": []}

    @app.post("/api/models/{org}/{name}/preupload/{revision}")
    async def preupload(org: str, name: str, request: Request) -> Any:
        files = (await request.json())["files"]
        modes = {True: "lfs", False: "regular"}
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": modes[file["path"].endswith(".safetensors")],
                    "shouldIgnore": False,
                }
                for file in files
            ]
        }

    @app.post("/api/models/{org}/{name}/commit/{revision}")
    async def commit(org: str, name: str, request: Request) -> Any:
        repo = f"{org}/{name}"
        hub.check(repo, "commit")
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        for value in [line["value"] for line in lines if line["key"] == "file"]:
            hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
        for value in [line["value"] for line in lines if line["key"] == "lfsFile"]:
            hub.repos[repo][value["path"]] = hub.large[value["oid"]]
        oid = hub.commit_of(repo)
        return {"commitUrl": f"{hub.address}/{repo}/commit/{oid}", "commitOid": oid, "success": True}

    return app


def _large_files(hub: Hub) -> APIRouter:
    app = APIRouter()

    @app.post("/{org}/{name}.git/info/lfs/objects/batch")
    async def batch(org: str, name: str, request: Request) -> Any:
        hub.check(f"{org}/{name}", "upload")
        objects = (await request.json())["objects"]
        actions = [{"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}} for one in objects]
        return {
            "transfer": "basic",
            "objects": [one | {"actions": action} for one, action in zip(objects, actions, strict=True)],
        }

    @app.put("/lfs/{oid}")
    async def put(oid: str, request: Request) -> Any:
        data = await request.body()
        assert hashlib.sha256(data).hexdigest() == oid
        hub.large[oid] = data
        return {}

    return app


def _downloads(hub: Hub) -> APIRouter:
    """What a client reads, of models and of data sets."""
    app = APIRouter()

    @app.get("/api/{kind}/{org}/{name}/revision/{revision}")
    async def info(kind: str, org: str, name: str, revision: str) -> Any:
        commit, files = hub.files_at(_repo(kind, org, name), revision)
        siblings = [{"rfilename": path} for path in files]
        return {"_id": "1", "id": f"{org}/{name}", "sha": commit, "private": True, "siblings": siblings}

    @app.get("/api/{kind}/{org}/{name}")
    async def newest(kind: str, org: str, name: str) -> Any:
        return await info(kind, org, name, "main")

    @app.get("/api/datasets/{org}/{name}/tree/{revision}")
    @app.get("/api/datasets/{org}/{name}/tree/{revision}/{folder:path}")
    async def tree(org: str, name: str, revision: str, folder: str = "", recursive: bool = False) -> Any:
        _, files = hub.files_at(_repo("datasets", org, name), revision)
        found = _entries(files)
        inside = [one for one in found if one["path"].startswith(f"{folder}/" if folder else "")]
        if folder and not inside:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        depth = folder.count("/") + 1 if folder else 0
        return [one for one in inside if recursive or one["path"].count("/") == depth]

    @app.post("/api/datasets/{org}/{name}/paths-info/{revision}")
    async def paths_info(org: str, name: str, revision: str, request: Request) -> Any:
        _, files = hub.files_at(_repo("datasets", org, name), revision)
        asked = set((await request.form()).getlist("paths"))
        return [one for one in _entries(files) if one["path"] in asked]

    @app.api_route("/{org}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    @app.api_route("/{kind}/{org}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(org: str, name: str, revision: str, path: str, kind: str = "models") -> Any:
        commit, files = hub.files_at(_repo(kind, org, name), revision)
        if path not in files:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"'}
        return Response(files[path], headers=headers | {"Content-Length": str(len(files[path]))})

    return app


def _repo(kind: str, org: str, name: str) -> str:
    return f"{'' if kind == 'models' else f'{kind}/'}{org}/{name}"


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Folders and files as the hub lists them."""
    folders = {path.rpartition("/")[0] for path in files} - {""}
    found = [{"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()} for path in folders]
    return found + [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in files.items()
    ]


def env_of(hub: Hub, home: Path, token: str = TOKEN) -> dict[str, str]:
    """Variables of a process that takes this hub for the only one; what it fetches lies in `home`."""
    return os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A hub in a thread, on a port that is free."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    hub = Hub(f"http://127.0.0.1:{listening.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(_app(hub), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield hub
    server.should_exit = True
    thread.join(20)
