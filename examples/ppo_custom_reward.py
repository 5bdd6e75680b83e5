"""PPO with a custom reward: any function of a batch of texts.

The reward here prefers texts of eight words. The policy is a tiny model that needs no download. The rewards before and
after training are those of held-out prompts.
"""

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import PPO, PPOConfig, tiny_policy
from tril_gym.experiment import evaluate


def eight_words(prompts, completions, references, extras):
    """Return 1 for a text of eight words, an eighth less per missing or extra word, at least 0."""
    return [max(0.0, 1 - abs(len(completion.split()) - 8) / 8) for completion in completions]


def main(iterations: int = 15, num_envs: int = 64, samples: int = 3000, examples: int = 100) -> tuple[float, float]:
    settings = {"reward": eight_words, "autoreset_mode": "Disabled"}
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, **settings)
    held_out = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, split="validation", **settings)

    policy = tiny_policy(envs, samples=samples)  # pretrained on the references, and cached on disk
    config = PPOConfig(learning_rate=3e-4, critic_learning_rate=1e-3, normalize_advantages=True, kl_coef=0.01)
    agent = PPO(policy, envs, config, seed=0)

    before = evaluate(agent.policy, held_out, seed=0, count=examples)
    agent.learn(iterations)  # shows its progress on a terminal and in a notebook
    after = evaluate(agent.policy, held_out, seed=0, count=examples)

    rewards = tuple(result.metrics["sampled"]["reward/mean"] for result in (before, after))
    print("held-out reward before and after: {:.3f} {:.3f}".format(*rewards))
    for sample in after.samples:
        print(f"{sample['reward']:6.3f}  {sample['prompt']}{sample['completion']}")
    return rewards


if __name__ == "__main__":
    main()
