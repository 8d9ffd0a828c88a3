"""A server that claims to be ready and then fails in one chosen way: `faulty_server.py MODE [SNAPSHOT_FILE]`."""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = sys.argv[1]
SNAPSHOT = Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b"{}"
DIGEST = json.loads(SNAPSHOT).get("digest", "")

served = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/readyz" and MODE == "never-ready":
            self.answer(503, b'{"reason": "still dreaming"}')
        elif self.path == "/v1/capabilities":
            self.answer(200, SNAPSHOT if MODE != "garbage-snapshot" else b'{"schema": "who knows"}')
        else:
            self.answer(200, b"{}")

    def do_POST(self):
        global served  # noqa: PLW0603 - one server, one count
        served += 1
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if MODE == "hang":
            time.sleep(3600)
        if MODE == "die" and served > 3:
            os._exit(9)
        if MODE == "refuse":
            self.answer(500, b'{"error": {"message": "CUDA error 700"}}')
        else:
            self.answer(200, b"\x00not json at all")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-rollout-pod-uid", os.environ["ROLLOUT_POD_UID"])
        self.send_header("x-rollout-snapshot-digest", DIGEST)
        self.send_header("server-timing", "queue;dur=0, total;dur=1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if MODE == "exit":
    sys.exit("no GPU here, giving up")
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
