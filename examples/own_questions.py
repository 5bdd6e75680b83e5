"""Train on questions of your own, whose answers a program can check: rows, column names, and a reward by name.

    python examples/own_questions.py

The policy is a tiny one, pretrained on answers of which nearly half are wrong.
"""

from __future__ import annotations

import random

import gymnasium as gym

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import PPO, PPOConfig, tiny_policy
from tril_gym.experiment import evaluate

COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sky": "blue", "a lemon": "yellow"}
QUESTIONS = ("Which colour has {}?", "Tell me the colour of {}.", "{}: which colour?", "What colour is {}?")


def rows() -> list[dict[str, str]]:
    """Return questions, each with its answer and a completion that is wrong in nearly half of the rows."""
    rng, found = random.Random(0), []
    for form in QUESTIONS:
        for thing, colour in COLOURS.items():
            written = colour if rng.random() < 2 / 3 else rng.choice(list(COLOURS.values()))
            found.append({"question": form.format(thing), "written": written, "answer": colour})
    return found


def main(iterations: int = 30, num_envs: int = 64, samples: int = 2_000, examples: int = 24) -> tuple[float, float]:
    """Train; return the mean share of right answers before and after."""
    envs = gym.make_vec(
        "tril/Text-v0",
        num_envs=num_envs,
        dataset=rows(),
        column={"prompt": "question", "completion": "written"},
        tokenizer="fit",
        reward="exact_match",
        reward_settings={"exact_match": {"against": "answer"}},
        autoreset_mode="Disabled",
    )
    policy = tiny_policy(envs, samples=samples)
    before = evaluate(policy, envs, seed=0, count=examples).metrics["sampled"]["reward/mean"]
    agent = PPO(policy, envs, PPOConfig(learning_rate=1e-3, epochs=1))
    agent.learn(iterations=iterations)
    after = evaluate(agent.policy, envs, seed=0, count=examples).metrics["sampled"]["reward/mean"]
    print(f"right answers: {before:.0%} before, {after:.0%} after")
    return before, after


if __name__ == "__main__":
    main()
