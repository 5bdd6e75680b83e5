"""Tiny policies, which need no download: small transformers pretrained on the references of an environment.

Pretraining is behaviour cloning on samples that the environment draws. Trained models are kept in the user's cache
folder, under a hash of the samples and the settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.actors.guide import Guide
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import ReferenceTokens, is_positive, pick
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import minibatches
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.optimizer import OptimizerConfig, set_learning_rate
from tril_gym.models.noise import dropout_of
from tril_gym.models.texts import Texts
from tril_gym.utils.batched_infos import row_of
from tril_gym.utils.cache import cached_folder
from tril_gym.utils.config_fields import MAX_RATE, check_bounds, config_field
from tril_gym.utils.console import LINE_SECONDS, RunConsole, ShowSteps
from tril_gym.utils.quiet import without_progress_bars
from tril_gym.utils.seeding import seeded
from tril_gym.utils.threads import cpu_threads

# A tiny guide with the settings of the policy is the policy's model, sampled more greedily: it needs no training of its
# own. docs/guides.md says what it earns, and what the policy.
GUIDE_TEMPERATURE = 0.3
GUIDE_TOP_P = 0.92  # of the paper's guides

# T5 begins with embeddings of a standard deviation of 1, GPT-2 with 0.02. A step of AdamW is as large as its rate,
# however large the weight is, so what the layers say would long be drowned. On embedded CommonGen, held-out references
# take 1.34 nats a token after 6 passes, with embeddings of 0.02 or of 0.05 and outputs that are not scaled down, as T5
# 1.1 has them; 1.64 with T5's own of 1 at 5e-3, the best rate for these; 2.12 with scaled outputs and 0.1.
EMBEDDING_SCALE = 0.05

PATIENCE = 10_000  # draws without an example that may be imitated

# What differs from the defaults of `TinySettings`.
OF_KIND: dict[str, dict[str, Any]] = {"seq2seq": {"learning_rate": 2e-3}}


@dataclass(frozen=True, kw_only=True)
class TinySettings:
    """Size and pretraining of a tiny policy.

    The defaults are measured on embedded CommonGen: after more passes, held-out references are less likely again, and a
    model of twice the width writes no better. With dropout twice as many passes make them more likely, in twice the
    time: the preset `embedded` has them there. `OF_KIND` has what differs for encoder-decoder models.
    """

    width: int = config_field(64, "Hidden size", minimum=1)
    layers: int = config_field(2, "Transformer layers", minimum=1)
    heads: int = config_field(4, "Attention heads per layer", minimum=1)
    samples: int = config_field(8_000, "Prompt-reference pairs to pretrain on; 0: random weights", minimum=0)
    epochs: float = config_field(6.0, "Passes over the pairs", above=0)
    learning_rate: float = config_field(3e-3, "AdamW step size", above=0, maximum=MAX_RATE)
    lr_schedule: Literal["constant", "linear", "cosine"] = config_field("linear", "Schedule of the steps' size")
    lr_warmup: int = config_field(0, "Steps of linear warm-up", minimum=0)
    weight_decay: float = config_field(0.0, "AdamW weight decay", minimum=0, maximum=1)
    dropout: float = config_field(0.0, "Share of layers' outputs dropped in pretraining", minimum=0, below=1)
    minibatch_size: int = config_field(32, "Texts per optimizer step", minimum=1)
    threads: int = config_field(1, "CPU threads of pretraining; another number rounds differently", minimum=1)
    seconds: float | None = config_field(
        None, "Stop pretraining after so many seconds; the weights then depend on the machine's speed", above=0
    )
    seed: int = config_field(0, "Seed of the weights, the pairs and their order")
    positive_only: bool = config_field(False, "Imitate references of examples labelled 1 only")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads} heads")


def tiny_policy(
    envs: VectorEnv, *, kind: str = "causal", progress: bool = True, device: str = "cpu", **settings: Any
) -> LMPolicy:
    """Return a small transformer for this environment, pretrained on its references.

    Args:
        envs: an environment with a tokenizer, and with references unless `samples=0`.
        kind: "causal" or "seq2seq".
        progress: show a progress bar on a terminal during pretraining.
        device: where it is pretrained, and where it is then. A GPU rounds differently, so its weights are others.
        settings: fields of `TinySettings`.

    Raises:
        ValueError: an unknown kind, or an environment without tokenizer or references, or without positive examples.
    """
    if kind not in ("causal", "seq2seq"):
        raise ValueError(f'kind must be "causal" (tiny) or "seq2seq" (tiny-seq2seq), got {kind!r}')
    layout, chosen = TextLayout.of(envs), settings_of(kind, settings)
    if layout.tokenizer is None:
        raise ValueError("a tiny policy is built for the environment's tokenizer, but it shows none")
    policy = LMPolicy(_build_model(kind, layout, chosen), layout.tokenizer)
    if chosen.samples:
        with _progress("drawing prompts to imitate" if progress else None, chosen.samples, announce=False) as show:
            texts = gather_references(
                envs, layout, chosen.samples, chosen.seed, positive_only=chosen.positive_only, show=show
            )
        policy = _pretrained(policy, texts, kind, chosen, torch.device(device), progress)
    return policy.to(device)


def tiny_guide(envs: VectorEnv, **arguments: Any) -> Guide:
    """Return the tiny policy as a guide, sampled at a low temperature; arguments as of `tiny_policy`."""
    return Guide(tiny_policy(envs, **arguments), temperature=GUIDE_TEMPERATURE, top_p=GUIDE_TOP_P)


def settings_of(kind: str, given: Mapping[str, Any]) -> TinySettings:
    """Return the settings of a tiny model of this kind: those given win over the defaults."""
    return TinySettings(**(OF_KIND.get(kind, {}) | dict(given)))


def _pretrained(
    policy: LMPolicy, texts: Texts, kind: str, settings: TinySettings, device: torch.device, progress: bool
) -> LMPolicy:
    """Return the pretrained policy, from the cache if possible."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    def build(folder: Path) -> None:
        with cpu_threads(settings.threads):
            _pretrain(policy.to(device), texts, settings, f"pretraining of the tiny {kind} model" if progress else None)
        with without_progress_bars():
            policy.model.save_pretrained(folder)

    folder = cached_folder(f"tiny-{kind}", _key(kind, policy, settings, texts, device), build)
    loader = AutoModelForCausalLM if kind == "causal" else AutoModelForSeq2SeqLM
    with without_progress_bars():
        return LMPolicy(loader.from_pretrained(folder), policy.tokenizer)


