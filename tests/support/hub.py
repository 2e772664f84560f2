"""A server in place of the Hugging Face hub."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest


@contextmanager
def hub(
    monkeypatch: pytest.MonkeyPatch, cache: Path, answer: Callable[[str], tuple[int, Mapping[str, str], bytes]]
) -> Iterator[list[str]]:
    """Point the real hub client to a server, and yield the paths that it is asked for.

    Args:
        monkeypatch: restores the client.
        cache: folder of the client's cache.
        answer: returns status, headers and body for a path.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/agent-harnesses":  # newer clients ask which programs may call them
                self.send_error(404)
                return
            asked.append(self.path)
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    settings = {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(cache)}
    for name, value in {**settings, "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(huggingface_hub.constants, "AGENT_HARNESSES_PATH", str(cache / "agents.json"), raising=False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
