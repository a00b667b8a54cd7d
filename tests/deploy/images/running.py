"""A container of an image, that may write to its volumes and /tmp alone and has no capability."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.deploy.images.containers import Containers, limits

START_S = 600
ANY_USER = "12345:0"
"""As OpenShift picks one: of no image, and of group 0."""
NO_RIGHTS = [
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=host",
]


def figure(text: str) -> None:
    print(f"image: {text}")  # noqa: T201


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """`url` is of the port that it was told; `began` is just before its start, by the monotonic clock."""

    podman: Containers
    process: subprocess.Popen[bytes]
    name: str
    url: str
    log: Path
    began: float

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.podman.say("exec", self.name, *command)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def wait_until_answered(self, path: str) -> float:
        """Seconds from its start until `path` answers 200."""

        def answered() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return httpx2.get(self.url + path, timeout=5).status_code == 200
            return False

        self.wait_until(answered, f"{path} with 200")
        return time.monotonic() - self.began

    def wait_until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if happened():
                return
            time.sleep(0.05)
        raise AssertionError(f"never seen: {what}\n{self.said()}")


@contextmanager
def started(
    podman: Containers, tag: str, log: Path, *command: str, options: Sequence[str] = (), user: str = ANY_USER
) -> Iterator[Running]:
    """The image's own command with the arguments `command`. The container goes in the end, and its volumes with it."""
    port = free_port()
    name = f"slhf-image-{os.getpid()}-{port}"
    variables = [f"--env=SLHF_PORT={port}", "--env=SLHF_HOST=127.0.0.1"]
    run = ["run", "--rm", "--name", name, f"--user={user}", *NO_RIGHTS, *limits(), *variables, *options, tag, *command]
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(podman.podman(*run), env=podman.environ, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Running(podman, process, name, f"http://127.0.0.1:{port}", log, began)
    finally:
        if process.poll() is None:
            podman.say("rm", "--force", "--volumes", "--time", "0", name)
            process.wait(60)
