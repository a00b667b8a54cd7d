"""The command itself, whatever it runs."""

import signal
import subprocess
import sys

WAITING = """
import sys, time
from slhf_training import cli
from slhf_training.commands import games

def wait(arguments):
    try:
        print("open", flush=True)
        time.sleep(60)
    finally:
        print("closed", flush=True)

games.run = wait
sys.argv = ["slhf-train", "games"]
sys.exit(cli.main())
"""


def test_sigterm_closes_what_is_open() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout
        assert command.stdout.readline() == "open\n"
        command.send_signal(signal.SIGTERM)
        assert command.communicate(timeout=30)[0] == "closed\n"
    assert command.returncode == 128 + signal.SIGTERM
