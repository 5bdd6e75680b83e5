"""Reward the whole text at its last step: one term of a reward, around a single environment or a vector one.

Terms add up by wrapping: `TextReward(TextReward(env, "cider_d", weight=0.1), "concept_coverage")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from tril_gym.utils.deferred_rewards import SCORES
from tril_gym.utils.no_copy import wrap_no_copy
from tril_gym.wrappers.reward_term import HasTerm, load_term, with_main_process_reward
from tril_gym.wrappers.vector_text_reward import VectorTextReward


class TextReward(HasTerm, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Add the weighted score of the whole text to the reward of its last step.

    Around a vector environment this makes a `VectorTextReward`. `info["scores"][name]` shows the score unweighted.

    Args:
        env: a text environment: its ending step's info has prompt, completion, references and extras.
        score: a reward's name, a `Score`, or a function of (prompts, completions, references, extras).
        weight: factor of the score.
        name: the term's name, by default the score's.
        settings: keywords of a reward by name.
        fitted: a folder with what a reward by name was fitted to.
        defer: see `VectorTextReward`.
        workers: see `VectorTextReward`.
    """

    def __new__(cls, env: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the wrapper for the kind of environment (no `env`: an empty one, for copy and pickle)."""
        if isinstance(env, VectorEnv):
            return VectorTextReward(env, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        env: gym.Env,
        score: Any,
        *,
        weight: float = 1.0,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
        fitted: str | Path | None = None,
        defer: bool | None = None,
        workers: int | None = None,
    ) -> None:
        if defer:
            raise ValueError(
                "defer=True scores the rows of a vector environment together, and a single environment has no rows;"
                " leave defer out"
            )
        if workers:
            raise ValueError(
                f"workers={workers} score texts while the other rows of a vector environment are still written, and a"
                " single environment has no other rows; leave workers out"
            )
        RecordConstructorArgs.__init__(
            self,
            score=wrap_no_copy(score),
            weight=weight,
            name=name,
            settings=wrap_no_copy(settings),
            fitted=wrap_no_copy(fitted),
            defer=defer,
            workers=workers,
        )
        gym.Wrapper.__init__(self, env)
        self.term = load_term(env, score, weight=weight, name=name, settings=settings, fitted=fitted)
        if self.term.score.main_process:
            self.metadata = with_main_process_reward(self.metadata)
        self._shown = ""  # the score of a text that has just ended, for render()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; where the text is finished, add its score."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._shown = ""
        if "completion" in info:
            value = float(self.term([info])[0])
            info[SCORES] = info.get(SCORES, {}) | {self.term.name: value}
            reward = reward + self.term.weight * value  # type: ignore[operator]
            self._shown = f"{self.term.name} {value:.4g}"
            if self.render_mode == "human":
                print(self._shown, flush=True)
        return observation, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a new text has no score yet."""
        self._shown = ""
        return self.env.reset(seed=seed, options=options)

    def render(self) -> Any:
        """Return the frame; where the text is finished, with its score."""
        frame = self.env.render()
        return f"{frame} {self._shown}" if isinstance(frame, str) and self._shown else frame
