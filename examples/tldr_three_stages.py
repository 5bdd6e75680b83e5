"""Summarisation in three stages: clone summaries, train a reward model on preferences, train with that reward.

As in Stiennon et al. 2020 (https://arxiv.org/abs/2009.01325), but on embedded posts, and small enough for a CPU.
There are no human preferences for these, so the pairs are synthetic: a reference is preferred to its first half, and to
itself repeated. docs/reward_model.md shows the same stages on the command line, with your own pairs.
"""

import json
import tempfile
from pathlib import Path

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import BC, PPO, BCConfig, PPOConfig, tiny_policy
from tril_gym.experiment import evaluate
from tril_gym.reward_model import RewardModelConfig, prepare_reward_model


def write_pairs(path: Path, examples) -> None:
    """Write preference pairs, one JSON object per line: prompt, chosen, rejected."""
    with path.open("w") as file:
        for example in examples:
            words = example.references[0].split()
            for rejected in (words[: len(words) // 2], words + words):
                row = {"prompt": example.prompt, "chosen": example.references[0], "rejected": " ".join(rejected)}
                file.write(json.dumps(row) + "\n")


def main(
    folder: str | None = None, bc_iterations: int = 24, posts: int = 400, ppo_iterations: int = 8, num_envs: int = 64
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(folder or temporary)
        home.mkdir(exist_ok=True)

        # 1. Supervised: behaviour cloning of the references.
        envs = gym.make_vec("tril/TLDR-v0", num_envs=num_envs, autoreset_mode="Disabled")
        policy = tiny_policy(envs, samples=0)  # untrained
        cloning = BC(policy, envs, BCConfig(learning_rate=2e-3, minibatch_size=16), seed=0)
        cloning.learn(bc_iterations)

        # 2. The reward model, saved as a sequence classifier of transformers.
        # The template leaves out the posts, from which a tiny model learns nothing.
        write_pairs(home / "pairs.jsonl", envs.unwrapped.examples[:posts])
        config = RewardModelConfig(dataset=str(home / "pairs.jsonl"), template="{completion}")
        prepare_reward_model(config, home / "reward_model").run()

        # 3. Reinforcement learning: reward from the reward model, with a KL penalty towards the cloned policy.
        rewarded = {
            "reward": "preference",
            "reward_settings": {"preference": {"model": str(home / "reward_model")}},
            "autoreset_mode": "Disabled",
        }
        envs = gym.make_vec("tril/TLDR-v0", num_envs=num_envs, **rewarded)
        held_out = gym.make_vec("tril/TLDR-v0", num_envs=num_envs, split="validation", **rewarded)
        config = PPOConfig(
            learning_rate=3e-4, critic_learning_rate=1e-3, normalize_advantages=True, kl_coef=0.05, temperature=0.7
        )
        agent = PPO(cloning.policy, envs, config, seed=0)
        before = evaluate(agent.policy, held_out, seed=0, count=num_envs)
        print(agent.learn(ppo_iterations))  # the metrics of the first and the last iteration
        after = evaluate(agent.policy, held_out, seed=0, count=num_envs)

    for sample in after.samples:
        print(f"{sample['reward']:6.3f}  {sample['prompt'][-120:]}{sample['completion']}")
    rewards = tuple(result.metrics["sampled"]["reward/mean"] for result in (before, after))
    print("held-out reward before and after PPO: {:.3f} {:.3f}".format(*rewards))
    return rewards


if __name__ == "__main__":
    main()
