"""Test doubles for agents: small models of every family, actors that write one token, and a foreign environment.

B texts, P prompt tokens, T new tokens, V words in the vocabulary.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import transformers
from gymnasium.vector import SyncVectorEnv, VectorEnv
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Actor, Agent, Guide, LMPolicy, Plan, TextLayout, Trajectories, Writer, collect
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.functional.sampling import Decoding
from tril_gym.models.texts import Texts

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)  # on a busy machine a second thread makes models this small a hundred times slower

V, EOS = 24, 1
MANY_EOS = [EOS, 4, 9, 14, 20]  # for random models, so that texts end early often enough
G, P = 5, 7  # what the guide and the policy write, where they always write one token
LETTERS = {EOS: ".", G: "g", P: "p"}


def language_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> Any:
    """Return a model of two layers and width 32, whose large weights make its distributions far from uniform."""
    sizes: dict[str, Any] = {"vocab_size": V, "eos_token_id": EOS, "bos_token_id": EOS, "pad_token_id": 0}
    if family != "bart":  # which needs tied embeddings; random ones tend to repeat the last token
        sizes["tie_word_embeddings"] = False
    positions = settings.pop("positions", 32)
    if family == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 2}
        config = transformers.GPT2Config(n_positions=positions, **shape | sizes | settings)
        model = transformers.GPT2LMHeadModel(config)
    elif family in ("llama", "qwen2"):
        kinds = {
            "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        }
        config_type, model_type = kinds[family]
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2 if family == "qwen2" else 4}
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        model = model_type(config_type(max_position_embeddings=positions, **heads, **shape, **sizes | settings))
    elif family == "t5":
        shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        sizes |= {"decoder_start_token_id": 0, "relative_attention_num_buckets": 8}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape, **sizes | settings))
    elif family == "bart":
        shape = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in BART_SHAPE.items()}
        sizes |= {"decoder_start_token_id": EOS, "forced_eos_token_id": None}
        forced = settings.pop("forced_bos_token_id", 0)
        config = transformers.BartConfig(d_model=32, max_position_embeddings=positions, **shape, **sizes | settings)
        model = transformers.BartForConditionalGeneration(config)
        model.generation_config.forced_bos_token_id = forced
    else:
        raise ValueError(family)
    return sharpened(model, seed).to(dtype)


BART_SHAPE = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}


@torch.no_grad()
def sharpened(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draw larger matrices than the default: log-probabilities of some nats that depend on every input."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0.0, 1.5 / math.sqrt(parameter.shape[1]), generator=generator)
    model.get_output_embeddings().weight.mul_(2.0)
    return model


def policy_of(family: str = "gpt2", **settings: Any) -> LMPolicy:
    """Return a policy without tokenizer, as for a foreign environment."""
    return LMPolicy(language_model(family, **settings), None)


def toy_envs(num_envs: int = 12, **settings: Any) -> VectorEnv:
    """Return the toy environment, of 16 words, in mode DISABLED."""
    return gym.make_vec("tril/Toy-v0", num_envs=num_envs, autoreset_mode="Disabled", **settings)


def toy_policy(family: str = "gpt2", **settings: Any) -> LMPolicy:
    """Return a policy with the toy environment's tokenizer."""
    return LMPolicy(language_model(family, vocab_size=16, positions=20, **settings), toy_envs(1).unwrapped.tokenizer)


