"""`tril-gym sample`: try out a policy on prompts of one's own."""

from __future__ import annotations

from typing import Any

import click

from tril_gym.cli.failures import reported_failures
from tril_gym.cli.options import usage_errors

AT_LEAST_ONE = click.IntRange(min=1)


@click.command("sample")
@click.argument("source", metavar="RUN|MODEL")
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("--max-new-tokens", type=AT_LEAST_ONE, help="Length of a completion  [default: 64, or what fits]")
@click.option("--greedy", is_flag=True, help="Write the most probable tokens instead of sampling")
@click.option("--samples", type=AT_LEAST_ONE, default=1, show_default=True, help="Completions of each prompt")
@click.option("--temperature", type=click.FloatRange(min=0.001), help="Temperature  [default: that of the run; else 1]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for sampling")
@click.option("--device", default="cpu", show_default=True, help="Torch device of the model, such as cpu or cuda")
@click.option("--trust-remote-code", is_flag=True, help="Run code from a model's repository")
@click.option("--debug", is_flag=True, help="Show the traceback of an error")
def sample_command(
    source: str, prompts: tuple[str, ...], samples: int, greedy: bool, max_new_tokens: int | None, seed: int,
    debug: bool, **loading: Any,
) -> None:  # fmt: skip
    """Complete prompts with the policy of a run, or with a model by name or folder.

    Prompts are read as they are: write them as the environment does, such as "concepts: dog park run. sentence:".
    """
    from tril_gym.experiment.sampling import sampled_policy
    from tril_gym.utils.quiet import silence_libraries

    silence_libraries()
    with reported_failures(debug=debug), usage_errors():
        policy = sampled_policy(source, **loading)
        repeated = [prompt for prompt in prompts for _ in range(1 if greedy else samples)]
        found = policy.generate(repeated, max_new_tokens=max_new_tokens, greedy=greedy, seed=seed)
    for prompt, completion in zip(repeated, found, strict=True):
        click.echo(f"{prompt} |{completion}")
