"""`tril-gym sample`: try out a policy on prompts of one's own."""

from __future__ import annotations

from typing import Any

import click

from tril_gym.cli.completion import folders
from tril_gym.cli.failures import debug_flag, reported_failures
from tril_gym.cli.options import stop_texts, usage_errors

AT_LEAST_ONE = click.IntRange(min=1)


@click.command("sample")
@click.argument("source", metavar="RUN|MODEL", shell_complete=folders)
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("--max-new-tokens", type=AT_LEAST_ONE, help="Length of a completion  [default: 64, or what fits]")
@click.option("--greedy", is_flag=True, help="Write the most probable tokens instead of sampling")
@click.option("--samples", type=AT_LEAST_ONE, default=1, show_default=True, help="Completions of each prompt")
@click.option("--temperature", type=click.FloatRange(min=0.001), help="Temperature  [default: that of the run; else 1]")
@click.option("--stop", multiple=True, metavar="TEXT", help="Text at which a completion ends  [default: of the run]")
@click.option(
    "--chat/--no-chat", default=None, help="Prompts are messages of a user  [default: as in the run; else no]"
)
@click.option("--system-prompt", metavar="TEXT", help="System message before each prompt  [default: that of the run]")
@click.option(
    "--chat-template", metavar="FILE", help="Chat template in Jinja  [default: that of the run; else the model's]"
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Random seed for sampling"
)
@click.option("--device", default="cpu", show_default=True, help="Torch device of the model, such as cpu or cuda")
@click.option("--trust-remote-code", is_flag=True, help="Run code from a model's repository")
@click.option(
    "--check-model/--no-check-model", default=True, help="Check that generation and scoring agree  [default: check]"
)
@debug_flag
def sample_command(
    source: str, prompts: tuple[str, ...], samples: int, greedy: bool, max_new_tokens: int | None, seed: int,
    debug: bool, stop: tuple[str, ...], **loading: Any,
) -> None:  # fmt: skip
    """Complete prompts with the policy of a run, or with a model by name or folder.

    Prompts are read as they are: write them as the environment does, such as "concepts: dog park run. sentence:". For
    a run on chats, and with --chat, each is the message of a user, which the chat template renders.
    """
    from tril_gym.experiment.sampling import sampler
    from tril_gym.utils.quiet import silence_libraries

    silence_libraries()
    if greedy and (samples > 1 or loading["temperature"] is not None):
        option = "--samples" if samples > 1 else "--temperature"
        raise click.UsageError(f"--greedy writes the most probable tokens, once for each prompt; leave {option} out")
    with reported_failures(debug=debug), usage_errors(["max_new_tokens"]):
        chosen = sampler(source, stop=stop_texts(stop) or None, **loading)
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        found = chosen.complete(repeated, max_new_tokens=max_new_tokens, greedy=greedy, seed=seed)
    for prompt, completion in zip(repeated, found, strict=True):
        click.echo(f"{prompt} |{completion}")
