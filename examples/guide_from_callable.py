"""PPO++ with a plain function as guide: it takes and returns strings and needs no tokenizer.

The function here fills a template; it could also call a program or a service. It is called once per batch, and again if
it raises. The reward prefers texts of eight words, which the guide always writes. Each iteration prints a text that the
guide started, with a bar where the policy continued it. The rewards at the end are those of held-out prompts, for which
the policy writes alone.
"""

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import Guide, PPOPlusPlus, PPOPlusPlusConfig, tiny_policy
from tril_gym.experiment import evaluate


def eight_words(prompts, completions, references, extras):
    """Return the reward: 1 for a text of eight words, an eighth less per missing or extra word, at least 0."""
    return [max(0.0, 1 - abs(len(completion.split()) - 8) / 8) for completion in completions]


def name_the_concepts(prompts: list[str], completions: list[str]) -> list[str]:
    """Continue each text to eight words, such as "there is a dog and park and so."."""
    continuations = []
    for prompt, completion in zip(prompts, completions, strict=True):
        concepts = prompt.partition(":")[2].partition(".")[0].split()
        words = ["there", "is", "a", *" and ".join(concepts).split(), "and", "so", "on", "and", "on"][:8]
        left = words[len(completion.split()) :]
        continuations.append(" " + " ".join(left) + "." if left else ".")
    return continuations


def main(iterations: int = 8, num_envs: int = 64, samples: int = 3000, examples: int = 100) -> tuple[float, float]:
    settings = {"reward": eight_words, "autoreset_mode": "Disabled"}
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, **settings)
    held_out = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, split="validation", **settings)
    policy = tiny_policy(envs, samples=samples)  # pretrained on the references, and cached on disk
    guide = Guide.from_callable(name_the_concepts, retries=2)

    config = PPOPlusPlusConfig(
        rollin_prob=0.5, learning_rate=3e-4, critic_learning_rate=1e-3, normalize_advantages=True, kl_coef=0.01
    )
    agent = PPOPlusPlus(policy, guide, envs, config, seed=0)
    before = evaluate(agent.policy, held_out, seed=0, count=examples)

    def show(report) -> None:
        trajectories, decode = report.trajectories, envs.unwrapped.tokenizer.decode
        row = int((trajectories.switch > 0).int().argmax())  # the first text that has a rollin
        tokens, switch = trajectories.texts.completion_ids(row), int(trajectories.switch[row])
        print(f"{report.iteration:3d}  reward {report.metrics['reward/mean']:.3f}  {trajectories.infos[row]['prompt']}")
        print(f"    {decode(tokens[:switch])} |{decode(tokens[switch:])}")

    agent.learn(iterations, callbacks=[show], progress=False)
    after = evaluate(agent.policy, held_out, seed=0, count=examples)
    rewards = tuple(result.metrics["sampled"]["reward/mean"] for result in (before, after))
    print("held-out reward before and after: {:.3f} {:.3f}".format(*rewards))
    return rewards


if __name__ == "__main__":
    main()
