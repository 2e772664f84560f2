"""A real HTTP server with scripted replies, and a stand-in for vLLM."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.llm.client import Message
from harness.llm.vllm_server import ManagedVLLM

HELLO = [Message("user", "hello")]
#: Status, headers and body; or what is sent in place of an HTTP response, before the connection is closed.
Reply = tuple[int, Mapping[str, str], Any] | bytes


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections at once; the default of 5 refuses some


class FakeEndpoint:
    """An HTTP server on a free port; ``answer`` maps each request's body to a reply."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(body)
                endpoint.keys.append(self.headers["Authorization"])
                reply = answer(body)
                if isinstance(reply, bytes):
                    self.wfile.write(reply)
                    return
                status, headers, content = reply
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # a client that stopped waiting is expected
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@contextmanager
def endpoint(*replies: Reply | Callable[[dict[str, Any]], Reply]) -> Iterator[FakeEndpoint]:
    """Serve the replies in order, then repeat the last one."""
    left = list(replies)

    def answer(body: dict[str, Any]) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply(body) if callable(reply) else reply

    fake = FakeEndpoint(answer)
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        fake.server.server_close()


def said(content: str | None, finish: str = "stop", refusal: str | None = None, **extra: Any) -> Reply:
    """Return a reply with an answer of 7 prompt and 3 completion tokens."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return (
        200,
        {},
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
            **extra,
        },
    )


def failed(status: int, message: str = "no", **headers: str) -> Reply:
    """Return a reply with an error."""
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": {"message": message}}


IMPOSTOR = """#!{python}
import sys
if sys.argv[1] == "-c":
    sys.exit(0)  # "is vLLM installed?"
print("INFO 11-21 03:45:24 [api.py:1] like `OSError: [Errno 24]` this is no cause")
print("(EngineCore pid=7) ERROR 11-21 03:45:24 [core.py:1] ValueError: the weights are missing")
for number in range(30):
    print("line", number)
{end}
"""


def impostor(tmp_path: Path, end: str) -> ManagedVLLM:
    """Return a back end whose Python is a script: it prints a log, then executes ``end``."""
    program = tmp_path / "python"
    program.write_text(IMPOSTOR.format(python=sys.executable, end=end))
    program.chmod(0o755)
    return ManagedVLLM("m", python=str(program), startup_timeout_s=3)


async def start(backend: ManagedVLLM, logs: Path) -> None:
    """Start a server that must not start."""
    async with backend.open(logs):
        raise AssertionError("it started")


#: For :func:`impostor`: a server that is ready and dies at the first request.
MORTAL = """
import os, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{{"object": "list", "data": []}}')
    def do_POST(self):
        os._exit(7)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
