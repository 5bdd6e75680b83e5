"""The model card of an exported policy: how to load it, how it was trained, and its held-out metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tril_gym import __version__
from tril_gym.experiment.algorithms import short_name
from tril_gym.experiment.config import TINY
from tril_gym.utils.tables import NOT_COMPARED

CARD = "README.md"
MOST = 1500  # characters of a text that is shown
TEXT_LINE = 'inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)'
CHAT_LINES = (
    'chat = [{"role": "user", "content": "hello"}]',
    'settings = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}',
    "inputs = tokenizer.apply_chat_template(chat, **settings)",
)


def model_card(
    name: str,
    settings: Mapping[str, Any],
    *,
    iteration: int,
    evaluation: Mapping[str, Any],
    is_encoder_decoder: bool,
    layout: Mapping[str, Any],
    has_tokenizer: bool = True,
) -> str:
    """Return a model card in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        name: of the exported folder.
        settings: of the run, as its config.yaml has them, secrets masked.
        iteration: iterations that the policy has been trained for.
        evaluation: the run's evaluation.json; empty where it has none.
        is_encoder_decoder: whether the model is one.
        layout: what agent.json has of the environment.
        has_tokenizer: whether a tokenizer is beside the model.
    """
    algorithm, env = settings["algorithm"], settings["env"]
    parts = [
        _front_matter(settings, is_encoder_decoder),
        f"# {algorithm} on {env}",
        f"A language model that tril-gym {__version__} trained with `{algorithm}` on `{env}`: {iteration} of"
        f" {settings['iterations']} iterations from the policy `{settings['policy']}`.",
        "## Use",
        _usage(name, is_encoder_decoder, _prompt(evaluation) if has_tokenizer else None, layout),
        *_figures(evaluation, is_last=iteration >= settings["iterations"]),
        "## Settings",
        _fenced(_yaml(settings), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(settings: Mapping[str, Any], is_encoder_decoder: bool) -> str:
    policy = settings["policy"]
    about: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation" if is_encoder_decoder else "text-generation",
        "tags": ["tril-gym", short_name(settings["algorithm"])],
    }
    if policy not in TINY and not Path(policy).exists():  # a name on the hub
        about["base_model"] = policy
    return f"---\n{_yaml(about)}---"


def _prompt(evaluation: Mapping[str, Any]) -> str:
    """Return a prompt to show how the model is used, one of the evaluation if there is any."""
    samples = (evaluation.get("before") or {}).get("samples") or [{}]
    return (samples[0].get("prompt") or "a prompt as the environment gives it")[:MOST]


def _usage(name: str, is_encoder_decoder: bool, prompt: str | None, layout: Mapping[str, Any]) -> str:
    """Return code that loads the model and completes a prompt; None: there is no tokenizer to read it."""
    kind = "AutoModelForSeq2SeqLM" if is_encoder_decoder else "AutoModelForCausalLM"
    lines = [f"from transformers import {kind}" + (", AutoTokenizer" if prompt is not None else "")]
    lines += ["", f"model = {kind}.from_pretrained({name!r})"]
    if prompt is not None:
        new = "written[0]" if is_encoder_decoder else 'written[0, inputs["input_ids"].shape[1] :]'
        tokenizer = ", tokenizer=tokenizer" if layout.get("stop") else ""  # which transformers needs for stop strings
        lines += [
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
            *(CHAT_LINES if layout.get("chat") else [f"prompt = {prompt!r}", TEXT_LINE]),
            f"written = model.generate(**inputs{tokenizer})  # samples as in training; do_sample=False: most probable",
            f"print(tokenizer.decode({new}, skip_special_tokens=True))",
        ]
    return _fenced("\n".join(lines), "python")


def _figures(evaluation: Mapping[str, Any], *, is_last: bool) -> Iterable[str]:
    """Yield the verdict, the table of metrics, and texts; `is_last`: of the policy after all iterations."""
    before, after = evaluation.get("before"), evaluation.get("after")
    if not before:
        return
    yield "## Held-out texts"
    verdict = (evaluation.get("verdict") or {}).get("sentence")
    yield f"Held out: {evaluation.get('held_out')}."
    yield f"**{verdict}**" if verdict else "The run is not finished, so there are no metrics after training."
    if verdict and not is_last:
        yield "These metrics are those of the policy after all iterations, not of this one."
    found = {"before": before} | ({"after": after} if after else {})
    yield "\n".join(_table(found))
    yield "In brackets: 95 % bootstrap intervals over the examples."
    for title, evaluated in found.items():
        for sample in evaluated["samples"][:1]:
            yield f"A text sampled {title} training, reward {_number(sample['reward'])}:"
            yield _fenced(f"{sample['prompt']}\n→ {sample['completion']}"[:MOST], "text")


def _table(found: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Yield the lines of a table of evaluations: a row for each metric, a column for each decoding of each of them."""
    columns = [(when, decoding) for decoding in ("greedy", "sampled") for when in found]
    names = dict.fromkeys(name for when, decoding in columns for name in found[when]["metrics"][decoding])
    yield _row("metric", *(f"{decoding}, {when} training" for when, decoding in columns))
    yield _row("---", *("---:" for _ in columns))
    for name in (name for name in names if name not in NOT_COMPARED):
        cells = ((found[when]["metrics"][decoding], found[when]["intervals"][decoding]) for when, decoding in columns)
        yield _row(f"`{name}`", *(_cell(metrics.get(name), bounds.get(name)) for metrics, bounds in cells))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: float | None, interval: Sequence[float | None] | None) -> str:
    if value is None:
        return ""
    bounds = "" if interval is None or None in interval else f" [{', '.join(map(_number, interval))}]"
    return _number(value) + bounds


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _fenced(text: str, language: str) -> str:
    """Return a code block, whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _yaml(content: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return text
