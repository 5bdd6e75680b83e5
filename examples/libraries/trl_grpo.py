"""GRPO of TRL on the toy environment: its prompts, and its reward as a function of texts, which TRL needs.

The rewards before and after training are the environment's own, of sampled texts.

pip install trl
python examples/libraries/trl_grpo.py
"""

import gymnasium as gym
from common import show
from trl import GRPOConfig, GRPOTrainer

from tril_gym.agents import tiny_policy
from tril_gym.bridges import prompt_dataset, reward_functions, reward_weights
from tril_gym.experiment import evaluate

GOOD = {f"w{number}" for number in range(2, 16, 3)}


def good_words(completions: list[str]) -> list[float]:
    """Return the share of the 8 possible words that are good, the environment's own reward."""
    return [sum(word in GOOD for word in text.split()) / 8 for text in completions]


def main(steps: int = 60, texts: int = 512, folder: str = "grpo") -> tuple[float, float]:
    envs = gym.make_vec("tril/Toy-v0", num_envs=64, reward=good_words)
    own = gym.make_vec("tril/Toy-v0", num_envs=64, autoreset_mode="Disabled")
    policy = tiny_policy(envs, samples=0)  # random weights
    arguments = GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=envs.metadata["text"]["max_new_tokens"],
        learning_rate=3e-3,
        reward_weights=reward_weights(envs),
        gradient_checkpointing=False,
        report_to="none",
        use_cpu=True,
    )
    trainer = GRPOTrainer(
        policy.model, reward_functions(envs), arguments, prompt_dataset(envs), processing_class=policy.tokenizer
    )
    before = evaluate(policy, own, seed=0, count=texts)
    trainer.train()
    after = evaluate(policy, own, seed=0, count=texts)
    return show(*(found.metrics["sampled"]["reward/mean"] for found in (before, after)))


if __name__ == "__main__":
    main()
