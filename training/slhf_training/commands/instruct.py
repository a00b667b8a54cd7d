"""`slhf-train instruct OUT.jsonl --prompts FILE...`: prompts with instructions that a program can check."""

import argparse
import json
import sys
from pathlib import Path

HELP = "write prompts with instructions that a program can check, for the preference source `instructions`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the file to write; it must not exist")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL, gzipped or not")
    parser.add_argument("--seed", type=int, default=0, help="of the instructions (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.data.load import read_jsonl
    from slhf_training.errors import DataError, SettingsError
    from slhf_training.instructions.write import instruct

    examples = [example for path in arguments.prompts for example in read_jsonl(path)]
    rows = [json.dumps(row, ensure_ascii=False) for row in instruct(examples, arguments.seed)]
    if not rows:
        raise DataError(f"--prompts: none of {len(examples)} rows has a prompt of one turn")
    try:
        with arguments.out.open("x", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)
    except OSError as exc:
        raise SettingsError(f"{arguments.out}: {exc.strerror}") from exc
    sys.stdout.write(f"{arguments.out}: {len(rows)} prompts\n")
    if left_out := len(examples) - len(rows):
        sys.stderr.write(f"{left_out} of {len(examples)} rows have more than one turn and were left out\n")
