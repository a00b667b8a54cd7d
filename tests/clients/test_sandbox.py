"""Hostile programs. Each would come to its end if what it tries succeeded, so that `ran` would say so."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slhf.errors import SandboxError
from slhf.sandbox import By, Outcome, outcome, ran
from tests.hosts import denied

TESTS = "assert f(1) == 2"
GOOD = "def f(x): return x + 1"
KILLED = 0.5
"""Seconds after which a program that never ends is killed here."""


def _is_held(by: By) -> bool:
    try:
        return ran([], by)
    except SandboxError:
        return False


@pytest.fixture(params=["namespaces", "landlock"])
def by(request: pytest.FixtureRequest) -> By:
    way: By = request.param
    if not _is_held(way):
        pytest.skip(f"this host does not allow {way}")
    return way


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody's file."""
    file = tmp_path / "precious"
    file.write_text("kept")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        (GOOD, True),
        ("def f(x): return x", False),
        ("def f(x): return len(reduce_, 1)", False),
        ("def f(x: List[int]) -> Optional[int]: return math.floor(x) + len(Counter([x]))", True),
        ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
         "def f(x): return A(x).x + 1", True),
        (f"{GOOD}\nif __name__ == '__main__':\n    import unittest\n    unittest.main()", True),
        (f"{GOOD}\nprint('\N{SNOWMAN}')", True),
        ("import threading, queue\ndef f(x):\n    q = queue.Queue()\n"
         "    threading.Thread(target=lambda: q.put(x + 1)).start()\n    return q.get()", True),
        ("import json, hashlib, random, datetime, decimal, statistics, tempfile, copy, operator, sys, time\n"
         "time.sleep(0.001)\nsys.setrecursionlimit(5000)\n"
         "def f(x): return x + 1 if x > 3000 or f(x + 1) else 0\ndef f(x): return x + 1", True),
        ("import tempfile\nwith tempfile.NamedTemporaryFile('w+') as file:\n    file.write('2')\n    file.seek(0)\n"
         "    text = file.read()\ndef f(x): return int(text)", True),
        ("def f(x): return x +", False),
        ('def f(x): return x + 1\nx = """', False),
        ("def f(x):\n    return int(input())", False),
    ],
)  # fmt: skip
def test_a_program_passes_where_its_tests_come_to_their_end(program: str, passes: bool, by: By) -> None:
    assert ran([program, TESTS], by) == passes


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit(0)",
        "raise BaseException",
        "raise KeyboardInterrupt",
        "import os; os.closerange(0, 64)",
        "import os, sys\nfor fd in range(64):\n    try:\n        os.write(fd, b'shut in\\n' * 9)\n    except OSError:\n"
        "        pass\nsys.exit(0)",
        "import builtins; builtins.exec = builtins.compile = print\ndef f(x): return 0",
        "import os, signal; signal.raise_signal(signal.SIGTERM)",
        "import ctypes; ctypes.string_at(0)",
        "def g(): return g() or g()\nimport sys; sys.setrecursionlimit(10**9); g()",
    ],
)
def test_an_end_before_the_tests_is_no_success(program: str, by: By) -> None:
    assert not ran([program, TESTS], by)


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(1000)",
        "while True: pass",
        "while True: print('x' * 10**6)",
        "import os\nwhile True:\n    for fd in range(64):\n        try:\n            os.write(fd, b'x' * 10**5)\n"
        "        except OSError:\n            pass",
        "import signal\nfor number in set(signal.Signals) - {9, 19}:\n    signal.signal(number, signal.SIG_IGN)\n"
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "while True:\n    with open('file', 'ab') as file: file.write(b'x' * 10**6)",
    ],
)
def test_a_program_without_end_is_killed(program: str, by: By) -> None:
    assert not ran([program, TESTS], by, KILLED)


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.fork()",
        "import os; os.forkpty()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run([__import__('sys').executable, '-c', ''])",
        "import os; assert os.system('true') == 0",
        "import multiprocessing as m; p = m.Process(target=print); p.start(); p.join()",
        "import os; os.setsid(); os.setpgid(0, 0)",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
        "x = bytearray(2**31)",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "import os; open(f'/proc/{os.getppid()}/environ').read()",
        "import os; open('/proc/self/environ').read()",
        "import os; os.listdir('/home')",
        "import os; os.listdir('/var')",
        "open('/etc/passwd').read()",
        "import os; assert os.environ",
        "import ctypes; assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes; assert ctypes.CDLL(None).setuid(0) == 0",
        "import os; os.mknod('device', 0o60600, os.makedev(8, 0))",
    ],
)
def test_a_program_reaches_no_other_process_and_no_privilege(program: str, by: By) -> None:
    assert not ran([program], by)


@pytest.mark.parametrize(
    "program",
    [
        "open({0!r}).read()",
        "open({0!r}, 'w')",
        "open({0!r}, 'a')",
        "open({0!r} + '.new', 'w')",
        "import os; os.remove({0!r})",
        "import os; os.rename({0!r}, 'mine')",
        "import os; os.link({0!r}, 'mine'); open('mine').read()",
        "import os; os.symlink({0!r}, 'mine'); open('mine').read()",
        "import os; os.truncate({0!r}, 0)",
        "import os; os.chmod({0!r}, 0o777)",
        "import os; os.utime({0!r}, (0, 0))",
        "import os; os.listdir(os.path.dirname({0!r}))",
        "import os; os.mkdir({0!r} + '.folder')",
        "import os, shutil; shutil.rmtree(os.path.dirname({0!r}))",
        "import os; os.chroot('/'); open({0!r})",
        "import ctypes; assert ctypes.CDLL(None).truncate({0!r}.encode(), 0) == 0",
    ],
)
def test_a_file_elsewhere_is_neither_read_nor_changed(program: str, outside: Path, by: By) -> None:
    before = outside.stat()
    assert not ran([program.format(str(outside))], by)
    after = outside.stat()
    assert (outside.read_text(), after.st_mode, after.st_mtime_ns) == ("kept", before.st_mode, before.st_mtime_ns)
    assert [*outside.parent.iterdir()] == [outside]


