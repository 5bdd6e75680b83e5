"""PPO++: a guide starts texts, and the policy finishes them.

Prints each text as the guide's part, a bar, and the policy's part. The guide here is the tiny policy's
own model, sampled at a low temperature. A supervised model of your own is
`Guide(LMPolicy.from_pretrained(folder), top_p=0.92)`, the references are `Guide.references()`, and any other code that
writes texts is an actor (docs/your_own_agent.md).
"""

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import PPOPlusPlus, PPOPlusPlusConfig, tiny_guide, tiny_policy


def main(iterations: int = 5, num_envs: int = 64, samples: int = 3000) -> float:
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, autoreset_mode="Disabled")
    policy = tiny_policy(envs, samples=samples)
    guide = tiny_guide(envs, samples=samples)

    config = PPOPlusPlusConfig(rollin_prob=0.8, learning_rate=3e-4, critic_learning_rate=1e-3, kl_coef=0.01)
    agent = PPOPlusPlus(policy, guide, envs, config, seed=0)

    shares = []

    def show(report) -> None:
        metrics = report.metrics
        shares.append(metrics["rollin/share"])
        print(
            f"{report.iteration:3d}  reward {metrics['reward/mean']:.3f}  kl {metrics['kl']:.2f}"
            f"  rollins {metrics['rollin/share']:.2f} of {metrics['rollin/length']:.1f} tokens"
        )
        trajectories, decode = report.trajectories, envs.unwrapped.tokenizer.decode
        for row in range(2):
            tokens = trajectories.texts.completion_ids(row)
            switch = int(trajectories.switch[row])
            print(f"     {trajectories.infos[row]['prompt']}{decode(tokens[:switch])} |{decode(tokens[switch:])}")

    agent.learn(iterations, callbacks=[show], progress=False)
    return sum(shares) / len(shares)


if __name__ == "__main__":
    main()