def gather_references(
    envs: VectorEnv,
    layout: TextLayout,
    samples: int,
    seed: int,
    *,
    positive_only: bool = False,
    show: ShowSteps = lambda steps, status="": None,
) -> Texts:
    """Return `samples` prompts that the environment draws, each with one of its references.

    Draw i has seed + i, whatever the number of rows; of examples that are not positive, nothing is taken.
    """
    tokenize, draws = ReferenceTokens(layout), torch.rand(samples, generator=torch.Generator().manual_seed(seed))
    prompts: list[Tensor] = []
    completions: list[list[int]] = []
    for first in count(seed, envs.num_envs):
        observations, infos = envs.reset(seed=[first + row for row in range(envs.num_envs)])  # type: ignore[arg-type]
        rows = [(observation, row_of(infos, row)) for row, observation in enumerate(observations)]
        taken = [(observation, info) for observation, info in rows if not positive_only or is_positive(info)]
        for observation, info in taken[: samples - len(prompts)]:
            if not info.get("references"):
                raise ValueError(
                    f"example {info.get('example', '?')} has no reference to pretrain on, while others"
                    " may have; leave such examples out, or start from random weights: samples=0, --tiny-samples 0"
                )
            completions.append(tokenize(pick(info["references"], float(draws[len(completions)]))))
            prompts.append(torch.from_numpy(observation.copy()))
        show(len(prompts))
        if len(prompts) == samples:
            break
        if not prompts and first - seed >= PATIENCE:
            raise ValueError(
                f"positive_only needs examples labelled 1, but none of {PATIENCE} that were drawn is; leave it out, or"
                " take another guide"
            )
    return Texts.from_observations(torch.stack(prompts), layout.max_prompt_length).with_completions(completions)


