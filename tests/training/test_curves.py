"""The picture of a run's curves shows what was logged, step by step."""

from pathlib import Path

import numpy as np

from slhf_training.fit.curves import PANELS, VERIFIED, draw
from slhf_training.fit.run import checkpoint_of, history_of
from slhf_training.fit.validation import Validation
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as
from tests.training.test_validation import HELD_OUT, OTHER


def test_every_curve_is_of_something_that_a_run_logs(tmp_path: Path) -> None:
    fit = tiny.settings(tmp_path, validation={**OTHER, "every": 1}, save_every=1)
    tiny.trainer(fit, fewer_as, CHATS, validation=Validation(HELD_OUT, fewer_as, CHATS)).train()
    log = history_of(checkpoint_of(tmp_path, None))
    for panel, axes in zip(PANELS, draw(log).axes, strict=True):
        assert axes.get_title() == panel.title
        shown = {str(line.get_label()): line for line in axes.lines}
        for name, key in panel.lines.items():
            steps = [(entry["step"], entry[key]) for entry in log if key in entry]
            assert [*map(tuple, np.asarray(shown[name].get_xydata()).tolist())] == steps
            assert [step for step, _ in steps] == [1, 2]


def test_a_judge_that_knows_has_a_panel_for_the_shares_that_are_right() -> None:
    log = [{"step": 1, "leader/right": 0.2, "follower/right": 0.4}, {"step": 1, "validation/reference/right": 0.3}]
    *others, last = draw(log).axes
    assert [axes.get_title() for axes in others] == [panel.title for panel in PANELS]
    assert last.get_title() == VERIFIED.title
    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in last.lines}
    assert lines == {"Leader": [[1, 0.2]], "Follower": [[1, 0.4]], "untrained, held-out chats": [[1, 0.3]]}


def test_win_rates_have_their_intervals() -> None:
    log = [{"step": step, "validation/win_rate": 0.5, "validation/low": 0.4, "validation/high": 0.7} for step in (1, 2)]
    first, *_ = draw(log).axes
    (band,) = first.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (0.4, 0.7)


def test_what_was_not_logged_is_left_out() -> None:
    """A run without a validation, as all were before there was one."""
    log = [{"step": 1, "leader/kl": 0.1, "sampler_gap": 0.01}, {"step": 1, "train_runtime": 3.0}]
    shown = {axes.get_title(): [line.get_label() for line in axes.lines] for axes in draw(log).axes}
    assert shown["KL to the reference, nats an answer"] == ["Leader"]
    assert shown["entropy on held-out chats, nats a token"] == []
