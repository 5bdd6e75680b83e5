"""Measure the collection of texts: `collect` against `transformers`' `generate` and a loop in plain PyTorch.

    python benchmarks/rollout.py [--data FOLDER] [--repeat N] [--output FILE.json]

Wall time and tokens of the texts; tokens sampled after the end of a text do not count.

- collect: ours, through `reset` and `step`; with log-probabilities, which the others do not compute. Shown besides are
  the environment's and the forward passes' shares of its time, the number of passes, and the number of tokens that its
  actors sampled. The passes are a lower bound for any collection with these models.
- collect, compiled: the same with a compiled model, with `--compile`; compilation is not timed.
- generate: `model.generate(do_sample=True)`, with the model as `transformers` loads it.
- loop: one forward pass per token with the cache, softmax, `torch.multinomial`.
- loop, our kernels: the same with the activations and the attention of our policies.

Texts of equal length, then texts that stop at random after 16 of 48 tokens on average; then PPO++ against PPO: a guide
(the same model) starts 80 % of the texts, and the reference policy scores them. At the end, the time of a forward pass
over one column with few and with many texts; `--only-passes` measures that alone. `--data` names a folder with
`commongen/train.jsonl.gz`: a GPT-2 of this size, trained by our BC first, writes on its prompts.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import side_by_side
import torch
from benchmark_models import FIRST_WORD, PAD, gpt2, prompts_of_words, stopping, t5, text_envs, tokenizer_of_words
from gymnasium.vector import VectorEnv
from hand_written import generate, write
from side_by_side import Comparison, Sample, Target, timed
from torch import Tensor

from tril_gym.agents import BC, BCConfig, Guide, LMPolicy, Plan, TextLayout, collect
from tril_gym.models.kernels import use_fast_kernels
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer

OURS, GENERATE, LOOP, FUSED = "collect", "generate", "loop", "loop, our kernels"
COMPILED = "collect, compiled"
TARGETS = (Target(OURS, GENERATE), Target(OURS, LOOP), Target(OURS, FUSED), Target(COMPILED, OURS))
PPO, PPO_PP = "PPO", "PPO++"
MINIBATCH = 16  # texts in one forward pass of the reference policy


class CountedActor:
    """An actor whose sampled tokens are counted."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.tokens = actor, 0

    def start(self, *batch: Any) -> Any:
        """Start the actor's writer, with a counter on its `next`."""
        writer = self.actor.start(*batch)
        write_next = writer.next

        def counted(draws: Tensor) -> Any:
            self.tokens += len(draws)
            return write_next(draws)

        writer.next = counted
        return writer


