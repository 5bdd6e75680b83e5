"""Text generation as an environment in which every step appends one token."""

from __future__ import annotations

import operator
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded

from tril_gym.envs.arrays import Ids, Mask
from tril_gym.envs.base import TextEnvMixin
from tril_gym.envs.config import TextEnvConfig
from tril_gym.envs.restart import SAMPLE_EXAMPLE, read_restart
from tril_gym.envs.text_batch import TextBatch
from tril_gym.envs.text_image import text_image
from tril_gym.utils.tokenization import UNREADABLE

Image = npt.NDArray[np.uint8]
RENDER_MODES = ("ansi", "human", "rgb_array")
METADATA: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # tokens a second
NO_RENDER_MODE = (
    f"render() needs a render mode: make the environment with render_mode={' or '.join(map(repr, RENDER_MODES))}"
)
ROW = np.zeros(1, np.int64)  # the only row of the batch


class TextEnv(TextEnvMixin, gym.Env[Any, Any]):
    """Write a completion of a prompt, one token per step.

    ## Description
    An episode is one text. `reset` draws an example; `step` appends a token to its completion.

    ## Observation
    `Box(-1, V-1, (P+T,), int64)`: the prompt aligned right in the first P columns, the completion so far in the other
    T, -1 where there is no token. So the attention mask is `observation >= 0`.

    ## Action
    `Discrete(V)`, a token id. EOS is an action like any other. `action_masks()` returns the advised actions.

    ## Reward
    That of `config.reward_fn`, else 0; wrappers such as `TextReward` add the score of the finished text.

    ## Episode end
    `terminated` at EOS or a stop string (`info["finish_reason"] == "stop"`), or at the T-th token (`"length"`). Never
    `truncated`.

    ## Restart
    `reset(options={"example": index, "completion": token ids})` begins an episode in any state.

    ## Version history
    v0: first version.
    """

    metadata = METADATA

    def __init__(self, config: TextEnvConfig, *, render_mode: str | None = None) -> None:
        self.config = config
        self.render_mode = check_render_mode(render_mode)
        self.metadata = dict(type(self).metadata) | {"text": config.metadata(restart="single")}
        self.observation_space = config.observation_space()
        self.action_space = config.action_space()
        self._text = TextBatch(config, num_texts=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Ids, dict[str, Any]]:
        """Begin a text, of an example drawn uniformly or in the state given by `options`."""
        example, completion = read_restart(options, self.config)
        super().reset(seed=seed)
        if example == SAMPLE_EXAMPLE:
            example = int(self.np_random.integers(len(self.config.examples)))
        self._text.start(ROW, [(example, completion)])
        if self.render_mode == "human":
            print(self._text.frame(0).removesuffix("…"), end="", flush=True)
        return self._text.observations[0].copy(), self._text.reset_info(0)

    def step(self, action: Any) -> tuple[Ids, float, bool, bool, dict[str, Any]]:
        """Append one token."""
        if not self._text.is_writing[0]:
            raise ResetNeeded("this text has ended, or none has begun: call reset() before step()")
        rewards, has_ended = self._text.write(None, self._check_action(action))
        terminated = bool(has_ended[0])
        if self.render_mode == "human":
            self._print_last_token()
        info = self._text.end_info(0) if terminated else {}
        return self._text.observations[0].copy(), float(rewards[0]), terminated, False, info

    def action_masks(self) -> Mask:
        """Return (V,), True on the advised actions: all but EOS before `min_new_tokens`."""
        return self.config.action_masks(self._text.lengths)[0]

    def render(self) -> str | Image | None:  # type: ignore[override]
        """Return the text so far ("ansi") or its image ("rgb_array"); in "human" mode each step prints its token."""
        if self.render_mode is None:
            gym.logger.warn(NO_RENDER_MODE)
            return None
        if self._text.examples[0] < 0:
            raise ResetNeeded("there is no text yet: call reset() before render()")
        return rendered(self._text.frame(0), self.render_mode)

    def _check_action(self, action: Any) -> Ids:
        """Return an action as an int64 array of shape (1,)."""
        try:
            return np.array([operator.index(action)], np.int64)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"an action is one token id, got {action!r}") from error

    def _print_last_token(self) -> None:
        tokens = self._text.tokens(0)
        # All tokens are decoded, since a character may consist of several; it is printed with the last of them.
        before, text = self.config.completion(tokens[:-1]).rstrip(UNREADABLE), self.config.completion(tokens)
        if self._text.is_writing[0]:
            text, end = text.rstrip(UNREADABLE), ""
        else:
            end = f" [{self.config.finish_reason(tokens)}]\n"
        print(text[len(before) :], end=end, flush=True)


def rendered(frame: str, render_mode: str) -> str | Image | None:
    """Return a frame as a render mode shows it; None in "human" mode, in which steps print."""
    if render_mode == "rgb_array":
        return text_image(frame)
    return frame if render_mode == "ansi" else None


def check_render_mode(render_mode: str | None) -> str | None:
    """Return a render mode.

    Raises:
        TypeError: text environments do not have it. Other libraries try modes and expect this error.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise TypeError(f"render_mode must be None, {' or '.join(map(repr, RENDER_MODES))}, got {render_mode!r}")
    return render_mode
