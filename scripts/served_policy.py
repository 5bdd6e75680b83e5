"""PPO whose texts a server writes, on a GPU: `python scripts/served_policy.py SERVER URL#MODEL --policy MODEL`.

Not run yet: it needs a GPU with vLLM or SGLang. It prints how far the server's log-probabilities are from those of
training, what the importance weights leave, and the seconds of each part beside a run that writes by itself.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve gpt2 --enable-lora --max-lora-rank 16 --port 8000
    python scripts/served_policy.py vllm "http://localhost:8000/v1#gpt2" --policy gpt2

    python -m sglang.launch_server --model-path gpt2 --port 30000
    python scripts/served_policy.py sglang "http://localhost:30000/v1#gpt2" --policy gpt2
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import gymnasium as gym

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    PPO,
    AdapterHandOver,
    FolderHandOver,
    LMPolicy,
    PPOConfig,
    ServedPolicy,
    load_into_sglang,
)

SHOWN = ("policy/sampling_error_mean", "policy/sampling_error_max", "policy/importance_share", "reward/mean")


def agent_of(options: argparse.Namespace, *, is_served: bool) -> PPO:
    """Return an agent that writes by itself, or whose texts the server writes."""
    policy = LMPolicy.from_pretrained(options.policy)
    if options.server == "vllm":
        policy = policy.with_lora(16)
    policy.to(options.device)
    envs = gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=options.num_envs,
        autoreset_mode="Disabled",
        tokenizer=policy.tokenizer,
        vocab_size=policy.vocab_size,
        max_new_tokens=options.max_new_tokens,
    )
    config = PPOConfig(sampling_correction=options.correction, learning_rate=1e-5, check_model=False)
    agent = PPO(policy, envs, config)
    if is_served:
        hand_over: Any = (
            AdapterHandOver(options.folder)
            if options.server == "vllm"
            else FolderHandOver(options.folder, load_into_sglang)
        )
        agent.write_with(ServedPolicy.from_server(policy, options.url, hand_over, concurrency=options.num_envs))
    return agent


def parse() -> argparse.Namespace:
    """Return the options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("server", choices=("vllm", "sglang"))
    options.add_argument("url", help="of the API with the model, http://host:port/v1#model")
    options.add_argument("--policy", required=True, help="the same model for training")
    options.add_argument("--device", default="cuda", help="torch device of the training")
    options.add_argument("--folder", default="/dev/shm/tril_gym_weights", help="folder that the server can read, too")
    options.add_argument("--correction", default="token", choices=("token", "sequence"))
    options.add_argument("--num-envs", type=int, default=256)
    options.add_argument("--max-new-tokens", type=int, default=128)
    options.add_argument("--iterations", type=int, default=5)
    return options.parse_args()


def main() -> None:
    options = parse()
    for is_served in (True, False):
        print("the server writes" if is_served else "the policy writes by itself", flush=True)
        for row in agent_of(options, is_served=is_served).learn(options.iterations, progress=False):
            shown = {
                name: value for name, value in row.items() if name in SHOWN or name.startswith(("time/", "server/"))
            }
            print(json.dumps({"iteration": row["iteration"]} | shown), flush=True)


if __name__ == "__main__":
    main()
