"""A real server process of vLLM's, and a client of it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

HOST = "127.0.0.1"


class Server:
    """Starts ``vllm.entrypoints.openai.api_server`` and waits until it answers.

    Args:
        model: a folder.
        vectors: the folder of vectors.
        log: a file for what it prints.
    """

    def __init__(self, model, vectors, log, *options):
        with contextlib.closing(socket.socket()) as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.log = log
        environment = os.environ | {
            "STEERSMAN_VECTORS": str(vectors),
            "VLLM_PLUGINS": "steersman,steersman_http",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        }
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
            *("--served-model-name", "m", "--dtype", "float32", "--enforce-eager", "--max-model-len", "128"),
            *("--max-num-seqs", "32", "--max-num-batched-tokens", "128", "--block-size", "32"),
            *("--enable-prefix-caching", "--host", HOST, "--port", str(self.port), *options),
        ]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)

    def __enter__(self):
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.call("GET", "/health")[0] == 200:
                    return self
            time.sleep(0.5)
        self.__exit__()
        raise AssertionError(f"the server did not come up:\n{self.log.read_text()[-4000:]}")

    def __exit__(self, *error):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method, path, body=None, timeout=120):
        """The status and what was answered, as JSON where it is JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(
            f"http://{HOST}:{self.port}{path}", data, {"content-type": kind}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode()

    def complete(self, prompt, steer=None, **settings):
        """The choice that a completion of a prompt has."""
        status, found = self.call("POST", "/v1/completions", body(prompt, steer, **settings))
        assert status == 200, found
        return found["choices"][0]


def body(prompt, steer=None, **settings):
    """Of a completion; ``steer`` is a spec, sent as JSON text, or a dictionary of flat keys."""
    found = {"model": "m", "prompt": prompt, "max_tokens": 12, "temperature": 0.0, **settings}
    if steer is not None:
        flat = any(key.startswith("steersman") for key in steer)
        found["vllm_xargs"] = steer if flat else {"steersman": json.dumps(steer)}
    return found