class Passes:
    """Count the forward passes of the bodies of some models, and on a CPU their seconds."""

    def __init__(self, *models: Any) -> None:
        self.number, self.seconds = 0, 0.0
        self.are_timed = all(model.device.type == "cpu" for model in models)  # a GPU computes after they return
        self._bodies = [body for model in models for body in bodies_of(model)]

    def __enter__(self) -> Passes:
        for body in self._bodies:
            body.forward = self._counted(body.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for body in self._bodies:
            del body.forward  # the method of the class is visible again

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = forward(*args, **kwargs)
            self.number, self.seconds = self.number + 1, self.seconds + time.perf_counter() - begin
            return result

        return counted


def bodies_of(model: Any) -> list[Any]:
    """Return the modules whose forward passes are counted: the base model, or encoder and decoder."""
    return [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.base_model]


class Case:
    """A model, an environment and the prompts of its first rows.

    Args:
        model: of `transformers`.
        envs: the environment.
        stops: whether texts may end before T tokens.
        device: torch device of the models.
        compiles: whether a compiled policy is measured as well.
    """

    def __init__(
        self, model: Any, envs: VectorEnv, *, stops: bool, device: str = "cpu", compiles: bool = False
    ) -> None:
        self.model, self.envs, self.stops = model.eval().to(device), envs, stops
        self.policy = LMPolicy(copy.deepcopy(model), getattr(envs.unwrapped, "tokenizer", None))
        self.compiled = self.policy.frozen_copy() if compiles else None
        if self.compiled is not None:
            self.compiled.language_model.compile()
        self.fused = use_fast_kernels(copy.deepcopy(model)).eval()
        self.layout = TextLayout.of(envs)
        self.eos, self.rows = self.layout.eos_token_ids[0], envs.num_envs
        self.examples = [row % (self.layout.num_examples or 1) for row in range(self.rows)]
        self.generator = torch.Generator().manual_seed(0)
        observations = torch.from_numpy(envs.reset(seed=0, options={"example": torch.tensor(self.examples).numpy()})[0])
        prompts = observations[:, : self.layout.max_prompt_length]
        width = int((prompts >= 0).sum(1).max())  # without columns that are padding in all rows
        prompts = prompts[:, -width:].to(device)
        self.mask = prompts >= 0
        self.prompts = torch.where(self.mask, prompts, PAD)

    def collect(self, policy: LMPolicy | None = None) -> Sample:
        """Measure `collect`."""
        policy = policy or self.policy
        timer, actor, passes = Timer(), CountedActor(policy), Passes(policy.model)
        plan = Plan(rollout=actor)
        counted = nullcontext() if policy is self.compiled else passes  # the counter would be compiled as well
        with counted, timer.time("all"):
            texts = collect(
                self.envs, plan, episodes=self.rows, generator=self.generator, examples=self.examples, timer=timer
            )
        extra = shares(timer, passes) | {"sampled": float(actor.tokens)}
        return Sample(timer.seconds["all"], float(texts.lengths.sum()), extra)

    def generate(self) -> float:
        """Write with `transformers`; return the number of tokens."""
        T = self.layout.max_new_tokens  # noqa: N806
        output = generate(self.model, self.prompts, self.mask, T, eos=self.eos, stops=self.stops)
        first = 1 if self.model.config.is_encoder_decoder else self.prompts.shape[1]
        return count_tokens(output[:, first:], self.eos)

    def loop(self, model: Any) -> float:
        """Write with the loop in plain PyTorch; return the number of tokens."""
        tokens, _ = write(model, self.prompts, self.mask, self.layout.max_new_tokens, eos=self.eos, stops=self.stops)
        return count_tokens(tokens, self.eos)

    def comparison(self, title: str) -> Comparison:
        """Compare all ways of writing in this case."""
        variants: dict[str, Callable[[], Sample]] = {
            OURS: self.collect,
            GENERATE: timed(self.generate),
            LOOP: timed(lambda: self.loop(self.model)),
            FUSED: timed(lambda: self.loop(self.fused)),
        }
        if self.compiled is not None:
            variants[COMPILED] = lambda: self.collect(self.compiled)
        return Comparison(title, "tokens", variants, TARGETS, fixed_work=True)


def shares(timer: Timer, passes: Passes) -> dict[str, float]:
    """Return the shares of the time that the environment took, and the forward passes if they were counted."""
    seconds = timer.seconds["all"]
    extra = {"environment's share": timer.seconds["score"] / seconds}
    if passes.number and passes.are_timed:
        extra["passes' share"] = passes.seconds / seconds
    if passes.number:
        extra["passes"] = float(passes.number)
    return extra


def count_tokens(tokens: Tensor, eos: int) -> float:
    """Count the tokens of each row up to and including its first EOS."""
    is_eos = (tokens == eos).long()
    return float((is_eos.cumsum(1) - is_eos == 0).sum())


def guided(case: Case, title: str) -> Comparison:
    """Compare PPO++ with PPO: collection, and the log-probabilities of the reference policy."""
    guide, ref_policy = Guide(case.policy.frozen_copy()), case.policy.frozen_copy()

    def measure(rollin_prob: float) -> Sample:
        timer, policy, counted_guide = Timer(), CountedActor(case.policy), CountedActor(guide)
        plan = Plan(rollout=policy, rollin=counted_guide if rollin_prob else None, rollin_prob=rollin_prob)
        passes = Passes(case.policy.model, guide.policy.model, ref_policy.model)
        with passes, timer.time("all"):
            texts = collect(case.envs, plan, episodes=case.rows, generator=case.generator, timer=timer)
            with torch.no_grad():
                for rows in torch.arange(case.rows).split(MINIBATCH):
                    ref_policy.token_logprobs(texts.texts[rows], case.layout)
        extra = shares(timer, passes) | {"in the texts": float(texts.lengths.sum())}
        return Sample(timer.seconds["all"], policy.tokens + counted_guide.tokens, extra)

    variants = {PPO: lambda: measure(0.0), PPO_PP: lambda: measure(0.8)}
    return Comparison(
        f"{title}: collection and reference, tokens sampled by policy and guide",
        "tokens",
        variants,
        [Target(PPO_PP, PPO)],
        fixed_work=True,
    )


def passes_alone(layers: int, width: int, number: int, prompt_length: int) -> Comparison:
    """Measure forward passes over one column each, with few texts and with many; nothing is sampled."""
    policy = LMPolicy(gpt2(layers=layers, width=width), None)

    def measure(texts: int) -> Sample:
        prompts = torch.full((texts, prompt_length), FIRST_WORD)
        with torch.inference_mode():
            prefixes = Texts.from_ids(prompts.tolist(), [[]] * texts, max_new_tokens=number)
            decoder = policy.language_model.decoder(prefixes, prompt_length + number)
            begin = time.perf_counter()
            for _ in range(number):
                decoder.append(prompts[:, 0])
            return Sample(time.perf_counter() - begin, float(texts * number))

    return Comparison(
        f"{number} passes over one column of texts, GPT-2 of {layers} layers, width {width}",
        "tokens",
        {f"{texts} texts": partial(measure, texts) for texts in (1, 8, 32, 64)},
        fixed_work=True,
    )


def cloned(envs: VectorEnv, iterations: int) -> Any:
    """Train a GPT-2 by behaviour cloning on the references of an environment."""
    layout = TextLayout.of(envs)
    model = gpt2(vocab_size=layout.vocab_size, positions=layout.max_prompt_length + layout.max_new_tokens)
    agent = BC(LMPolicy(model, layout.tokenizer), envs, BCConfig(learning_rate=1e-3, minibatch_size=32))
    agent.learn(iterations, progress=False)
    return agent.policy.model.eval()


def common_gen(folder: Path, rows: int, new_tokens: int) -> VectorEnv:
    """Make the environment on the CommonGen data of a folder, with a tokenizer fitted to them."""
    return gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=rows,
        dataset=str(folder / "commongen"),
        tokenizer="fit",
        reward=None,
        max_new_tokens=new_tokens,
        autoreset_mode="Disabled",
    )