@pytest.mark.parametrize("library", ["os.__file__", "os.path.dirname(os.__file__) + '/new.py'"])
def test_pythons_own_library_is_not_written(library: str, by: By) -> None:
    assert not ran([f"import os; open({library}, 'a')"], by)


@pytest.mark.parametrize("kind", ["AF_INET, socket.SOCK_STREAM", "AF_INET, socket.SOCK_DGRAM", "AF_UNIX"])
def test_there_is_no_network(kind: str, by: By) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        assert not ran([f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"], by)
        assert not ran([f"import socket; socket.socket(socket.{kind})"], by)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_secret_of_the_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch, by: By) -> None:
    monkeypatch.setenv("SLHF_SECRET", "sk-1")
    assert not ran(["import os; os.environ['SLHF_SECRET']"], by)
    assert ran(["import os; assert not os.environ"], by)


def test_what_one_program_wrote_the_next_does_not_see(by: By) -> None:
    assert ran(["open('left', 'w').write('here')"], by)
    assert not ran(["open('left')"], by)


def test_a_thread_that_goes_on_does_not_outlive_its_program(tmp_path: Path, by: By) -> None:
    """`ran` has waited for the process, so there is none."""
    endless = "import threading\ndef on():\n    while True: pass\nthreading.Thread(target=on).start()"
    others = _children()  # of tests that ran before
    assert ran([endless, GOOD, TESTS], by)
    assert _children() <= others


def test_the_order_of_sets_is_the_same_every_time(by: By) -> None:
    order = "''.join(set(map(str, range(50))))"
    python = [sys.executable, "-c", f"print({order})"]
    expected = subprocess.run(python, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True).stdout
    assert ran([f"assert {order} == {expected.strip()!r}"], by)


def _children(process: int | None = None) -> set[str]:
    process = process or os.getpid()
    return set(Path(f"/proc/{process}/task/{process}/children").read_text().split())


ASK = """
import sys
from slhf.sandbox import confined_by, ran
from slhf.errors import SandboxError
try:
    print(confined_by(), ran(["def f(x): return x + 1", "assert f(1) == 2"]), ran(["import os; os.fork()"]))
except SandboxError as exc:
    print(exc)
"""


def _asked(*before: str) -> str:
    found = subprocess.run([*before, sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    return (found.stdout + found.stderr).strip()


def test_without_namespaces_landlock_is_the_wall() -> None:
    """A container whose own user namespace allows no further ones."""
    outer = ["unshare", "--user", "--map-root-user", "--"]
    if subprocess.run([*outer, "true"], capture_output=True, check=False).returncode or not _is_held("landlock"):
        pytest.skip("this host does not allow a user namespace, or Landlock")
    forbid = ["sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    assert _asked(*outer, *forbid) == "landlock True False"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_an_ordinary_user_needs_no_privilege() -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    if "Permission denied" in (said := _asked(*nobody)):
        pytest.skip("nobody may not run this Python")
    assert said.endswith("True False")


def test_a_host_that_allows_neither_refuses_and_says_what_is_missing() -> None:
    said = denied(ASK)
    assert said.startswith("programs cannot run on this host: ")
    assert "namespaces: " in said
    assert "unshare" in said
    assert "landlock: " in said
    assert "Function not implemented" in said


@pytest.mark.parametrize(
    ("program", "end"),
    [
        (f"{GOOD}\n{TESTS}", "ended"),
        (f"{GOOD}\nassert f(1) == 3", "failed"),
        ("import os; os._exit(0)", "failed"),
        ("raise KeyboardInterrupt", "failed"),
        ("import signal; signal.raise_signal(9)", "unable"),
        ("def f(x", "unread"),
        ("x = '\0'", "unread"),
        ("import no_such_module", "unable"),
        ("import os; os.fork()", "unable"),
        ("open('/etc/passwd')", "unable"),
        ("input()", "unable"),
        ("x = bytearray(2**31)", "unable"),
        ("import sys; sys.exit(0)", "unable"),
    ],
)
def test_how_a_program_ended_tells_its_own_fault_from_what_is_not_in_here(program: str, end: Outcome, by: By) -> None:
    assert outcome([program], by) == end


def test_a_program_writes_no_more_into_a_file_than_it_may(by: By) -> None:
    write = "open('file', 'wb').write(b'x' * 9_000)"
    assert (outcome([write], by), outcome([write], by, file_bytes=0)) == ("ended", "unable")


def test_a_program_ends_with_the_process_that_runs_it(by: By, tmp_path: Path) -> None:
    """Which may be killed, and then kills nobody."""
    asking = f"from slhf.sandbox import ran; ran(['import time; time.sleep(1000)'], {by!r}, 1000)"
    with subprocess.Popen([sys.executable, "-c", asking], env=os.environ | {"TMPDIR": str(tmp_path)}) as process:
        try:
            _await(lambda: any(_is_filtered(child) for child in _children(process.pid)))
            (child,) = _children(process.pid)
        finally:
            process.kill()
    _await(lambda: _state(child) in ("Z", None))


def _await(holds: Callable[[], bool]) -> None:
    """The test's timeout is the bound."""
    while not holds():
        time.sleep(0.01)


def _status(process: str, key: str) -> str | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has gone
        return None
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


def _is_filtered(process: str) -> bool:
    """Whether its own program runs."""
    return _status(process, "Seccomp") == "2"


def _state(process: str) -> str | None:
    return _status(process, "State")
