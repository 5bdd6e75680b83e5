"""How long one iteration of PPO takes, and the memory it needs, beside a loop by hand and TRL.

    python benchmarks/iteration.py [--data FOLDER] [--trl-python PATH] [--critic separate shared] [--output FILE.json]

One iteration: 64 prompts, completions, the reference's log-probabilities, advantages, 4 epochs in minibatches of 16.
First with texts of equal length (64 + 48 tokens), then with texts that stop at random after 16 of 48 tokens on average,
and with `--data` on the prompts of `commongen/train.jsonl.gz`, by a GPT-2 that our BC has taught.

- ours: `PPO.learn(1)` in the environment, with a reward of its own.
- by hand: plain PyTorch on the same model, see hand_written.py.
- TRL: its PPOTrainer, in a virtual environment of its own:

    python3.11 -m venv /tmp/trl && /tmp/trl/bin/pip install -c constraints.txt -r benchmarks/peers/trl/requirements.txt
    python benchmarks/iteration.py --trl-python /tmp/trl/bin/python

Each contestant runs in a process of its own, and they take turns. Wall time; memory is the process's peak, in MiB, and
what of it is above its imports.
"""

from __future__ import annotations

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
from hand_written import HandWrittenPPO, Numbers
from rollout import common_gen, taught
from side_by_side import Comparison, Sample, Target
from transformers import AutoTokenizer, GPT2LMHeadModel
from worker import Bench, Worker

from tril_gym.agents import PPO, LMPolicy, PPOConfig

CRITICS = ("separate", "shared")
HERE = Path(__file__).parent
TRL = "TRL"
LIKED = 10  # a reward that differs between texts and costs next to nothing: the share of tokens that 10 divides