def cases(settings: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Yield the cases with their titles."""
    rows, prompt_length, new_tokens, layers = (4, 6, 4, 1) if settings.smoke else (64, 64, 48, 4)
    prompts, tokenizer = prompts_of_words(1_000, prompt_length), tokenizer_of_words()
    size = f"{rows} texts of {prompt_length} + {new_tokens} tokens"
    sizes = {"prompt_length": prompt_length, "new_tokens": new_tokens}
    for name, build in (("GPT-2", gpt2), ("T5", t5)):
        compiles = settings.compile and name == "GPT-2"
        equal = text_envs(prompts, tokenizer, rows, min_new_tokens=new_tokens, **sizes)
        yield f"{name}, {size}", Case(build(layers=layers), equal, stops=False, compiles=compiles)
        model = stopping(build(layers=layers), new_tokens / 3, new_tokens)
        ragged = text_envs(prompts, tokenizer, rows, **sizes)
        title = f"{name}, {size}, stopping after {new_tokens // 3} on average"
        yield title, Case(model, ragged, stops=True, compiles=compiles)
    if settings.data:
        envs = common_gen(settings.data, rows, new_tokens)
        model = cloned(envs, 1 if settings.smoke else settings.bc_iterations)
        yield f"GPT-2 on CommonGen, {rows} texts of up to {new_tokens} tokens", Case(model, envs, stops=True)


def larger(rows: int, prompt_length: int, new_tokens: int) -> tuple[Case, str]:
    """Build a case with a GPT-2 of 6 layers and width 256, in which the overhead of a pass is a smaller share."""
    prompts, sizes = prompts_of_words(1_000, prompt_length), {"prompt_length": prompt_length, "new_tokens": new_tokens}
    envs = text_envs(prompts, tokenizer_of_words(), rows, min_new_tokens=new_tokens, **sizes)
    title = f"GPT-2 of 6 layers, width 256, {rows} texts of {prompt_length} + {new_tokens} tokens"
    return Case(gpt2(layers=6, width=256), envs, stops=False), title


def comparisons(settings: argparse.Namespace) -> Iterator[Comparison]:
    """Yield all comparisons; models are built when their turn comes."""
    if not settings.only_passes:
        for title, case in cases(settings):
            yield case.comparison(title)
            if title.startswith("GPT-2"):
                yield guided(case, title)
        if not settings.smoke:
            yield guided(*larger(64, 64, 48))
    for layers, width in [(1, 128)] if settings.smoke else [(4, 128), (6, 256)]:
        yield passes_alone(layers, width, 4 if settings.smoke else 47, 64)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    options.add_argument("--data", type=Path, help="folder with commongen/train.jsonl.gz")
    options.add_argument("--bc-iterations", type=int, default=250, help="iterations of BC on these data, 64 texts each")
    options.add_argument("--compile", action="store_true", help="measure a compiled GPT-2 as well: a minute longer")
    options.add_argument("--only-passes", action="store_true", help="measure the time of forward passes alone")
    settings = side_by_side.parse(options, arguments)
    results = []
    for comparison in comparisons(settings):
        results.append(side_by_side.run(comparison, repeat=settings.repeat))
        side_by_side.show(results[-1])
    return side_by_side.finish(settings, results)


if __name__ == "__main__":
    main()
