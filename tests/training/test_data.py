"""The loader: files and hub rows to one schema, and errors that say where."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slhf_training.data import Example, Pair, Scores
from slhf_training.data.formats import HubData, helpsteer2, hh_rlhf, tulu_3, ultrafeedback
from slhf_training.data.load import DataSettings, fitting, load, read_jsonl, split
from slhf_training.data.rows import HELPSTEER2
from slhf_training.errors import DataError
from slhf_training.types import Chat, Message
from tests.training.shared_data import FOLDER, needs_shared_data


def ask(text: str) -> Chat:
    return [Message(role="user", content=text)]


def write(path: Path, *lines: Any) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_pairs_scores_and_bare_prompts_become_one_schema(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        {"prompt": "p", "chosen": "c", "rejected": "r", "id": "a", "source": "s"},
        {"messages": [{"role": "user", "content": "q"}], "response": "x", "scores": {"help": 3}, "other": 1},
        {"chat": [{"role": "system", "content": "be"}, {"role": "user", "content": "z"}], "id": 7},
        {"prompt": "o", "response": "unscored", "id": "z"},
    )
    found = sorted(load(DataSettings(files=(path,))), key=lambda example: example.id)
    system: Chat = [Message(role="system", content="be"), Message(role="user", content="z")]
    assert found == [
        Example(system, id="7", source="rows"),
        Example(ask("p"), Pair("c", "r"), id="a", source="s"),
        Example(ask("q"), None, Scores("x", {"help": 3.0}), id="rows-2", source="rows"),
        Example(ask("o"), None, Scores("unscored", {}), id="z", source="rows"),
    ]
    assert [example.answers for example in found] == [(), ("c", "r"), ("x",), ("unscored",)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rows\.jsonl:2: not JSON"),
        ("[]", r"rows\.jsonl:2: not a JSON object"),
        ({"text": "p"}, r"rows\.jsonl:2: prompt: Field required"),
        ({"prompt": "p", "chosen": 3, "rejected": "r"}, r"rows\.jsonl:2: chosen: "),
        ({"prompt": "p", "chosen": "c"}, r"rows\.jsonl:2: row: .*chosen and rejected go together"),
        ({"prompt": "p", "scores": {"help": 1}}, r"rows\.jsonl:2: row: .*scores need the response"),
        ({"prompt": "p", "response": "x", "scores": {"help": "good"}}, r"rows\.jsonl:2: scores\.help: "),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, r"rows\.jsonl:2: row: .*end with the user's turn"),
        ({"prompt": []}, r"rows\.jsonl:2: row: .*end with the user's turn"),
        ({"prompt": ""}, r"rows\.jsonl:2: row: .*end with the user's turn"),
        ('{"prompt": "p", "response": "x", "scores": {"help": NaN}}', r"rows\.jsonl:2: not JSON: NaN is not JSON"),
        ('{"prompt": "p", "response": "x", "scores": {"help": -Infinity}}', r"rows\.jsonl:2: not JSON: -Infinity"),
        ('{"prompt": "p", "response": "x", "scores": {"help": 1e999}}', r"rows\.jsonl:2: not JSON: .*too large"),
        ({"prompt": "p", "response": "x", "scores": {"help": "nan"}}, r"rows\.jsonl:2: scores\.help: .*finite number"),
        ('{"prompt": "\\ud800"}', r"rows\.jsonl:2: not JSON: half of a surrogate pair"),
        ('{"x": ' + "[" * 99_999, r"rows\.jsonl:2: not JSON: values are nested too deeply"),
    ],
)
def test_a_row_without_the_schema_is_named_by_file_line_and_key(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "good"}, line)
    with pytest.raises(DataError, match=message):
        load(DataSettings(files=(path,)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_marks_and_blank_lines_of_other_editors_are_read_over(tmp_path: Path, name: str) -> None:
    content = b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n \t\n{"prompt": "b"}\n\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [(example.chat, example.id) for example in read_jsonl(path)] == [(ask("a"), "rows-1"), (ask("b"), "rows-4")]


def test_a_row_after_blank_lines_is_named_by_its_own_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "good"}, "", {"text": "p"})
    with pytest.raises(DataError, match=r"rows\.jsonl:3: prompt: Field required"):
        load(DataSettings(files=(path,)))


def test_a_file_in_another_encoding_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes('{"prompt": "a"}\n{"prompt": "é"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not JSON: 'utf-8' codec can't decode"):
        load(DataSettings(files=(tmp_path / "rows.jsonl",)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.jsonl"):
        load(DataSettings(files=(tmp_path / "nowhere.jsonl",)))
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"prompt": "p"}\n' * 100)[:-20])
    with pytest.raises(DataError, match=r"broken\.jsonl\.gz"):
        load(DataSettings(files=(broken,)))


def test_where_keeps_rows_by_their_own_keys(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "kind": "ab"[i % 2], "n": i % 3} for i in range(12)]
    path = write(tmp_path / "rows.jsonl", *rows)
    found = load(DataSettings(files=(path,), where={"kind": "a", "n": (0, 1)}))
    assert sorted(int(example.chat[0]["content"]) for example in found) == [0, 4, 6, 10]
    with pytest.raises(DataError, match="no rows in .*rows.jsonl where"):
        load(DataSettings(files=(path,), where={"knd": "a"}))


def test_the_order_is_shuffled_by_the_seed_and_a_limit_is_its_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *({"prompt": f"{i}"} for i in range(50)))
    one, same, other = (load(DataSettings(files=(path,), seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert load(DataSettings(files=(path,), seed=1, limit=5)) == one[:5]


def test_parts_share_no_prompt_and_make_up_the_whole(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i % 60}!", "chosen": f"c{i}", "rejected": "r"} for i in range(120)]
    path = write(tmp_path / "rows.jsonl", *rows)
    parts = [load(DataSettings(files=(path,), part=part)) for part in ((0, 0.5), (0.5, 0.7), (0.7, 1))]
    prompts = [{example.chat[0]["content"] for example in part} for part in parts]
    assert sum(map(len, parts)) == 120
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 60
    assert len(prompts[0]) in range(20, 41)
    assert all(split(part, 0.3)[1] for part in parts)  # a split cuts through every part


def test_a_part_is_a_range(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"part: 0\.5 is not below 0\.5"):
        DataSettings(files=(tmp_path,), part=(0.5, 0.5))


def test_a_prompt_never_stands_on_both_sides() -> None:
    """Case, spaces and punctuation do not make another prompt; what else is loaded does not move one."""
    prompts = [f"{prefix} {i}" for i in range(500) for prefix in ("Question", "question:", "QUESTION?")]
    train, held = split([Example(ask(prompt)) for prompt in prompts], 0.2)
    numbers = [{example.chat[0]["content"].split()[1] for example in side} for side in (train, held)]
    assert numbers[0].isdisjoint(numbers[1])
    assert len(numbers[1]) == pytest.approx(100, abs=36)  # four standard deviations, sqrt(500 * 0.2 * 0.8) = 9
    few, few_held = split([Example(ask(prompt)) for prompt in prompts[:30]], 0.2)
    assert (few, few_held) == (
        [one for one in train if one.chat[0]["content"] in prompts[:30]],
        [one for one in held if one.chat[0]["content"] in prompts[:30]],
    )


def test_prompts_that_are_too_long_are_counted_and_the_others_left_as_they_are() -> None:
    examples = [Example(ask("x" * n)) for n in (3, 5, 4, 9)]
    kept, dropped = fitting(examples, lambda chat: len(chat[0]["content"]), 4)
    assert (kept, dropped) == ([examples[0], examples[2]], 2)


def test_data_without_a_source_is_refused() -> None:
    with pytest.raises(ValidationError, match="files and hub"):
        DataSettings()


def test_helpsteer2_rows_give_five_attributes() -> None:
    row = {"prompt": "c#", "response": "x"} | {name: i for i, name in enumerate(HELPSTEER2)}
    expected = {"helpfulness": 0.0, "correctness": 1.0, "coherence": 2.0, "complexity": 3.0, "verbosity": 4.0}
    assert helpsteer2(row) == Example(ask("c#"), None, Scores("x", expected))


def test_hh_rows_are_two_transcripts_of_one_chat() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant:"
    chat: Chat = [
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello."),
        Message(role="user", content="A joke?"),
    ]
    assert hh_rlhf({"chosen": f"{start} Knock.", "rejected": f"{start} No.\n\nNever."}) == Example(
        chat, Pair("Knock.", "No.\n\nNever.")
    )


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: other\n\nAssistant: c"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "\n\nHuman: a\n\nHuman: b\n\nAssistant: d"),
        ("\n\nHuman: a", "\n\nHuman: a"),
        ("no transcript", "no transcript"),
    ],
)
def test_hh_rows_that_are_no_such_pair_are_left_out(chosen: str, rejected: str) -> None:
    assert hh_rlhf({"chosen": chosen, "rejected": rejected}) is None


@pytest.mark.parametrize("adapter", [ultrafeedback, tulu_3])
def test_rows_of_two_chats_share_all_but_the_last_message(adapter: Any) -> None:
    def chat(answer: str) -> list[dict[str, str]]:
        return [{"content": "q", "role": "user"}, {"content": answer, "role": "assistant"}]

    row: Mapping[str, Any] = {"prompt": "q", "prompt_id": "1", "chosen": chat("good"), "rejected": chat("bad")}
    assert adapter(row) == Example(ask("q"), Pair("good", "bad"))
    assert adapter({**row, "rejected": [{"content": "other", "role": "user"}, chat("x")[1]]}) is None


def test_a_hub_data_set_is_loaded_from_a_folder_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`datasets.load_dataset` takes a local folder by the same name; one of three rows is no pair."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c", "topic": "t"}
    write(folder / "train.jsonl", row, row, {"chosen": "x", "rejected": "y", "topic": ""})
    found = load(DataSettings(hub=(HubData(name=str(folder), adapter="hh-rlhf"),)))
    assert [example.pair for example in found] == [Pair("b", "c")] * 2
    assert f"{folder}: columns of text that are not used: topic (2 rows)" in caplog.messages
    with pytest.raises(DataError, match=r"train:0: not a row of helpsteer2: KeyError 'helpfulness'"):
        load(DataSettings(hub=(HubData(name=str(folder), adapter="helpsteer2"),)))
    with pytest.raises(DataError, match="nowhere"):
        load(DataSettings(hub=(HubData(name=str(tmp_path / "nowhere"), adapter="hh-rlhf"),)))


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("hh_pairs_train", 2078),
        ("hh_pairs_test", 631),
        ("pref_mix_train", 1696),
        ("pref_mix_test", 591),
        ("judge_bench_test", 616),
        ("attr_just_eval_train", 1918),
        ("attr_just_eval_test", 714),
        ("prompts_alpaca", 5000),
        ("prompts_dolly", 2000),
    ],
)
def test_real_files_load_completely(name: str, rows: int) -> None:
    found = load(DataSettings(files=(FOLDER / f"{name}.jsonl.gz",)))
    assert len(found) == rows == len({example.id for example in found})
    assert all(
        (example.pair is not None) == ("pairs" in name or "pref" in name or "judge" in name) for example in found
    )
    assert all((example.scores is not None) == name.startswith("attr") for example in found)