def save_case(folder: Path, model: Any, tokenizer: Any, prompts: Sequence[str], numbers: Numbers, **more: Any) -> None:
    """Write what every contestant starts from."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    case = asdict(numbers) | {"prompts": list(prompts), "threads": torch.get_num_threads()} | more
    (folder / "case.json").write_text(json.dumps(case))


def ours(case: dict[str, Any], model: Any, tokenizer: Any, critic: str, *, compiles: bool = False) -> Callable[[], int]:
    """An iteration of our PPO; returns the tokens that were written."""

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
    tokens: list[int] = []

    def iterate() -> int:
        agent.learn(1, after=lambda report: tokens.append(int(report.trajectories.lengths.sum())))
        return tokens[-1]

    return iterate


def by_hand(case: dict[str, Any], model: Any, tokenizer: Any, critic: str) -> Callable[[], int]:
    """The same by hand."""
    known = {name: case[name] for name in Numbers.__dataclass_fields__}
    ids = [tokenizer(text)["input_ids"] for text in case["prompts"]]
    generator = torch.Generator().manual_seed(0)

    def reward(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        return ((tokens % LIKED == 0) & is_token).sum(1) / is_token.sum(1)

    trainer = HandWrittenPPO(
        model, reward, Numbers(**known), eos=tokenizer.eos_token_id, stops=case["stops"], shared=critic == "shared"
    )

    def iterate() -> int:
        chosen = [ids[i] for i in torch.randint(len(ids), (case["texts"],), generator=generator).tolist()]
        width = max(map(len, chosen))
        prompts = torch.tensor([[PAD] * (width - len(row)) + row for row in chosen])
        mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in chosen])
        return trainer.iterate(prompts, mask)

    return iterate


COMPILED = "ours compiled"
KINDS = {"ours": ours, "by hand": by_hand, COMPILED: partial(ours, compiles=True)}


def contest(folder: Path, name: str) -> None:
    """Be a contestant: "ours, shared" and the like."""
    bench = Bench()
    case = json.loads((folder / "case.json").read_text())
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    kind, critic = name.split(", ")
    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    iterate = KINDS[kind](case, model, tokenizer, critic)

    def turn() -> dict[str, float]:
        begin = time.perf_counter()
        tokens = iterate()
        return {"seconds": time.perf_counter() - begin, "tokens": tokens}

    bench.serve(turn)


def race_on(folder: Path, title: str, names: Sequence[str], trl_python: str | None, repeat: int) -> dict[str, Any]:
    """Let all contestants run a case."""
    commands = {name: [sys.executable, __file__, "--contest", str(folder), name] for name in names}
    if trl_python:
        commands[TRL] = [trl_python, str(HERE / "peers/trl/ppo.py"), str(folder)]
    with ExitStack() as stack:
        workers = {name: Worker(line, folder / f"{number}.log") for number, (name, line) in enumerate(commands.items())}
        for worker in workers.values():
            stack.callback(worker.close)
        for worker in workers.values():
            worker.read()  # it is ready

        def turn(worker: Worker) -> Sample:
            answer = worker.ask()
            return Sample(answer.pop("seconds"), answer.pop("tokens"), answer)

        contestants = {name: lambda worker=worker: turn(worker) for name, worker in workers.items()}
        pairs = [(f"ours, {critic}", f"by hand, {critic}") for critic in CRITICS]
        pairs += [("ours, separate", TRL), ("ours, shared", TRL)]
        pairs += [(f"{COMPILED}, {critic}", f"ours, {critic}") for critic in CRITICS]
        targets = [Target(*pair) for pair in pairs]
        return side_by_side.run(Comparison(title, "tokens", contestants, targets, same_turns=True), repeat=repeat)


def write_cases(folder: Path, settings: Any) -> dict[str, Path]:
    """Folders of the cases, by title."""
    texts, prompt_length, new_tokens, layers = (4, 6, 4, 1) if settings.smoke else (64, 64, 48, 4)
    numbers = Numbers(new_tokens=new_tokens, minibatch_size=texts // 4, epochs=1 if settings.smoke else 4)
    sizes = {"texts": texts, "prompt_length": prompt_length}
    size = f"{texts} texts of {prompt_length} + {new_tokens} tokens"
    prompts, tokenizer = prompts_of_words(1_000, prompt_length), tokenizer_of_words()
    positions = prompt_length + new_tokens
    titles = {f"one iteration, {size}": folder / "equal"}
    equal = biased(gpt2(layers=layers, positions=positions), {PAD: -30.0})
    save_case(folder / "equal", equal, tokenizer, prompts, numbers, stops=False, **sizes)
    if not settings.smoke:
        titles[f"one iteration, {size}, stopping after {new_tokens // 3} on average"] = folder / "ragged"
        ragged = stopping(gpt2(layers=layers, positions=positions), new_tokens / 3, new_tokens)
        save_case(folder / "ragged", ragged, tokenizer, prompts, numbers, stops=True, **sizes)
    if settings.data:
        envs = common_gen(settings.data, texts, new_tokens)
        model = taught(envs, 1 if settings.smoke else settings.teach)
        base = envs.unwrapped
        chosen = [example.prompt for example in base.examples[:1_000]]
        chosen = [text for text in chosen if len(base.tokenizer(text)["input_ids"]) <= base.config.max_prompt_length]
        titles[f"one iteration, {texts} texts of CommonGen, up to {new_tokens} tokens"] = folder / "common_gen"
        sizes["prompt_length"] = base.config.max_prompt_length
        save_case(folder / "common_gen", model, base.tokenizer, chosen, numbers, stops=True, **sizes)
    return titles


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    options = side_by_side.parser(__doc__)
    options.add_argument("--data", type=Path, help="folder with commongen/train.jsonl.gz")
    options.add_argument("--teach", type=int, default=250, help="iterations of BC on it, of 64 texts")
    options.add_argument("--critic", nargs="+", choices=CRITICS, default=list(CRITICS), help="of ours and by hand")
    options.add_argument("--compile", action="store_true", help="let ours take part with compile=True, too")
    options.add_argument("--trl-python", help="the Python of a virtual environment with TRL")
    options.add_argument("--contest", nargs=2, help="for the contestants' own processes")
    known = options.parse_args(arguments)
    if known.contest:
        contest(Path(known.contest[0]), known.contest[1])
        return None
    settings = side_by_side.parsed(options, arguments)
    critics = settings.critic[:1] if settings.smoke else settings.critic
    kinds = [kind for kind in KINDS if settings.compile or kind != COMPILED]
    names = [f"{kind}, {critic}" for critic in critics for kind in kinds]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for title, case in write_cases(Path(folder), settings).items():
            found.append(race_on(case, title, names, settings.trl_python, settings.repeat))
            side_by_side.show(found[-1])
    return side_by_side.finish(settings, found)


if __name__ == "__main__":
    main()
