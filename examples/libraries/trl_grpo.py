"""GRPO of TRL on embedded CommonGen: prompts and rewards of the environment, a tiny model of its tokenizer.

pip install trl
python examples/libraries/trl_grpo.py
"""

import gymnasium as gym
from trl import GRPOConfig, GRPOTrainer

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import tiny_policy
from tril_gym.bridges import prompt_dataset, reward_functions, reward_weights


def main(steps: int = 40, samples: int = 8_000, folder: str = "grpo") -> tuple[float, float]:
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=64)
    policy = tiny_policy(envs, width=64, samples=samples, epochs=6, learning_rate=2e-3)
    arguments = GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=envs.metadata["text"]["max_new_tokens"],
        learning_rate=2e-4,
        reward_weights=reward_weights(envs),
        logging_steps=1,
        report_to="none",
        use_cpu=True,
    )
    trainer = GRPOTrainer(
        policy.model, reward_functions(envs), arguments, prompt_dataset(envs), processing_class=policy.tokenizer
    )
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    print(f"mean reward of a batch's texts: {rewards[0]:.3f} at first, {rewards[-1]:.3f} after {steps} steps")
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    main()
