"""The report of event loops that stood still, on tests of its own in a pytest of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = "from tests.standstill import event_loops_keep_running, pytest_terminal_summary\n"
TESTS = """
import asyncio, threading, time
import pytest

async def hold(seconds):
    await asyncio.sleep(0)
    time.sleep(seconds)

def test_in_run(): asyncio.run(hold(0.4))
def test_in_a_thread():
    thread = threading.Thread(target=lambda: asyncio.run(hold(0.4)))
    thread.start()
    thread.join()
def test_in_a_callback():
    loop = asyncio.new_event_loop()
    loop.call_soon(time.sleep, 0.4)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
def test_short(): asyncio.run(hold(0.01))
def test_waiting(): asyncio.run(asyncio.sleep(0.4))
def test_without_a_loop(): time.sleep(0.4)
@pytest.mark.engine
def test_with_the_engine(): asyncio.run(hold(0.4))
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_loops.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = engine\n")
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("test", ["in_run", "in_a_thread", "in_a_callback"])
def test_a_loop_that_stands_still_is_reported_with_its_test(output: str, test: str) -> None:
    assert "event loops stood still" in output
    assert f"test_loops.py::test_{test}: 0." in output


@pytest.mark.parametrize("test", ["short", "waiting", "without_a_loop", "with_the_engine"])
def test_nothing_else_is_reported(output: str, test: str) -> None:
    assert f"test_{test}:" not in output
