"""Your own data files: clone the references first, then train with a reward, save, load and predict.

The files describe what an animal does in a place, in the columns of CommonGen. All output is written to one folder, by
default a temporary one.
"""

import json
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import BC, PPO, BCConfig, PPOConfig, tiny_policy

ANIMALS = {"dog": "barks", "cat": "sleeps", "bird": "sings", "horse": "runs", "fish": "swims", "cow": "eats"}
PLACES = ("park", "house", "garden", "field", "river", "street", "forest", "kitchen", "yard", "boat", "road", "farm")


def write_data(folder: Path) -> None:
    """Write one file per split, one JSON object per line; every seventh pair is for validation."""
    rows = [
        {"concepts": [animal, place], "references": [f"the {animal} {does} in the {place}."]}
        for animal, does in ANIMALS.items()
        for place in PLACES
    ]
    splits = {"train": [row for number, row in enumerate(rows) if number % 7], "validation": rows[::7]}
    for split, part in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def write(agent: PPO, env: gym.Env, example: int) -> tuple[float, str]:
    """Write one text with an agent, greedily, one step at a time; return its reward and the whole text."""
    observation, info = env.reset(options={"example": example})
    terminated = False
    while not terminated:
        action, _ = agent.predict(observation)
        observation, reward, terminated, _, info = env.step(action)
    return reward, info["prompt"] + info["completion"]


def main(folder: str | None = None, bc_iterations: int = 16, ppo_iterations: int = 16, num_envs: int = 64) -> float:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(folder or temporary)
        data = home / "data"
        data.mkdir(parents=True)
        write_data(data)

        settings = {"dataset": str(data), "reward": "concept_coverage", "max_new_tokens": 12}
        envs = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, autoreset_mode="Disabled", **settings)
        policy = tiny_policy(envs, samples=0)  # untrained: behaviour cloning trains it

        cloning = BC(policy, envs, BCConfig(learning_rate=2e-3, minibatch_size=16), seed=0)
        cloning.learn(bc_iterations)

        # PPO continues with the cloned policy, and keeps a copy of it as reference policy for the KL penalty.
        config = PPOConfig(learning_rate=3e-4, critic_learning_rate=1e-3, normalize_advantages=True, kl_coef=0.02)
        agent = PPO(cloning.policy, envs, config, seed=0)
        print(agent.learn(ppo_iterations))  # the metrics of the first and the last iteration

        agent.save(home / "agent")
        loaded = PPO.load(home / "agent", envs=envs)
        assert loaded.iteration == ppo_iterations
        observations, _ = envs.reset(seed=0)
        assert np.array_equal(loaded.predict(observations)[0], agent.predict(observations)[0])

        env = gym.make("tril/CommonGen-v0", split="validation", **settings)
        written = [write(loaded, env, example) for example in range(len(env.unwrapped.examples))]
    for reward, text in written:
        print(f"{reward:.2f}  {text}")
    return float(np.mean([reward for reward, _ in written]))


if __name__ == "__main__":
    main()
