"""Measure the time and memory of one iteration of PPO, against plain PyTorch and TRL.

    python benchmarks/iteration.py [--data FOLDER] [--trl-python PATH] [--critic separate shared] [--output FILE.json]

One iteration: 64 prompts, completions, the reference policy's log-probabilities, advantages, 4 epochs in minibatches of
16. First with texts of equal length (64 + 48 tokens), then with texts that stop at random after 16 of 48 tokens on
average, and with `--data` on the prompts of `commongen/train.jsonl.gz`, with a GPT-2 trained by our BC.

- ours: `PPO.learn(1)` in the environment, with a reward function.
- plain PyTorch: the same model, see hand_written.py.
- TRL: its PPOTrainer, in a separate virtual environment:

    python3.11 -m venv /tmp/trl && /tmp/trl/bin/pip install -c constraints.txt -r benchmarks/peers/trl/requirements.txt
    python benchmarks/iteration.py --trl-python /tmp/trl/bin/python

Each variant runs in its own process, and they are measured alternately. Wall time; memory is the peak of the process in
MiB, total and above its imports.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import side_by_side
import torch
from benchmark_models import PAD, biased, gpt2, prompts_of_words, stopping, text_envs, tokenizer_of_words
from hand_written import HandWrittenPPO, Hyperparameters
from rollout import cloned, common_gen
from side_by_side import Comparison, Sample, Target
from transformers import AutoTokenizer, GPT2LMHeadModel
from worker import Bench, Worker

from tril_gym.agents import PPO, LMPolicy, PPOConfig

CRITICS = ("separate", "shared")
HERE = Path(__file__).parent
TRL = "TRL"
REWARD_DIVISOR = 10  # the reward differs between texts and costs little: the share of token ids divisible by 10


def save_case(
    folder: Path, model: Any, tokenizer: Any, prompts: Sequence[str], hyperparameters: Hyperparameters, **more: Any
) -> None:
    """Write the model, tokenizer, prompts and settings from which every variant starts."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    case = asdict(hyperparameters) | {"prompts": list(prompts), "threads": torch.get_num_threads()} | more
    (folder / "case.json").write_text(json.dumps(case))


def ours(case: dict[str, Any], model: Any, tokenizer: Any, critic: str, *, compiles: bool = False) -> Callable[[], int]:
    """Return a function that runs an iteration of our PPO and returns the number of tokens written."""

    def reward(prompts: Any, completions: Sequence[str], references: Any, extras: Any) -> list[float]:
        return [text.count("0") / max(1, len(text.split())) for text in completions]

    stops = case["stops"]
    envs = text_envs(
        case["prompts"],
        tokenizer,
        case["texts"],
        prompt_length=case["prompt_length"],
        new_tokens=case["new_tokens"],
        min_new_tokens=0 if stops else case["new_tokens"],
        vocab_size=model.config.vocab_size,
        reward=reward,
    )
    names = (
        "epochs",
        "minibatch_size",
        "learning_rate",
        "clip_range",
        "vf_coef",
        "kl_coef",
        "gae_lambda",
        "max_grad_norm",
    )
    config = PPOConfig(critic=critic, compile=compiles, **{name: case[name] for name in names})
    agent = PPO(LMPolicy(model, tokenizer), envs, config)

    def iterate() -> int:
        return int(agent.learn(1, progress=False)[0]["tokens"])

    return iterate


def plain_pytorch(case: dict[str, Any], model: Any, tokenizer: Any, critic: str) -> Callable[[], int]:
    """Return a function that runs an iteration in plain PyTorch and returns the number of tokens written."""
    hyperparameters = Hyperparameters(**{name: case[name] for name in Hyperparameters.__dataclass_fields__})
    ids = [tokenizer(text)["input_ids"] for text in case["prompts"]]
    generator = torch.Generator().manual_seed(0)

    def reward(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        return ((tokens % REWARD_DIVISOR == 0) & is_token).sum(1) / is_token.sum(1)

    trainer = HandWrittenPPO(
        model, reward, hyperparameters, eos=tokenizer.eos_token_id, stops=case["stops"], shared=critic == "shared"
    )

    def iterate() -> int:
        chosen = [ids[i] for i in torch.randint(len(ids), (case["texts"],), generator=generator).tolist()]
        width = max(map(len, chosen))
        prompts = torch.tensor([[PAD] * (width - len(row)) + row for row in chosen])
        mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in chosen])
        return trainer.iterate(prompts, mask)

    return iterate


COMPILED = "ours compiled"
VARIANTS = {"ours": ours, "plain PyTorch": plain_pytorch, COMPILED: partial(ours, compiles=True)}


