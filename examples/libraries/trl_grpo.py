"""GRPO of TRL on embedded CommonGen: prompts and rewards of the environment, a tiny model of its tokenizer.

The rewards before and after training are those of sampled texts for held-out prompts.

pip install trl
python examples/libraries/trl_grpo.py
"""

import gymnasium as gym
from common import show
from trl import GRPOConfig, GRPOTrainer

from tril_gym.agents import tiny_policy
from tril_gym.bridges import prompt_dataset, reward_functions, reward_weights
from tril_gym.experiment import evaluate


def main(steps: int = 60, samples: int = 8_000, texts: int = 200, folder: str = "grpo") -> tuple[float, float]:
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=64)
    held_out = gym.make_vec("tril/CommonGen-v0", num_envs=64, split="validation", autoreset_mode="Disabled")
    policy = tiny_policy(envs, samples=samples)
    arguments = GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=envs.metadata["text"]["max_new_tokens"],
        learning_rate=1e-3,
        reward_weights=reward_weights(envs),
        gradient_checkpointing=False,
        report_to="none",
        use_cpu=True,
    )
    trainer = GRPOTrainer(
        policy.model, reward_functions(envs), arguments, prompt_dataset(envs), processing_class=policy.tokenizer
    )
    before = evaluate(policy, held_out, seed=0, count=texts)
    trainer.train()
    after = evaluate(policy, held_out, seed=0, count=texts)
    return show(*(found.metrics["sampled"]["reward/mean"] for found in (before, after)))


if __name__ == "__main__":
    main()
