"""The progress bar: rewards, KL, win rate and tokens per second, on the main process."""

from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

SHOWN = {
    "leader/reward": "L",
    "follower/reward": "F",
    "leader/kl": "KL_L",
    "follower/kl": "KL_F",
    "follower/win_rate": "F beats L",
    "tokens_per_second": "tok/s",
}


class Progress(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self._bar is not None and logs:
            self._bar.set_postfix({name: f"{logs[key]:.3g}" for key, name in SHOWN.items() if key in logs})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
