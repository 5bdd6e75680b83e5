"""Measure the memory of a process that trains with others: replicas of the models, or shards of them (FSDP2).

    python -m torch.distributed.run --nproc-per-node 2 benchmarks/sharding.py [--replicas | --by-block]
        [--lora-rank 8]

A GPT-2 of 124 M random weights in float32 is trained by PPO with a separate critic for one iteration of 8 texts of 16 +
8 tokens; with LoRA, the critic is an adapter on the same base. Shown for the main process: the bytes that it holds
between two iterations, by what they are for, beside the formula of docs/scaling.md; the most that is gathered of the
policy in a pass that writes, all at once or by block; the seconds of writing; and with --device cuda the peaks of
collecting and learning. Started without a launcher, it is one process whose only shard is the whole model, on a GPU
through NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import side_by_side
import torch
import torch.distributed as dist
from benchmark_models import gpt2, prompts_of_words, text_envs, tokenizer_of_words

from tril_gym.agents import PPO, LMPolicy, PPOConfig
from tril_gym.models.sharding import blocks_of
from tril_gym.utils.ranks import Ranks, SeveralRanks, join_ranks

MIB = 2**20
TEXTS, PROMPT, NEW = 8, 16, 8


def ranks_of(device: str, *, shards: bool, by_block: bool) -> Ranks:
    """Join the processes of a launcher; without one, begin a group of one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return join_ranks(device, shards=shards, writes_by_block=by_block)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return SeveralRanks(shards=shards, writes_by_block=by_block)


def agent_of(sizes: dict[str, int], ranks: Ranks, device: str, lora_rank: int) -> PPO:
    """Return an agent whose environment has this process's share of the texts."""
    rows, vocab_size = TEXTS // ranks.size, sizes["vocab_size"]
    envs = text_envs(
        prompts_of_words(rows, PROMPT, vocab_size=vocab_size),
        tokenizer_of_words(vocab_size),
        rows,
        prompt_length=PROMPT,
        new_tokens=NEW,
        vocab_size=vocab_size,
        reward=lambda prompts, completions, references, extras: [len(text) / 50 for text in completions],
    )
    policy = LMPolicy(gpt2(positions=PROMPT + NEW, **sizes), None).to(device)
    policy = policy.with_lora(lora_rank) if lora_rank else policy
    return PPO(policy, envs, PPOConfig(minibatch_size=TEXTS, epochs=1, check_model=False), ranks=ranks)


def held_bytes(tensors: Iterable[Any]) -> int:
    """Return the bytes of tensors that this process holds, of sharded ones its part; each memory once."""
    own = [tensor.to_local() if isinstance(tensor, dist.tensor.DTensor) else tensor for tensor in tensors]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in own if tensor.numel()}.values())


def watch_gathered(model: Any) -> list[int]:
    """Return a list that grows by the whole bytes of a sharded model that its process holds in each pass of a block."""
    found: list[int] = []

    def note(*_: Any) -> None:
        whole = [value for value in model.parameters() if not isinstance(value, dist.tensor.DTensor)]
        if torch.is_inference_mode_enabled():  # a pass that writes
            found.append(sum(value.nbytes for value in whole))

    for block in blocks_of(model):
        block.register_forward_pre_hook(note)
    return found


def moments(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return the tensors of an optimizer's state."""
    return [value for state in optimizer.state.values() for value in state.values() if value.ndim]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    options.add_argument("--device", default="cpu", help="torch device of the models")
    options.add_argument("--replicas", action="store_true", help="each process has all weights")
    options.add_argument("--by-block", action="store_true", help="shards write without being whole")
    options.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank; 0: all weights")
    settings = side_by_side.parse(options, arguments)
    small = {"vocab_size": 50, "layers": 1, "width": 32, "heads": 2}
    sizes = small if settings.smoke else {"vocab_size": 50_257, "layers": 12, "width": 768, "heads": 12}
    ranks = ranks_of(settings.device, shards=not settings.replicas, by_block=settings.by_block)
    agent = agent_of(sizes, ranks, settings.device, settings.lora_rank)
    gathered = watch_gathered(agent.policy.model)
    (row,) = agent.learn(1, progress=False, profile=settings.device.startswith("cuda"))
    critic, critic_optimizer = agent.learner.critic("policy")
    networks = {"policy": agent.policy.model, "reference": agent.learner.ref_policy.model, "critic": critic.model}
    kept = {name: list(network.parameters()) for name, network in networks.items()}
    kept["critic"] += critic.head.parameters()
    kept["moments"] = [*moments(agent.learner.optimizer), *moments(critic_optimizer)]
    held = {name: held_bytes(tensors) / MIB for name, tensors in kept.items()}
    held["all"] = held_bytes(tensor for tensors in kept.values() for tensor in tensors) / MIB
    trained = sum(parameter.numel() for parameter in agent.policy.parameters())
    weights = sum(parameter.numel() for parameter in kept["policy"]) - (trained if settings.lora_rank else 0)
    # 4 bytes a weight: policy, reference and critic, and two moments of policy and critic; or one base of all.
    formula = (1 if settings.lora_rank else 3 + 4) * 4 * weights / (1 if settings.replicas else ranks.size) / MIB
    peaks = {name: value for name, value in row.items() if name.startswith("memory/")}
    result = {"weights": weights, "processes": ranks.size, "MiB held": held}
    result |= {"MiB by formula": formula, "MiB at the peak": peaks}
    result |= {"MiB gathered": max(gathered) / MIB, "seconds of writing": row["time/collect"]}
    if ranks.is_main:
        way = "replicas" if settings.replicas else "shards"
        side_by_side.show_table(f"{ranks.size} processes, {way}", {"MiB held": result["MiB held"]})
        if peaks:
            side_by_side.show_table("peaks on the GPU, MiB", {"peak": peaks})
        if not settings.replicas:
            print(f"gathered in a pass that writes: {result['MiB gathered']:.0f} MiB; in {row['time/collect']:.2f} s")
        print(f"by formula: {formula:.0f} MiB; held / formula {held['all'] / formula:.3f}")
    dist.destroy_process_group()
    return side_by_side.finish(settings, [], sharding=result) if ranks.is_main else result


if __name__ == "__main__":
    main()