def _build_model(kind: str, layout: TextLayout, settings: TinySettings) -> Any:
    """Return an untrained model, whose weights depend on the seed alone."""
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    eos = layout.eos_token_ids[0]
    with seeded(settings.seed):
        if kind == "causal":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=layout.vocab_size,
                    n_positions=layout.max_prompt_length + layout.max_new_tokens,
                    n_embd=settings.width,
                    n_layer=settings.layers,
                    n_head=settings.heads,
                    activation_function="gelu_pytorch_tanh",  # the same curve as GPT-2's, in one kernel
                    bos_token_id=eos,
                    eos_token_id=eos,
                )
            )
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=layout.vocab_size,
                d_model=settings.width,
                d_kv=settings.width // settings.heads,
                d_ff=4 * settings.width,
                num_layers=settings.layers,
                num_heads=settings.heads,
                scale_decoder_outputs=False,  # see `EMBEDDING_SCALE`
                decoder_start_token_id=eos,  # type: ignore[call-arg]
                pad_token_id=eos,
                eos_token_id=eos,
            )
        )
        with torch.no_grad():
            model.shared.weight *= EMBEDDING_SCALE
        return model


def _pretrain(policy: LMPolicy, texts: Texts, settings: TinySettings, title: str | None) -> None:
    size, generator = settings.minibatch_size, torch.Generator().manual_seed(settings.seed + 1)
    steps = max(1, round(settings.epochs * len(texts) / size))
    config = OptimizerConfig(
        learning_rate=settings.learning_rate,
        lr_schedule=settings.lr_schedule,
        lr_warmup=min(settings.lr_warmup, steps - 1),
        lr_iterations=steps,  # of one step each
        weight_decay=settings.weight_decay,
        minibatch_size=size,
    )
    cloning = BehaviourCloning(policy, config)
    epochs = 1 + steps * size // len(texts)
    parts = list(minibatches(len(texts), epochs=epochs, size=size, generator=generator))[:steps]
    start = time.monotonic()
    with (
        seeded(settings.seed + 2, device=policy.device),
        dropout_of(policy.model, settings.dropout),
        _progress(title, len(parts)) as show,
    ):
        for number, rows in enumerate(parts):
            if settings.seconds is not None and time.monotonic() - start > settings.seconds:
                break
            set_learning_rate(cloning.optimizer, config.learning_rate * config.learning_rate_factor(number))
            metrics = cloning.step(texts[rows])
            show(number + 1, f"{metrics['policy/loss']:.2f} nats a token")


@contextmanager
def _progress(title: str | None, total: int, *, announce: bool = True) -> Iterator[ShowSteps]:
    """Show the progress of pretraining on standard error; without a title, or where messages are off, show nothing.

    Where there is no terminal, the first line comes at once, or if it is not announced, after `LINE_SECONDS`.
    """
    if title is None or logging.getLogger("tril_gym").level >= logging.WARNING:
        yield lambda steps, status="": None
        return
    from rich.console import Console

    console = RunConsole(Console(file=sys.stderr, highlight=False))
    if announce and not console.console.is_terminal:
        console.say(f"{title}: {total} steps")
    with console.progress(title, total=total, line_every=LINE_SECONDS) as show:
        yield show


def _key(kind: str, policy: LMPolicy, settings: TinySettings, texts: Texts, device: torch.device) -> str:
    """Return a hash of everything that the trained weights depend on, such as those before training."""
    import transformers

    about = asdict(settings) | {"kind": kind, "vocab_size": policy.vocab_size}
    del about["positive_only"]  # it has chosen the texts
    # The shapes determine the number of positions of the model.
    about |= {"shapes": [list(tensor.shape) for tensor in (texts.prompts, texts.tokens)]}
    about |= {"torch": torch.__version__, "transformers": transformers.__version__, "device": device.type}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    weights = policy.model.state_dict().values()
    for tensor in (texts.prompts, texts.is_prompt, texts.tokens, texts.is_token, *weights):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
