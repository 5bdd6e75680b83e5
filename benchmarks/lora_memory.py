"""Measure the memory of policy, reference policy and critic: the whole model trained, and LoRA on one base model.

    python benchmarks/lora_memory.py [--size small|gpt2] [--rank R] [--output FILE.json]

Each variant runs in its own process: bytes of distinct tensors (weights; then gradients and AdamW's two moments after
one update), and the peak memory of the process. The model has GPT-2's shape and random weights; 8 texts of 24 + 16
tokens.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from worker import MIB, peak

SIZES = {"small": (6, 384, 6), "gpt2": (12, 768, 12)}  # layers, width, heads
VARIANTS = ("full", "lora, separate critic", "lora")


def measure(variant: str, size: str, rank: int) -> dict[str, float]:
    """Run one PPO update; return MiB by name."""
    import gymnasium as gym
    import torch
    import transformers

    import tril_gym  # noqa: F401  registers the environments
    from tril_gym.agents import PPO, LMPolicy, PPOConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    imported = peak()
    layers, width, heads = SIZES[size]
    config = transformers.GPT2Config(n_layer=layers, n_embd=width, n_head=heads, n_positions=64)
    policy = LMPolicy(transformers.GPT2LMHeadModel(config), None)
    base = sum(weight.nbytes for weight in policy.model.parameters())
    if variant != "full":
        policy = policy.with_lora(rank)
    envs = gym.make_vec(
        "tril/Toy-v0",
        num_envs=8,
        autoreset_mode="Disabled",
        vocab_size=config.vocab_size,
        max_prompt_length=24,
        max_new_tokens=16,
    )
    critic = "separate" if variant == "lora, separate critic" else None
    agent = PPO(policy, envs, PPOConfig(epochs=1, minibatch_size=8, critic=critic))
    agent.learn(1, progress=False)
    learner = agent.learner
    critic, critic_optimizer = learner.critic("policy")
    models = [agent.policy.model, learner.ref_policy.model, critic.model, critic.head]
    weights = [weight for model in models for weight in [*model.parameters(), *model.buffers()]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    moments = [
        moment
        for optimizer in (learner.optimizer, critic_optimizer)
        for state in optimizer.state.values()
        for moment in state.values()
    ]
    return {
        "one model": base / MIB,
        "weights": distinct(weights) / MIB,
        "trained": sum(weight.nbytes for weight in weights if weight.requires_grad) / MIB,
        "gradients and moments": distinct(gradients + moments) / MIB,
        "peak": peak() - imported,
    }


def distinct(tensors: list) -> int:
    """Return the bytes of the storages of these tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--size", choices=SIZES, default="gpt2", help="size of the model")
    options.add_argument("--rank", type=int, default=8, help="LoRA rank")
    options.add_argument("--output", type=Path, help="JSON file to which the results are written")
    options.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    settings = options.parse_args()
    if settings.variant:
        print(json.dumps(measure(settings.variant, settings.size, settings.rank)))
        return
    results = {}
    for variant in VARIANTS:
        command = [
            sys.executable,
            __file__,
            "--variant",
            variant,
            "--size",
            settings.size,
            "--rank",
            str(settings.rank),
        ]
        results[variant] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = list(results[VARIANTS[0]])
    print("| MiB | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for variant, sizes in results.items():
        print(f"| {variant} | " + " | ".join(f"{sizes[name]:.1f}" for name in names) + " |")
    if settings.output:
        content = {"size": settings.size, "rank": settings.rank, "variants": results}
        settings.output.write_text(json.dumps(content, indent=2) + "\n")
    if results["lora"]["weights"] > 1.05 * results["lora"]["one model"]:
        raise SystemExit("LoRA holds more than one base model in memory")


if __name__ == "__main__":
    main()
