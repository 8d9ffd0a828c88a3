"""The real server in trouble: `troubled_server.py speaks-loading|speaks-serving|dies-serving`."""

import os
import signal
import sys
import time
import urllib.request

EP_ERROR = "*** EP Error *** EP Error using ['CUDAExecutionProvider'] Falling back to ['CPUExecutionProvider']"


def say():
    # ONNX Runtime's Python part says it on stdout.
    os.write(1, f"{EP_ERROR}\n".encode())


def wait_ready():
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/readyz")
        except OSError:
            time.sleep(0.01)
        else:
            return


if __name__ == "__main__":
    mode = sys.argv[1]
    if mode == "speaks-loading":
        say()
    elif os.fork() == 0:
        wait_ready()
        if mode == "speaks-serving":
            say()
        else:
            # Not before it was seen ready.
            time.sleep(0.5)
            os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    os.execvp("rollout", ["rollout", "serve", "--admission", "development-cpu"])  # noqa: S606 - a test's own command
