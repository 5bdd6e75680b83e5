"""What a policy, its reference and its critic weigh: the whole model trained, and LoRA on one base.

    python benchmarks/lora_memory.py [--size small|gpt2] [--rank R] [--json FILE]

Each way runs in a process of its own: bytes of distinct tensors (weights; then gradients and AdamW's two moments after
one update), and the process's peak memory. The model is GPT-2's shape with random weights; 8 texts of 24 + 16 tokens.
"""

import argparse
import json
import resource
import subprocess
import sys

SIZES = {"small": (6, 384, 6), "gpt2": (12, 768, 12)}  # layers, width, heads
WAYS = ("full", "lora, separate critic", "lora")
MIB = 2**20


def measure(way: str, size: str, rank: int) -> dict[str, float]:
    """One PPO update; megabytes by name."""
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
    if way != "full":
        policy = policy.with_lora(rank)
    envs = gym.make_vec(
        "tril/Toy-v0",
        num_envs=8,
        autoreset_mode="Disabled",
        vocab_size=config.vocab_size,
        max_prompt_length=24,
        max_new_tokens=16,
    )
    critic = "separate" if way == "lora, separate critic" else None
    agent = PPO(policy, envs, PPOConfig(epochs=1, minibatch_size=8, critic=critic)).learn(1)
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
        "peak": (peak() - imported) / MIB,
    }


def distinct(tensors: list) -> int:
    """Bytes of memory that these tensors stand in, counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--json", help="also write the figures there")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.size, options.rank)))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--size", options.size, "--rank", str(options.rank)]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = list(found[WAYS[0]])
    print("| MiB | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for way, figures in found.items():
        print(f"| {way} | " + " | ".join(f"{figures[name]:.1f}" for name in names) + " |")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"size": options.size, "rank": options.rank, "ways": found}, file, indent=2)
    if found["lora"]["weights"] > 1.05 * found["lora"]["one model"]:
        raise SystemExit("LoRA holds more than one base model in memory")


if __name__ == "__main__":
    main()
