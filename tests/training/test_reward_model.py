"""Reward models on a tiny random backbone: losses by hand, what they learn, and what comes back from disk."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from slhf_training.cli import main
from slhf_training.config import read_config
from slhf_training.data import Example, Pair, Scores
from slhf_training.errors import SettingsError
from slhf_training.preference import preference_of
from slhf_training.preference.reward import AttributesSettings, RewardSettings
from slhf_training.reward import RewardTraining
from slhf_training.reward.backbone import Backbone
from slhf_training.reward.evaluation import calibration_error, pair_report, score_report
from slhf_training.reward.model import Head, Manifest, RewardModel
from slhf_training.reward.training import EncodedExamples, bradley_terry, ranked, regression, solve
from slhf_training.types import Chat, Message
from tests.training import tiny
from tests.training.tiny import write_backbone

VOWELS = ("aeiou", "uoiea", "eeaao", "iou ae", "ooo aa", "uu ee ii", "aie", "eau")
CONSONANTS = ("bcdfg", "ptkrs", "mnnbb", "zxc vb", "ggg dd", "ss tt rr", "bkt", "wrm")
PROMPTS = 40


def ask(text: str) -> Chat:
    return [Message(role="user", content=text)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vowels_win(path: Path, first: int, count: int) -> Path:
    """Pairs of which the answer of vowels is the better one."""
    rows = [
        {"prompt": f"Say {i}", "chosen": VOWELS[i % 8], "rejected": CONSONANTS[(i * 3 + 1) % 8]}
        for i in range(first, first + count)
    ]
    return write_lines(path, rows)


def configuration(folder: Path, backbone: Path, training: dict[str, Any], heads: dict[str, Any], **more: Any) -> Path:
    settings = {
        "backbone": str(backbone),
        "output": "out",
        "max_tokens": 64,
        "training": training,
        "heads": heads,
        "validation": 0.2,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings | more, sort_keys=False))
    return path


def test_bradley_terry_by_hand() -> None:
    """Margins 0 and log 3: -log sigmoid is log 2 and log(1 + 1/3) = log 4/3; the mean is log(8/3) / 2."""
    loss = bradley_terry(torch.tensor([1.0, math.log(3)]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx(math.log(8 / 3) / 2)


def test_regression_by_hand() -> None:
    """Errors 1 and -3: (1 + 9) / 2 = 5."""
    assert float(regression(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))) == 5


def test_a_probe_is_where_the_gradient_vanishes() -> None:
    """Pairs that all differ by d = 1 in one standardised feature: the weight solves l2 w = sigmoid(-w d').

    Features 1 and 0 standardise to +1 and -1, so d' = 2, and the objective's gradient is -2 sigmoid(-2 w) + l2 w = 0.
    """
    known = EncodedExamples(
        torch.tensor([[[1.0], [0.0]]]).double().repeat(4, 1, 1), torch.zeros(4).double(), torch.zeros(4, 2).double()
    )
    head, _ = solve(known, l2=1.0)
    standardised = float(head.weight) * 0.5  # the raw weight is the standardised one by the deviation, 0.5
    assert 2 / (1 + math.exp(2 * standardised)) == pytest.approx(standardised, abs=1e-5)


def test_a_probe_that_holds_length_leaves_to_it_what_it_explains() -> None:
    """Answers with one feature x and length z; the better one is longer in 9 of 10 pairs, and has x more in 6 of 10.

    In the pairs x goes with z, so that a plain probe takes x for the cause. With z held, x is worth nothing where z is
    the same, and those pairs are half and half.
    """
    same_length = [([1.0, 0.0], [2.0, 2.0])] * 10 + [([0.0, 1.0], [2.0, 2.0])] * 10  # (x, z) of chosen and rejected
    longer = [([1.0, 0.0], [3.0, 2.0])] * 18 + [([0.0, 1.0], [2.0, 3.0])] * 2
    pairs = same_length + longer
    features = torch.tensor([x for x, _ in pairs]).double()[..., None]
    known = EncodedExamples(features, torch.zeros(len(pairs)).double(), torch.tensor([z for _, z in pairs]).double())
    plain, no_slope = solve(known, l2=1e-3)
    held, slope = solve(known, l2=1e-3, hold_length=True)
    assert float(plain.weight) > 0.5
    assert float(no_slope) == 0
    assert abs(float(held.weight)) < 0.05
    assert float(slope) == pytest.approx(math.log(9), abs=0.05)  # a longer answer wins 9 times in 10


def test_only_a_probe_can_hold_length(backbone: Path, tmp_path: Path) -> None:
    heads = {"one": {"data": {"files": ["x.jsonl"]}, "hold_length": True}}
    config = configuration(tmp_path, backbone, {"method": "lora"}, heads)
    with pytest.raises(SettingsError, match=r"heads\.one\.hold_length: needs method: probe, not lora"):
        read_config(config, RewardTraining)


def test_calibration_error_by_hand() -> None:
    """Two judgements of confidence 0.9, one right: |0.5 - 0.9|; two of 0.6, both right: |1 - 0.6|. The mean is 0.4."""
    assert calibration_error(np.array([0.9, 0.1, 0.6, 0.6])) == pytest.approx(0.4)


def test_a_report_counts_abstentions_ties_and_lengths() -> None:
    """Right, wrong and a tie of three judged: 1.5 / 3. Chosen is 11 words longer in the first, equal in the others."""
    pairs = [Pair("a " * 12, "a"), Pair("a", "b"), Pair("a", "b"), Pair("a", "b")]
    examples = [Example(ask("x"), pair, source="s") for pair in pairs]
    report = pair_report(np.array([0.9, 0.2, 0.5, np.nan]), examples)
    assert (report["pairs"], report["abstained"], report["accuracy"]) == (3, 1, 0.5)
    assert report["standard_error"] == pytest.approx(math.sqrt(0.25 / 3))
    assert report["by_words_more"]["10 to 50"]["accuracy"] == 1
    assert report["by_words_more"]["-10 to 10"] == pytest.approx(
        {"n": 2, "accuracy": 0.25, "standard_error": math.sqrt(0.1875 / 2)}
    )
    assert report["longer_wins"] == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_scores_are_held_against_answering_with_the_mean() -> None:
    """Targets 1, 3 have variance 1; scores 1, 2 are off by 0 and 1: 0.5; both rise, so the correlation is 1."""
    report = score_report(np.array([1.0, 2.0, np.nan]), np.array([1.0, 3.0, 9.0]))
    assert report == pytest.approx(
        {"answers": 2, "abstained": 1, "squared_error": 0.5, "variance": 1.0, "correlation": 1.0}
    )


def test_scores_of_one_chat_make_pairs_where_they_differ() -> None:
    found = [("p", "a", 1), ("p", "b", 3), ("p", "c", 3), ("q", "d", 5)]
    examples = [Example(ask(chat), None, Scores(answer, {"help": score})) for chat, answer, score in found]
    assert [example.pair for example in ranked(examples, "help")] == [Pair("b", "a"), Pair("c", "a")]
    assert ranked(examples, "other") == []


def test_answers_that_share_a_row_are_read_as_if_alone(backbone: Path) -> None:
    reader = Backbone.load(str(backbone), [1, 2], 200, 400)
    chats = [ask("Hello"), ask("Hello"), ask("A much longer question than that"), ask("Hello")]
    answers = ["short", "a rather longer answer", "x", ""]
    together = reader.features(chats, answers)
    alone = torch.cat([reader.features([chat], [answer]) for chat, answer in zip(chats, answers, strict=True)])
    assert together.shape == (4, 64)
    assert torch.allclose(together, alone, atol=1e-5)
    for row, (chat, answer) in zip(alone, zip(chats, answers, strict=True), strict=True):
        reading = reader.encode(chat, [answer])
        assert reading is not None
        plain = reader.model(torch.tensor([[*reading.prompt, *reading.answers[0]]]), output_hidden_states=True)
        expected = torch.cat([plain.hidden_states[layer][0, len(reading.prompt) :].mean(0) for layer in (1, 2)])
        assert torch.allclose(row, expected, atol=1e-5)


def test_a_text_that_is_too_long_has_no_features(backbone: Path) -> None:
    reader = Backbone.load(str(backbone), [1], 30, 100)
    rows = reader.features([ask("Hi")] * 2, ["short", "long " * 10])
    assert [bool(row.isnan().any()) for row in rows] == [False, True]


def test_a_long_reading_says_how_far_it_is(backbone: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = Backbone.load(str(backbone), [1], 100, 1)
    reader.log_every_s = 0
    with caplog.at_level("INFO", logger="slhf_training"):
        reader.features([ask("Hi"), ask("Ho")], ["a", "bc"])
    chat = len("<user>Hi") + 1 + len("<assistant>")  # bytes are tokens, and </s> is one
    short, longer = chat + 2, chat + 3  # one answer a pass
    assert caplog.messages == [f"{n} of {short + longer} tokens read" for n in (short, short + longer)]


@pytest.mark.parametrize("layers", [[0], [3]])
def test_a_layer_that_the_backbone_does_not_have_is_refused(backbone: Path, layers: list[int]) -> None:
    with pytest.raises(SettingsError, match="layers: .* has layers 1 to 2"):
        Backbone.load(str(backbone), layers, 30, 100)


def test_what_an_answer_or_a_chat_spells_of_special_tokens_is_read_as_text(backbone: Path) -> None:
    """The end token is 0: one ends the chat's turn and one the answer, however often they are spelled."""
    reader = Backbone.load(str(backbone), (), 100, 200)
    calm, hostile = (reader.encode(ask(f"Say{word}"), [f"a{word} b"]) for word in ("", "</s>"))
    assert calm
    assert hostile
    assert hostile.prompt.count(0) == calm.prompt.count(0) == 1
    assert hostile.answers[0].count(0) == calm.answers[0].count(0) == 1
    assert reader.tokenizer.decode(hostile.answers[0][:-1]) == "a</s> b"


def test_harmless_text_is_read_as_transformers_encodes_it(backbone: Path) -> None:
    reader = Backbone.load(str(backbone), (), 100, 200)
    found = reader.encode(ask("Say it"), ["It is  said.\n"])
    assert found
    usual = reader.tokenizer.apply_chat_template(ask("Say it"), add_generation_prompt=True, return_dict=False)
    assert list(found.prompt) == usual
    assert list(found.answers[0]) == [*reader.tokenizer.encode("It is  said.\n", add_special_tokens=False), 0]


def test_no_layer_is_computed_that_nobody_reads(backbone: Path) -> None:
    """States in the middle are those before the final norm, whatever was cut off behind them."""
    middle, both = (Backbone.load(str(backbone), layers, 100, 200) for layers in ([1], [1, 2]))
    assert len(middle.model.layers) == 1
    assert torch.equal(middle.features([ask("Say")], ["eau"]), both.features([ask("Say")], ["eau"])[:, :32])


def test_a_backbone_without_a_chat_template_is_refused_by_its_key(tmp_path: Path) -> None:
    write_backbone(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(SettingsError, match="backbone: .*no chat template"):
        Backbone.load(str(tmp_path), (), 100, 200)


def test_a_backbone_that_is_built_in_is_found_by_name(builtin: Path) -> None:
    by_name, by_path = (Backbone.load(name, [1], 100, 200) for name in ("builtin:smollm2-135m", str(builtin)))
    chat = [tiny.CHAT]
    assert torch.equal(by_name.features(chat, ["A B"]), by_path.features(chat, ["A B"]))


def test_a_probe_learns_a_preference_and_the_source_loads_it(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = {"vowels": {"data": {"files": ["train.jsonl"]}}}
    vowels_win(tmp_path / "train.jsonl", 0, PROMPTS)
    vowels_win(tmp_path / "test.jsonl", PROMPTS, 20)
    config = configuration(
        tmp_path, backbone, {"method": "probe"}, heads, layers=[1, 2], evaluation={"test": {"files": ["test.jsonl"]}}
    )
    assert main(["reward", str(config)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["test"]["vowels"]["accuracy"] >= 0.95
    weights = (tmp_path / "out" / "heads.safetensors").read_bytes()
    assert main(["reward", str(config)]) == 0
    assert (tmp_path / "out" / "heads.safetensors").read_bytes() == weights  # the same run gives the same probe

    judge = preference_of(RewardSettings(kind="reward", model=tmp_path / "out"))
    p = judge([ask("Say 1")] * 4, ["eieio", "bdfgk", "aou", "x" * 99], ["bdfgk", "eieio", "aou", "e"])
    assert p[0] > 0.5
    assert p[0] + p[1] == pytest.approx(1)
    assert p[2] == 0.5  # the same answer twice, to the bit
    assert math.isnan(p[3])


def attribute_rows(path: Path) -> Path:
    """Vowels score 4 in `soft` and 0 in `hard`, consonants the reverse; both kinds of answers to every prompt."""
    rows = [
        {"prompt": f"Say {i}", "response": texts[i % 8], "scores": {"soft": soft, "hard": 4 - soft}}
        for i in range(PROMPTS)
        for texts, soft in ((VOWELS, 4.0), (CONSONANTS, 0.0))
    ]
    return write_lines(path, rows)


def test_attributes_vote(backbone: Path, tmp_path: Path) -> None:
    """A vowel answer wins soft (by regression) and soft_rank (by pairs), and loses hard: 2 votes of 3."""
    data = {"files": [str(attribute_rows(tmp_path / "scores.jsonl"))]}
    heads = {
        "soft": {"data": data, "attribute": "soft", "loss": "regression"},
        "soft_rank": {"data": data, "attribute": "soft"},
        "hard": {"data": data, "attribute": "hard", "loss": "regression"},
    }
    config = configuration(tmp_path, backbone, {"method": "probe"}, heads, evaluation={"seen": data})
    assert main(["reward", str(config)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["seen"]["soft"]["scores"]["correlation"] > 0.9

    judge = preference_of(AttributesSettings(kind="attributes", model=tmp_path / "out"))
    p = judge([ask("Say 1")] * 3, ["eieio", "bdfgk", "aou"], ["bdfgk", "eieio", "aou"])
    assert p == pytest.approx([2 / 3, 1 / 3, 0.5])
    one = preference_of(AttributesSettings(kind="attributes", model=tmp_path / "out", attributes=("hard",)))
    assert one([ask("Say 1")], ["eieio"], ["bdfgk"]) == pytest.approx([0])
    with pytest.raises(SettingsError, match="no head sweet; it has soft, soft_rank, hard"):
        preference_of(AttributesSettings(kind="attributes", model=tmp_path / "out", attributes=("sweet",)))
    with pytest.raises(SettingsError, match="head: .* has several"):
        preference_of(RewardSettings(kind="reward", model=tmp_path / "out"))


def test_an_answer_that_was_read_lately_is_not_read_again(backbone: Path) -> None:
    class Counting(Backbone):
        read = 0

        def features(self, chats: Sequence[Chat], answers: Sequence[str]) -> torch.Tensor:
            self.read += len(answers)
            return super().features(chats, answers)

    reader = Counting.load(str(backbone), (), 64, 256)
    manifest = Manifest(
        format=1, backbone="", layers=(2,), max_tokens=64, batch_tokens=256, heads=("h",), adapters=False
    )
    model = RewardModel(manifest, reader, {"h": Head(torch.arange(32.0), torch.tensor(0.5))}, remembered=3)
    first = model.both([ask("Say 1")] * 2, ["aa", "bb"], ["cc", "cc"])
    assert reader.read == 3
    again = model.both([ask("Say 1")] * 2, ["aa", "bb"], ["cc", "cc"])
    assert reader.read == 3
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    model.scores([ask("Say 2")], ["aa"])  # another chat, and the oldest answer is forgotten
    assert reader.read == 4
    model.scores([ask("Say 1")], ["aa"])
    assert reader.read == 5
    assert np.isnan(model.scores([ask("Say 1")], ["a" * 80])).all()


def test_adapters_learn_opposite_preferences_on_one_base(backbone: Path, tmp_path: Path) -> None:
    data = {"files": [str(attribute_rows(tmp_path / "scores.jsonl"))]}
    heads = {name: {"data": data, "attribute": name} for name in ("soft", "hard")}
    lora = {"method": "lora", "rank": 4, "learning_rate": 0.01, "epochs": 4, "batch": 8}
    config = configuration(tmp_path, backbone, lora, heads, batch_tokens=200)
    assert main(["reward", str(config)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for facts in report["heads"].values():
        assert facts["losses"][0] == pytest.approx(math.log(2), abs=0.1)  # a fresh head knows nothing
        assert facts["validation_loss"] < 0.2

    model = RewardModel.load(tmp_path / "out")
    assert (
        sum("lora_A" in name for name, _ in model.backbone.model.named_parameters()) == 2 * 2 * 7
    )  # 7 linears a layer
    p = preference_of(AttributesSettings(kind="attributes", model=tmp_path / "out", attributes=("soft",)))
    assert p([ask("Say 1")], ["eieio"], ["bdfgk"]) == pytest.approx([1])
    a, b = model.both([ask("Say 1")], ["eieio"], ["bdfgk"], ["soft", "hard"])
    assert a[0] > b[0]
    assert a[1] < b[1]


def test_adapters_move_and_the_base_does_not(backbone: Path, tmp_path: Path) -> None:
    data = {"files": [str(vowels_win(tmp_path / "train.jsonl", 0, PROMPTS))]}
    lora = {"method": "lora", "rank": 2, "learning_rate": 0.01}
    config = configuration(tmp_path, backbone, lora, {"vowels": {"data": data}})
    assert main(["reward", str(config)]) == 0
    base = dict(Backbone.load(str(backbone), (), 64, 64).model.named_parameters())
    model = RewardModel.load(tmp_path / "out").backbone.model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            assert parameter.abs().max() > 0, f"{name} did not move"  # it starts at zero
        elif "lora" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(parameter, base[plain]), f"{name} moved"


def test_small_passes_learn_what_one_large_pass_does(backbone: Path, tmp_path: Path) -> None:
    data = {"files": [str(vowels_win(tmp_path / "train.jsonl", 0, PROMPTS))]}
    curves = []
    for tokens in (2, 10_000):
        lora = {"method": "lora", "rank": 2, "learning_rate": 0.01, "batch": 8}
        config = configuration(tmp_path, backbone, lora, {"vowels": {"data": data}}, batch_tokens=tokens)
        assert main(["reward", str(config)]) == 0
        curves.append(json.loads((tmp_path / "out" / "report.json").read_text())["heads"]["vowels"]["losses"])
    assert curves[0] == pytest.approx(curves[1], abs=0.02)  # bf16 where it is fast


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "colour: Extra inputs"),
        ({"training": {"method": "probe", "rank": 3}}, "training.probe.rank: Extra inputs"),
        (
            {"heads": {"a": {"data": {"files": ["x"]}, "loss": "regression"}}},
            "heads.a: .*regression needs one",
        ),
        ({"heads": {"a": {"data": {}}}}, "heads.a.data: .*files and hub"),
        ({"heads": {"a.b": {"data": {"files": ["x"]}}}}, "heads.a.b"),
        ({"heads": {"default": {"data": {"files": ["x"]}}}}, "heads: .*default"),
        ({"validation": 1}, "validation: "),
    ],
)
def test_a_bad_setting_names_itself(
    tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain: dict[str, Any] = {"training": {"method": "probe"}, "heads": {"a": {"data": {"files": ["x"]}}}}
    config = configuration(tmp_path, tmp_path, **(plain | change))
    with pytest.raises(SettingsError, match=message):
        read_config(config, RewardTraining)
    assert main(["reward", str(config)]) == 1
    assert capsys.readouterr().err.startswith(f"slhf-train: {config}: ")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no reward model"):
        preference_of(RewardSettings(kind="reward", model=tmp_path))


def scored(path: Path, *scores: object) -> Path:
    rows = [
        {"prompt": f"Q {i}?", "response": f"word {i}", "scores": {"help": scores[i % len(scores)]}}
        for i in range(PROMPTS)
    ]
    return write_lines(path, rows)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_named_by_file_and_line(
    backbone: Path, tmp_path: Path, score: float, capsys: pytest.CaptureFixture[str]
) -> None:
    data = scored(tmp_path / "s.jsonl", 1, 2, score)
    heads = {"help": {"loss": "regression", "attribute": "help", "data": {"files": [str(data)]}}}
    assert main(["reward", str(configuration(tmp_path, backbone, {"method": "probe"}, heads))]) == 1
    assert f"{data}:3: not JSON: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("training", [{"method": "probe"}, {"method": "lora", "rank": 2}])
@pytest.mark.parametrize("score", [1e200, 1e308])
def test_a_training_that_leaves_the_finite_numbers_saves_nothing(
    backbone: Path, tmp_path: Path, training: dict[str, Any], score: float, capsys: pytest.CaptureFixture[str]
) -> None:
    data = scored(tmp_path / "s.jsonl", 1, -score, score)
    heads = {"help": {"loss": "regression", "attribute": "help", "data": {"files": [str(data)]}}}
    assert main(["reward", str(configuration(tmp_path, backbone, training, heads))]) == 1
    assert "no finite numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_a_setting_that_is_no_number_is_named(backbone: Path, tmp_path: Path, value: str) -> None:
    heads = {"help": {"data": {"files": ["x.jsonl"]}}}
    config = configuration(tmp_path, backbone, {"method": "lora", "learning_rate": 0.5}, heads)
    config.write_text(config.read_text().replace("learning_rate: 0.5", f"learning_rate: {value}"))
    with pytest.raises(SettingsError, match=r"training\.lora\.learning_rate: .*finite number"):
        read_config(config, RewardTraining)
