"""Train small agents in float64, alone or as one of several processes, and keep their texts, weights and metrics.

    python rank_cases.py 2 FILE CASE …  # two processes, forked after a single import of torch

A case is a name in CASES, with ":counts" or ":whitening" for a defect that is planted: divisors and whitening per
process, which are what the result must not depend on.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from doubles import language_model, policy_of
from fake_server import Asked, Reply, said, serving
from forked_runs import run
from text_doubles import byte_tokenizer, model_of, text_envs

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import PPO, Guide, Pairs, Plan, PPOConfig, ServedPolicy, collect
from tril_gym.agents.learners import advantages
from tril_gym.agents.learners.epochs import Epochs
from tril_gym.agents.learners.optimizer import is_partitioned
from tril_gym.experiment.algorithms import agent_type
from tril_gym.models.sharding import blocks_of, is_sharded, shard, whole_copy
from tril_gym.rewards import Score
from tril_gym.utils.ranks import Ranks, current_ranks, join_ranks, leave_ranks
from tril_gym.wrappers import TextReward
from tril_gym.wrappers.reward_term import terms

NUM_ENVS, ITERATIONS = 12, 3
# Texts of many lengths, whose numbers are not multiples of the number of processes.
NUMBERS = {"episodes_per_iteration": 14, "minibatch_size": 6, "epochs": 2, "learning_rate": 1e-3}
ADAPTIVE = {"kl_controller": "adaptive", "kl_target": 0.5, "normalize_advantages": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {}),
    "ppo-pp": ("ppo-pp", {}),
    "aggrevated": ("aggrevated", {}),
    "d2lols": ("d2lols", {"aggrevated_iterations": 1}),
    "gail": ("gail", {}),
    "bc": ("bc", {}),
    "rloo": ("rloo", {"episodes_per_iteration": 20, "minibatch_size": 12}),
    "rebel": ("rebel", {}),
    "online-dpo": ("online-dpo", {}),
    "a-lol": ("a-lol", {}),
    "dpo": ("dpo", {"episodes_per_iteration": 18}),
    "ppg": ("ppg", {"auxiliary_every": 2, "auxiliary_epochs": 2}),
    "LoRA": ("ppo", {"lora": True}),
    "shared critic": ("ppo", {"critic": "shared"}),
    "whitening": ("ppo", ADAPTIVE),
    "whitening, encoder-decoder": ("ppo-pp", ADAPTIVE | {"family": "t5", "target_coef": 0.1}),
    "early stop": ("ppo", {"target_kl": 0.002, "epochs": 4, "baseline": "prompt", "scale_rewards": True}),
    "accumulation": ("ppo", {"gradient_accumulation": 3, "group_by_length": True}),
    "overlap": ("ppo-pp", {"overlap": True, "baseline": "rollin"}),
    "sharded": ("ppo-pp", {}),
    "sharded, overlap": ("ppo", {"overlap": True}),
    "sharded, shared critic": ("ppo", {"critic": "shared", "joint_grad_norm": True}),
    "sharded, encoder-decoder": ("aggrevated", {"family": "t5"}),
    "sharded imitation": ("bc", {}),
    "sharded distillation": ("gkd", {}),
    "sharded, phases": ("ppg", {"auxiliary_every": 2, "auxiliary_epochs": 2}),
    "sharded LoRA": ("ppo-pp", {"lora": True}),
    "sharded LoRA, phases": ("ppg", {"lora": True, "auxiliary_every": 1}),
    "sharded LoRA, overlap": ("ppo", {"lora": True, "overlap": True, "critic": "separate"}),
    "sharded LoRA, encoder-decoder": (
        "ppo",
        {"lora": True, "family": "t5", "critic": "shared", "gradient_checkpointing": True},
    ),
    "sharded, by block": ("ppo-pp", {"episodes_per_iteration": 13}),  # the last text is of rank 1
    "sharded, by block, encoder-decoder": ("lols", {"family": "t5", "critic": "shared"}),
    "sharded LoRA, by block": ("ppo", {"lora": True}),
    "reward on each process": ("ppo", {"episodes_per_iteration": 13, "reward": "each"}),
    "reward on the main process": ("ppo", {"episodes_per_iteration": 13, "reward": "main"}),
    "zero": ("ppo-pp", {}),
    "zero, shared critic": ("ppo", {"critic": "shared", "lr_schedule": "linear", "lr_iterations": 5}),
    "zero, imitation": ("bc", {}),
    "zero, phases": ("ppg", {"auxiliary_every": 1}),
    "discriminator": (
        "gail",
        {"gradient_penalty": 0.1, "discriminator_replay": 1, "normalize_reward": True, "reference_baseline": True},
    ),
}
# Options that change plans, or what an agent keeps from one iteration to the next: in `make matrix` only.
MORE_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "best of several": ("ppo-pp", {"best_of": 3}),
    "best of several by value": ("aggrevated", {"best_of": 2, "best_of_by": "value"}),
    "references in groups": ("grpo", {"given_texts": 1, "texts_per_prompt": 2}),
    "references among the best": ("raft", {"given_texts": 1, "texts_per_prompt": 2}),
    "hand-over by quality": (
        "d2lols",
        {"hand_over": "quality", "hand_over_every": 1, "hand_over_texts": 7, "hand_over_margin": 0.1},
    ),
    "past successes": ("ppo-pp", {"successes": True}),
    "discriminator of tokens": ("gail", {"discriminator_level": "token", "gradient_penalty": 0.1}),
    "iterated tournament": (
        "rso",
        {
            "texts_per_prompt": 6,
            "episodes_per_iteration": 18,
            "reference_every": 1,
            "pairing": "tournament",
            "rejection_beta": 0.2,
        },
    ),
}
# One for each way in which processes share the work; `make matrix` trains the others.
USUAL = (
    *("ppo-pp", "aggrevated", "d2lols", "gail", "bc", "rloo", "dpo", "rebel", "a-lol", "ppg", "LoRA", "shared critic"),
    *("whitening", "whitening, encoder-decoder", "overlap", "sharded", "sharded, phases", "sharded LoRA", "zero"),
    *("sharded, by block", "reward on the main process"),
)


class Lengths(Score):
    """Pay a text for its length, and count the texts of each call; fail at the call number `fails_at`."""

    name, slow = "lengths", True

    def __init__(self, *, main_process: bool, fails_at: int | None = None) -> None:
        self.main_process, self.fails_at, self.asked = main_process, fails_at, list[int]()

    def __call__(self, prompts: Any, completions: Any, references: Any, extras: Any) -> Any:
        self.asked.append(len(completions))
        if len(self.asked) == self.fails_at:
            raise RuntimeError("no answer")
        return np.array([len(text) / 10 for text in completions])


def agent_of(case: str, ranks: Ranks) -> Any:
    """Return the agent of a case, whose environment has this rank's share of the rows."""
    algorithm, numbers = (CASES | MORE_CASES)[case]
    numbers = NUMBERS | numbers
    kind = agent_type(algorithm)
    policy = policy_of(numbers.pop("family", "gpt2"), vocab_size=16, dtype=torch.float64)
    policy = policy.with_lora(2) if numbers.pop("lora", False) else policy
    if "temperature" in kind.config_type.__dataclass_fields__:
        numbers = {"temperature": 3.0} | numbers  # so that texts end early
    if "rollin_prob" in kind.config_type.__dataclass_fields__:
        numbers = {"rollin_prob": 0.6} | numbers
    known = {name: value for name, value in numbers.items() if name in kind.config_type.__dataclass_fields__}
    model = policy_of(vocab_size=16, dtype=torch.float64, seed=1)
    guide = Guide.successes() if numbers.pop("successes", False) else Guide(model, temperature=2.0)
    envs = gym.make_vec("tril/Toy-v0", num_envs=NUM_ENVS // ranks.size, autoreset_mode="Disabled")
    if reward := numbers.pop("reward", None):
        envs = TextReward(envs, Lengths(main_process=reward == "main"))
    more: dict[str, Any] = {"guide": guide} if kind.takes_guide else {}
    if algorithm == "dpo":
        texts = [example.references[0] for example in envs.unwrapped.examples]
        more["pairs"] = Pairs([(text, text[: len(text) // 2]) for text in texts])
    return kind(policy=policy, envs=envs, config=kind.config_type(**known), seed=3, ranks=ranks, **more)


def result_of(case: str, ranks: Ranks, folder: Path | None = None) -> dict[str, Any]:
    """Train the agent of a case; return its texts, weights and metrics. That of "sharded LoRA" is saved in a folder."""
    name, _, defect = case.partition(":")
    if name.startswith("sharded"):
        ranks = current_ranks(shards=True, writes_by_block="by block" in name)
    if name.startswith("zero"):
        ranks = current_ranks(shards_optimizer=True)
    with planted(defect, ranks):
        agent, texts = agent_of(name, ranks), []
        if agent.name == "gail":
            agent.learner.discriminator.model.double()
        rows: list[dict[str, float]] = []
        gathered = watch_gathered(agent.policy.model)
        for iteration in range(ITERATIONS):
            rows += agent.learn(1, callbacks=[lambda report: texts.append(report.trajectories.tokens)], progress=False)
            if name.startswith("zero") and iteration == ITERATIONS - 2:  # as where a run is resumed
                agent.learner.load_state_dict(ranks.gather(agent.learner.state_dict())[0])
    if folder is not None and name == "sharded LoRA":
        agent.save(folder)
    return {
        "base": ranks.gather(base_memory(agent)),
        "gathered": ranks.gather(max(gathered)),
        "asked": ranks.gather([term.score.asked for term in terms(agent.envs)]),
        "texts": texts,
        "weights": list(agent.policy.language_model.state_dict().values()),
        "moments": ranks.gather(moments_of(getattr(agent.learner, "cloning", agent.learner).optimizer)),
        "metrics": [numbers_of(row) for row in rows],
    }


def watch_gathered(model: Any) -> list[int]:
    """Return a list that grows by the number of blocks that are whole, in each pass of a block that writes."""
    found = [0]
    blocks = blocks_of(model)

    def note(*_: Any) -> None:
        if torch.is_inference_mode_enabled():
            found.append(sum(not any(map(is_sharded, block.parameters())) for block in blocks))

    for block in blocks:
        block.register_forward_pre_hook(note)
    return found


def base_memory(agent: Any) -> tuple[int, int]:
    """Return the numbers of a LoRA policy's base, and those that this process holds for all networks on it."""
    if agent.policy.lora is None:
        return 0, 0
    learner = getattr(agent.learner, "actor_critic", agent.learner)
    models = [agent.policy.model, learner.ref_policy.model, *(critic.model for critic, _ in learner._critics.values())]
    kinds = [[value for name, value in model.named_parameters() if "lora_" not in name] for model in models]
    parts = [local_part(value) for values in kinds for value in values]
    held = {part.data_ptr(): part.numel() for part in parts}
    return sum(value.numel() for value in kinds[0]), sum(held.values())


def local_part(value: Any) -> Any:
    """Return the part of a tensor that this process holds."""
    return value.to_local() if is_sharded(value) else value


def moments_of(optimizer: Any) -> int:
    """Return how many numbers this process holds as moments of the policy."""
    own = optimizer.optim if is_partitioned(optimizer) else optimizer
    return sum(value.numel() for state in own.state.values() for value in state.values() if value.ndim)


def served(ranks: Ranks) -> dict[str, Any]:
    """Train on texts that a server writes; return them, who handed weights over, and the prompts of each process."""
    tokenizer = byte_tokenizer()
    policy = model_of(tokenizer)
    handed: list[int] = []

    def answer(asked: Asked) -> Reply:
        prompt, seed = asked.body.get("prompt"), asked.body.get("seed", 0)
        if asked.path == "/detokenize":
            return Reply({"prompt": tokenizer.decode(asked.body["tokens"])})
        if isinstance(prompt, str):
            return said("x")
        ids = [3 + (sum(prompt) + seed + place) % 60 for place in range(3)]
        return said(tokenizer.decode(ids), ids=[*ids, 1], logprobs={"token_logprobs": [-4.0] * 4})

    with serving(answer) as server:
        config = PPOConfig(sampling_correction="token", episodes_per_iteration=5, minibatch_size=4, learning_rate=1e-2)
        envs = text_envs(tokenizer, 4 // ranks.size, reward=lambda completions: [len(text) / 9 for text in completions])
        agent = PPO(policy, envs, config, ranks=ranks)
        hand_over = lambda policy, server, version: handed.append(version)  # noqa: E731
        agent.write_with(ServedPolicy.from_server(policy, ranks.gather(server.url)[0] + "#m", hand_over))
        texts: list[Any] = []
        agent.learn(2, callbacks=[lambda report: texts.append(report.trajectories.tokens)], progress=False)
        ranks.barrier()
    return {
        "texts": texts,
        "weights": list(agent.policy.language_model.state_dict().values()),
        "handed": ranks.gather(handed),
        "requests": [row["server/requests"] for row in agent.history],
    }


def errors_of(ranks: Ranks) -> list[str]:
    """Return the message by which each process fails where the main one cannot score."""
    envs = gym.make_vec("tril/Toy-v0", num_envs=2, autoreset_mode="Disabled")
    envs = TextReward(envs, Lengths(main_process=True, fails_at=2))
    plan = Plan(rollout=policy_of(vocab_size=16))
    try:
        collect(envs, plan, episodes=12, generator=torch.Generator().manual_seed(0), ranks=ranks)
    except RuntimeError as error:
        return ranks.gather(str(error))
    return []


def copied_buffers() -> list[tuple[Any, Any]]:
    """Return the buffers of a sharded model whose weights are bfloat16, each beside that of its whole copy."""
    model = language_model("llama", dtype=torch.float32).bfloat16()
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.float() / 3  # float32, as where it is loaded
    shard(model)
    copy = whole_copy(model)
    return [(buffer, copy.get_buffer(name)) for name, buffer in model.named_buffers()]


def numbers_of(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that are no times."""
    return {name: value for name, value in metrics.items() if not name.startswith("time/") and "second" not in name}


class planted:  # noqa: N801  (used as a context manager)
    """Plant a defect of a training that knows only its own process."""

    def __init__(self, defect: str, ranks: Ranks) -> None:
        self.defect, self.ranks = defect, ranks

    def __enter__(self) -> None:
        self.gradients, self.whiten = Epochs.gradients, advantages.masked_whiten
        gradients, whiten, ranks = self.gradients, self.whiten, self.ranks

        def counted_per_process(epochs: Epochs, batch: Any, critic_of: Any, counts: Any, **more: Any) -> Any:
            own = [int(mask[ranks.share(len(batch))].sum()) for mask in (batch.learn, batch.learn_critic)]
            learn, critic_tokens = (max(1, number) * ranks.size for number in own)
            counts = replace(counts, learn=learn, learn_critic=critic_tokens)
            return gradients(epochs, batch, critic_of, counts, **more)

        def whitened_per_process(values: Any, mask: Any) -> Any:
            parts = [torch.arange(len(values))[share_of(rank, ranks, len(values))] for rank in range(ranks.size)]
            return torch.cat([whiten(values[rows], mask[rows]) for rows in parts if rows.numel()])

        if self.defect == "counts":
            Epochs.gradients = counted_per_process  # type: ignore[method-assign]
        if self.defect == "whitening":
            advantages.masked_whiten = whitened_per_process

    def __exit__(self, *error: object) -> None:
        Epochs.gradients, advantages.masked_whiten = self.gradients, self.whiten  # type: ignore[method-assign]


def share_of(rank: int, ranks: Ranks, count: int) -> slice:
    """Return the rows of another rank."""
    return slice(count * rank // ranks.size, count * (rank + 1) // ranks.size)


def work(file: str, cases: list[str]) -> None:
    """Train the cases as one of the ranks; the main one writes the results of all into a file."""
    torch.set_num_threads(1)
    here = join_ranks()
    saved = Path(file).with_suffix(".agent")
    found: dict[str, Any] = {case: result_of(case, here, saved) for case in cases}
    found |= {"errors": errors_of(here), "served": served(here), "buffers": copied_buffers()}
    if here.is_main:
        torch.save(found, file)
    leave_ranks()


if __name__ == "__main__":
    codes = run(int(sys.argv[1]), lambda: work(sys.argv[2], sys.argv[3:]))
    sys.exit(max(map(abs, codes)))