def rwkv_policy() -> LMPolicy:
    """Return a policy for the toy environment that must be read without a cache: padding would enter its state."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16, "bos_token_id": EOS}
    model = transformers.RwkvForCausalLM(transformers.RwkvConfig(vocab_size=16, eos_token_id=EOS, **sizes))
    return LMPolicy(sharpened(model, 0), toy_envs(1).unwrapped.tokenizer)


def toy_plan(rollin_prob: float = 0.6) -> Plan:
    """Return a plan with a policy and a guide for the toy environment.

    In float64, so that rounding in batches of different size changes no token, and at high temperature, so that texts
    end early.
    """
    policy = policy_of(vocab_size=16, dtype=torch.float64).with_decoding(Decoding(temperature=3.0))
    guide = Guide(policy_of(vocab_size=16, dtype=torch.float64, seed=1), temperature=2.0, top_p=0.9)
    return Plan(rollout=policy, rollin=guide, rollin_prob=rollin_prob)


class OneToken(Actor):
    """An actor that writes one token again and again, then EOS.

    Args:
        token: id to write.
        lengths: tokens of each text, EOS counted, by row of the batch (in turn); beyond T there is no EOS.
        logprob: log-probability to report for each token; None: none.
        eos: id of EOS.
    """

    def __init__(
        self, token: int, lengths: tuple[int, ...] = (99,), logprob: float | None = None, eos: int = EOS
    ) -> None:
        self.token, self.lengths, self.logprob, self.eos = token, lengths, logprob, eos
        self.begun: list[list[int]] = []  # lengths of the texts of each batch at its start

    def start(self, texts: Texts, infos: Any, layout: TextLayout) -> OneTokenWriter:
        self.begun.append(texts.lengths.tolist())
        lengths = torch.tensor([self.lengths[row % len(self.lengths)] for row in range(len(texts))])
        return OneTokenWriter(self, texts.lengths, lengths)


class OneTokenWriter(Writer):
    def __init__(self, actor: OneToken, written: Tensor, lengths: Tensor) -> None:
        self.actor, self.written, self.lengths = actor, written, lengths

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor | None]:
        assert draws.shape == self.written.shape
        assert draws.dtype == torch.float64
        self.written = self.written + 1
        tokens = torch.where(self.written == self.lengths, self.actor.eos, self.actor.token)
        logprobs = None if self.actor.logprob is None else torch.full(tokens.shape, self.actor.logprob)
        return tokens, logprobs

    def keep(self, rows: Tensor) -> None:
        self.written, self.lengths = self.written[rows], self.lengths[rows]


class Foreign(gym.Env):
    """A foreign text environment: `metadata["text"]` and nothing else, without tokenizer and with empty infos.

    Pays `reward_of(token, t)` for the t-th token, by default 1 for every token 3.
    """

    def __init__(self, max_prompt_length=4, max_new_tokens=8, vocab_size=V, ends_at_eos=True, **metadata) -> None:
        self.sizes = max_prompt_length, max_new_tokens
        self.ends_at_eos = ends_at_eos
        sizes = {"max_prompt_length": max_prompt_length, "max_new_tokens": max_new_tokens, "vocab_size": vocab_size}
        self.metadata = {"text": sizes | {"eos_token_ids": [EOS]} | metadata}
        self.eos_token_ids = self.metadata["text"].get("eos_token_ids", [EOS])
        columns = max_prompt_length + max_new_tokens
        self.observation_space = gym.spaces.Box(-1, vocab_size - 1, (columns,), np.int64)
        self.action_space = gym.spaces.Discrete(vocab_size)
        self.vocab_size = vocab_size

    @staticmethod
    def reward_of(token: int, t: int) -> float:
        return float(token == 3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        width, _ = self.sizes
        length = self.np_random.integers(1, width + 1)
        self.observation = np.full(self.observation_space.shape, -1)
        self.observation[width - length : width] = self.np_random.integers(2, self.vocab_size, length)
        self.written = 0
        return self.observation.copy(), {}

    def step(self, action):
        width, limit = self.sizes
        self.observation[width + self.written] = action
        reward = self.reward_of(int(action), self.written)
        self.written += 1
        terminated = bool((action in self.eos_token_ids and self.ends_at_eos) or self.written == limit)
        return self.observation.copy(), reward, terminated, False, {}


class ForeignDense(Foreign):
    """Pays a different reward for each token and position."""

    @staticmethod
    def reward_of(token: int, t: int) -> float:
        return token + t / 100


def foreign_envs(num_envs: int, *, env: type[Foreign] = Foreign, mode: str = "NextStep", **settings) -> SyncVectorEnv:
    """Return a vector of foreign environments."""
    return SyncVectorEnv([lambda: env(**settings)] * num_envs, autoreset_mode=mode)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ragged_texts(num_texts: int = 7, *, width: int = 4, length: int = 8, vocab_size: int = V, seed: int = 0) -> Texts:
    """Return prompts of 1 … P tokens and completions of 1 … T, the longest and the shortest among them."""
    rng = np.random.default_rng(seed)
    prompts, completions = [], []
    for row in range(num_texts):
        n = (1, width)[row] if row < 2 else rng.integers(1, width + 1)
        m = (length, 1)[row] if row < 2 else rng.integers(1, length + 1)
        prompts.append(rng.integers(2, vocab_size, n).tolist())
        completions.append(rng.integers(2, vocab_size, m).tolist())
    return Texts.from_ids(prompts, completions, max_new_tokens=length)


def alone(texts: Texts, row: int) -> Texts:
    """Return one text without padding."""
    return texts[torch.tensor([row])].trimmed()


def learned(agent: Any, iterations: int) -> Any:
    """Return an agent after some iterations."""
    agent.learn(iterations, progress=False)
    return agent


def history(agent: Agent, iterations: int) -> list[dict[str, float]]:
    """Return the metrics of further iterations, without times."""
    rows = agent.learn(iterations, progress=False)
    timed = ("time/", "tokens_per_second")
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows]


def write(plan: Plan, episodes: int = 40, mode: str = "NextStep", **settings: Any) -> Trajectories:
    """Collect texts in a foreign environment of eight rows."""
    return collect(foreign_envs(8, mode=mode, **settings), plan, episodes=episodes, generator=generator(1))


def rollins(trajectories: Trajectories) -> list[int]:
    """Return the switches of the rows that have a rollin."""
    return [switch for switch in trajectories.switch.tolist() if switch]


def shown(trajectories: Trajectories) -> list[str]:
    """Return texts as letters: g for the guide's token, p for the policy's, a point for EOS."""
    rows = zip(trajectories.tokens.tolist(), trajectories.lengths.tolist(), strict=True)
    return ["".join(LETTERS.get(token, "?") for token in tokens[:length]) for tokens, length in rows]


def same(one: Trajectories, other: Trajectories) -> bool:
    """Return whether two collections have the same texts, masks and rewards."""
    exact = ("prompts", "is_prompt", "tokens", "is_token", "is_rollin", "terminated", "truncated", "switch", "examples")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in exact) and all(
        torch.allclose(getattr(one, name), getattr(other, name), atol=1e-6) for name in ("rewards", "old_logprobs")
    )


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of each iteration of a run that are no times."""
    rows = RunFolder(folder).rows("metrics.jsonl")
    return [
        {name: value for name, value in row.items() if not name.startswith("time/") and "second" not in name}
        for row in rows
    ]
