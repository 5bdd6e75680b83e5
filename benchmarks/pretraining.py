"""How the pretraining of a tiny policy decides what its texts are worth: held-out likelihood and held-out reward.

Prints the negative log-likelihood of validation references in nats per token, then the reward, the length and the share
of texts with unknown words of validation texts, greedy and sampled. DATA is a folder, for the preset small, or
`embedded`, for the preset of that name; the options are settings that differ from it:

    python benchmarks/pretraining.py DATA [--epochs 1] [--dropout 0.1] [--minibatch-size 32] [--learning-rate 1e-3]
"""

from __future__ import annotations

import argparse
import time

from learning import POLICIES, envs_of_split, reference_nll

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import PPOConfig, tiny_policy
from tril_gym.experiment import configure, evaluate, training_words
from tril_gym.experiment.resolution import tiny_settings

SHOWN = ("reward/mean", "reward/stderr", "text/length", "text/unknown_words")


def main() -> None:
    """Pretrain, or load from the cache, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of the data set, or embedded")
    parser.add_argument("--env", default="tril/CommonGen-v0")
    parser.add_argument("--policy", default="tiny", choices=POLICIES)
    for name in ("epochs", "dropout", "learning-rate", "weight-decay"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--lr-schedule", choices=("constant", "linear", "cosine"))
    for name in ("samples", "minibatch-size", "lr-warmup", "width", "layers", "heads"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--examples", type=int, default=1000, help="validation examples to judge by")
    parser.add_argument("--device", default="cpu")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    names = ("data", "env", "policy", "examples", "device")
    data, env, policy_name, examples, device = (given.pop(name) for name in names)

    preset = "embedded" if data == "embedded" else "small"
    config = configure("ppo", env=env, policy=policy_name, preset=preset, dataset=data, device=device)
    train, held_out = envs_of_split(config, "train", config.num_envs), envs_of_split(config, "validation", examples)
    begin = time.perf_counter()
    settings = tiny_settings(config) | {"device": device} | given
    policy = tiny_policy(train, kind=POLICIES[policy_name], **settings)
    seconds = time.perf_counter() - begin
    policy = policy.with_decoding(PPOConfig(**config.hyperparameters).decoding())
    found = evaluate(policy, held_out, seed=10, count=examples, known_words=training_words(train))
    print(f"{given}: {reference_nll(policy, held_out):.3f} nats a token, {seconds:.0f} s of pretraining")
    for decoding, row in found.metrics.items():
        print(f"  {decoding}: " + ", ".join(f"{name} {row[name]:.4f}" for name in SHOWN))


if __name__ == "__main__":
    main()
