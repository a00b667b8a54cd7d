"""The command itself, whatever it runs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slhf_training.cli import main

WAITING = """
import sys, time
from slhf_training import cli

def wait(arguments):
    try:
        print("open", flush=True)
        time.sleep(60)
    finally:
        print("closed", flush=True)

cli.COMMANDS["games"] = cli.Command("", lambda parser: None, wait)
sys.argv = ["slhf-train", "games"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, ""), (signal.SIGINT, "slhf-train: interrupted\n")], ids=["SIGTERM", "ctrl-C"]
)
def test_what_ends_a_command_closes_what_is_open(number: signal.Signals, said: str) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=pipe, stderr=pipe, text=True) as command:
        assert command.stdout
        assert command.stdout.readline() == "open\n"
        command.send_signal(number)
        assert command.communicate(timeout=30) == ("closed\n", said)
    assert command.returncode == 128 + number


@pytest.mark.parametrize(("former", "name"), [("preference", "reward"), ("instruct", "add-instructions")])
def test_a_commands_former_name_still_works_and_says_so(
    former: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"reward": ["absent.yaml"], "add-instructions": ["out.jsonl", "--prompts", "absent.jsonl"]}[name]
    given = [str(tmp_path / argument) if "." in argument else argument for argument in arguments]
    assert main([name, *given]) == 1
    said = capsys.readouterr().err
    assert "absent" in said
    assert main([former, *given]) == 1
    assert capsys.readouterr().err == f"slhf-train: {former} is called {name} now; the old name will go\n{said}"