def serve(folder: Path, name: str) -> None:
    """Run a variant, such as "ours, shared", in this process."""
    bench = Bench()
    case = json.loads((folder / "case.json").read_text())
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    variant, critic = name.split(", ")
    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    iterate = VARIANTS[variant](case, model, tokenizer, critic)

    def measure() -> dict[str, float]:
        begin = time.perf_counter()
        tokens = iterate()
        return {"seconds": time.perf_counter() - begin, "tokens": tokens}

    bench.serve(measure)


def compare(folder: Path, title: str, names: Sequence[str], trl_python: str | None, repeat: int) -> dict[str, Any]:
    """Measure all variants on a case, each in its own process."""
    commands = {name: [sys.executable, __file__, "--variant", str(folder), name] for name in names}
    if trl_python:
        commands[TRL] = [trl_python, str(HERE / "peers/trl/ppo.py"), str(folder)]
    with ExitStack() as stack:
        workers = {name: Worker(line, folder / f"{number}.log") for number, (name, line) in enumerate(commands.items())}
        for worker in workers.values():
            stack.callback(worker.close)
        for worker in workers.values():
            worker.read()  # once it is ready

        def measure(worker: Worker) -> Sample:
            answer = worker.request()
            return Sample(answer.pop("seconds"), answer.pop("tokens"), answer)

        variants = {name: partial(measure, worker) for name, worker in workers.items()}
        pairs = [(f"ours, {critic}", f"plain PyTorch, {critic}") for critic in CRITICS]
        pairs += [("ours, separate", TRL), ("ours, shared", TRL)]
        pairs += [(f"{COMPILED}, {critic}", f"ours, {critic}") for critic in CRITICS]
        targets = [Target(*pair) for pair in pairs]
        return side_by_side.run(Comparison(title, "tokens", variants, targets, fixed_work=True), repeat=repeat)


def write_cases(folder: Path, settings: Any) -> dict[str, Path]:
    """Write the cases; return their folders by title."""
    texts, prompt_length, new_tokens, layers = (4, 6, 4, 1) if settings.smoke else (64, 64, 48, 4)
    common = Hyperparameters(new_tokens=new_tokens, minibatch_size=texts // 4, epochs=1 if settings.smoke else 4)
    sizes = {"texts": texts, "prompt_length": prompt_length}
    size = f"{texts} texts of {prompt_length} + {new_tokens} tokens"
    prompts, tokenizer = prompts_of_words(1_000, prompt_length), tokenizer_of_words()
    positions = prompt_length + new_tokens
    titles = {f"one iteration, {size}": folder / "equal"}
    equal = biased(gpt2(layers=layers, positions=positions), {PAD: -30.0})
    save_case(folder / "equal", equal, tokenizer, prompts, common, stops=False, **sizes)
    if not settings.smoke:
        titles[f"one iteration, {size}, stopping after {new_tokens // 3} on average"] = folder / "ragged"
        ragged = stopping(gpt2(layers=layers, positions=positions), new_tokens / 3, new_tokens)
        save_case(folder / "ragged", ragged, tokenizer, prompts, common, stops=True, **sizes)
    if settings.data:
        envs = common_gen(settings.data, texts, new_tokens)
        model = cloned(envs, 1 if settings.smoke else settings.bc_iterations)
        base = envs.unwrapped
        chosen = [example.prompt for example in base.examples[:1_000]]
        chosen = [text for text in chosen if len(base.tokenizer(text)["input_ids"]) <= base.config.max_prompt_length]
        titles[f"one iteration, {texts} texts of CommonGen, up to {new_tokens} tokens"] = folder / "common_gen"
        sizes["prompt_length"] = base.config.max_prompt_length
        save_case(folder / "common_gen", model, base.tokenizer, chosen, common, stops=True, **sizes)
    return titles


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    options = side_by_side.parser(__doc__)
    options.add_argument("--data", type=Path, help="folder with commongen/train.jsonl.gz")
    options.add_argument("--bc-iterations", type=int, default=250, help="iterations of BC on these data, 64 texts each")
    options.add_argument(
        "--critic", nargs="+", choices=CRITICS, default=list(CRITICS), help="critics of ours and of plain PyTorch"
    )
    options.add_argument("--compile", action="store_true", help="measure ours with compile=True as well")
    options.add_argument("--trl-python", help="Python interpreter of a virtual environment with TRL")
    options.add_argument("--variant", nargs=2, help=argparse.SUPPRESS)  # how the processes of the variants start
    own_process = options.parse_args(arguments).variant
    if own_process:
        serve(Path(own_process[0]), own_process[1])
        return None
    settings = side_by_side.parse(options, arguments)
    critics = settings.critic[:1] if settings.smoke else settings.critic
    variants = [variant for variant in VARIANTS if settings.compile or variant != COMPILED]
    names = [f"{variant}, {critic}" for critic in critics for variant in variants]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for title, case in write_cases(Path(folder), settings).items():
            results.append(compare(case, title, names, settings.trl_python, settings.repeat))
            side_by_side.show(results[-1])
    return side_by_side.finish(settings, results)


if __name__ == "__main__":
    main()
