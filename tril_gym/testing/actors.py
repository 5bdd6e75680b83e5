"""The contract of actors and guides, which write texts, as a check that their author runs.

B texts, P prompt tokens, T new tokens, V words in the vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.actors.guide import Guide
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.actor import Actor, Writer, as_actor, as_writer
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.pretrained import fingerprint
from tril_gym.models.texts import Texts
from tril_gym.testing.conformance import as_broken, no_global_randomness, require, require_same, unchanged
from tril_gym.utils.batched_infos import row_of

GRID = 512  # copies of one text, with evenly spaced uniforms
TOLERANCE = 0.02  # of a probability that is measured on the grid


def check_actor(actor: Any, envs: VectorEnv[Any, Any, Any], *, seed: int = 0) -> None:
    """Check an actor in an environment against the contract of docs/your_own_agent.md.

    Tokens and log-probabilities, the uniforms as the only randomness, the independence of texts, rows that are dropped,
    and the absence of side effects.

    Args:
        actor: an `Actor`, or an object with its `start` method.
        envs: a vector environment that it writes in, with four or more rows.
        seed: of prompts and uniforms.

    Raises:
        ConformanceError: a rule is broken. The message has the rule and the values.
    """
    with as_broken("an actor has a start method, and fits the environment"):
        actor = as_actor(actor)
        layout = TextLayout.of(envs)
        actor.check(layout)
    texts, infos = _prompts(envs, layout, seed)
    uniforms = torch.rand(
        (len(texts), layout.max_new_tokens), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    _check_writer(actor, texts, infos, layout, uniforms)
    expected = _written(actor, texts, infos, layout, uniforms)
    with no_global_randomness("an actor"):  # not in the first texts: libraries draw when they are imported
        again = _written(actor, texts, infos, layout, uniforms)
        require_same(again, expected, "an actor writes the same texts for the same uniforms")
        _check_rows(actor, texts, infos, layout, uniforms, expected)
        _check_keep(actor, texts, infos, layout, uniforms)
        _check_logprobs(actor, texts, infos, layout)
        if actor.can_continue:
            _check_continuation(actor, texts, infos, layout, uniforms, expected)


def check_guide(guide: Any, envs: VectorEnv[Any, Any, Any], *, seed: int = 0) -> None:
    """Check a guide in an environment against the contract of docs/guides.md: an actor that begins or finishes texts.

    What `check_actor` checks; that the environment receives what the guide writes, as a rollin and, if it continues
    texts, as a rollout; and that the guide does not change while it writes.

    Args:
        guide: such as `Guide(policy)` or `Guide.from_callable(f)`, or an actor of your own.
        envs: a vector environment that it writes in, with four or more rows.
        seed: of prompts and uniforms.

    Raises:
        ConformanceError: a rule is broken. The message has the rule and the values.
    """
    check_actor(guide, envs, seed=seed)
    actor = as_actor(guide)
    plan = Plan(rollin=actor, rollin_prob=1.0, rollout=actor if actor.can_continue else _Filler())
    episodes = envs.num_envs + 1  # more than one batch

    def write() -> Any:
        trajectories = collect(envs, plan, episodes=episodes, generator=torch.Generator().manual_seed(seed))
        return trajectories.tokens.tolist(), trajectories.is_rollin.tolist()

    before = _weights(guide)
    tokens, is_rollin = write()
    require_same(write(), (tokens, is_rollin), "a guide gives the same collection for the same generator")
    require_same(_weights(guide), before, "a guide does not change while it writes")
    lengths = [sum(row) for row in is_rollin]
    if TextLayout.of(envs).max_new_tokens > 1:
        found = f"rollins of {lengths} tokens"
        require(any(lengths), "a guide writes texts of two tokens or more, from which a rollin can be cut", found)


class _Filler(Actor):
    """Ends every text, for guides that can only begin them."""

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> Writer:
        return _FillerWriter(layout.eos_token_ids[0])


class _FillerWriter(Writer):
    def __init__(self, eos: int) -> None:
        self.eos = eos

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        return torch.full(draws.shape, self.eos, dtype=torch.int64), None

    def keep(self, rows: Tensor) -> None:
        pass


def _weights(guide: Any) -> str | None:
    """Return a hash of the weights of a guide that is a language model; None for others."""
    policy = guide.policy if isinstance(guide, Guide) else guide
    return fingerprint(policy.model) if isinstance(policy, LMPolicy) else None


def _prompts(envs: VectorEnv[Any, Any, Any], layout: TextLayout, seed: int) -> tuple[Texts, list[dict[str, Any]]]:
    require(envs.num_envs >= 4, "the check needs an environment of four rows or more", f"{envs.num_envs} rows")
    observations, infos = envs.reset(seed=seed)
    columns = torch.from_numpy(np.array(observations, np.int64))
    texts = Texts.from_observations(columns, layout.max_prompt_length)
    return texts, [row_of(infos, row) for row in range(envs.num_envs)]


def _plain(texts: Texts) -> dict[str, Any]:
    """Return the memory of texts as arrays, by name."""
    tensors = {"prompts": texts.prompts, "is_prompt": texts.is_prompt, "tokens": texts.tokens}
    return {name: tensor.numpy() for name, tensor in (tensors | {"is_token": texts.is_token}).items()}


def _written(actor: Actor, texts: Texts, infos: Any, layout: TextLayout, uniforms: Tensor) -> list[list[int]]:
    """Return the completions that an actor writes."""
    buffer = write_completions(actor, texts, infos, layout, uniforms)
    return [tokens[:length].tolist() for tokens, length in zip(buffer.tokens, buffer.written, strict=True)]


def _check_rows(
    actor: Actor, texts: Texts, infos: Any, layout: TextLayout, uniforms: Tensor, expected: list[list[int]]
) -> None:
    for row in range(len(texts)):
        index = torch.tensor([row])
        alone = _written(actor, texts[index], [infos[row]], layout, uniforms[index])
        require_same(
            alone, [expected[row]], f"a text depends on its own prompt and uniforms alone, here that of row {row}"
        )
    order = torch.arange(len(texts)).flip(0)
    found = _written(actor, texts[order], [infos[row] for row in order.tolist()], layout, uniforms[order])
    require_same(found, expected[::-1], "a text does not depend on the order of the batch")


def _check_writer(actor: Actor, texts: Texts, infos: Any, layout: TextLayout, uniforms: Tensor) -> None:
    """Check the first token of each text, and what the arguments are afterwards."""
    with unchanged("an actor does not change texts and infos", (_plain(texts), infos)):
        writers = [as_writer(actor.start(texts, infos, layout)) for _ in range(2)]
        one, other = (_check_next(writer, uniforms[:, 0], layout) for writer in writers)
    require_same(other, one, "two writers of the same texts write the same for the same uniforms")
    minimum = writers[0].min_new_tokens
    rule = f"a writer with min_new_tokens {minimum} writes no EOS before that"
    is_right = minimum < 2 or not np.isin(one, layout.eos_token_ids).any()
    require(is_right, rule, f"the first tokens are {one.tolist()}")
    for writer in writers:
        writer.close()


def _check_keep(actor: Actor, texts: Texts, infos: Any, layout: TextLayout, uniforms: Tensor) -> None:
    """Check that a writer continues the rows that are kept, in their order."""
    writer, other = (as_writer(actor.start(texts, infos, layout)) for _ in range(2))
    first = _check_next(writer, uniforms[:, 0], layout)
    _check_next(other, uniforms[:, 0], layout)
    going = np.flatnonzero(np.logical_not(np.isin(first, layout.eos_token_ids)))
    if layout.max_new_tokens > 1 and len(going) > 1:
        _keep(writer, going)
        _keep(other, going[::-1])
        one = _check_next(writer, uniforms[going, 1], layout)
        backwards = _check_next(other, uniforms[going[::-1].copy(), 1], layout)
        rule = f"keep(rows) keeps the rows {going.tolist()} in the order that it is given"
        require_same(backwards[::-1].copy(), one, rule)
    writer.close()
    other.close()


def _keep(writer: Writer, rows: np.ndarray[Any, Any]) -> None:
    writer.keep(torch.from_numpy(rows.copy()))


def _check_next(writer: Writer, draws: Tensor, layout: TextLayout) -> np.ndarray[Any, Any]:
    """Return the next token of each text, checked."""
    kept = draws.clone()
    found = writer.next(draws)
    rule = "next(draws) returns (tokens, log-probabilities or None)"
    require(isinstance(found, tuple) and len(found) == 2, rule, repr(found))
    require_same(draws.numpy(), kept.numpy(), "next(draws) does not change the uniforms")
    tokens, logprobs = found
    rule = f"next(draws) returns one token for each of {len(draws)} texts, int64 in 0 … {layout.vocab_size - 1}"
    is_right = isinstance(tokens, Tensor) and tokens.shape == draws.shape and tokens.dtype == torch.int64
    is_right = is_right and bool(((tokens >= 0) & (tokens < layout.vocab_size)).all())
    require(is_right, rule, repr(tokens))
    if logprobs is not None:
        rule = "log-probabilities are one number for each text, in nats, 0 or less"
        is_right = isinstance(logprobs, Tensor) and logprobs.shape == draws.shape
        is_right = is_right and bool((logprobs.isfinite() & (logprobs <= 1e-6)).all())
        require(is_right, rule, repr(logprobs))
    result: np.ndarray[Any, Any] = tokens.cpu().numpy()
    return result


def _check_logprobs(actor: Actor, texts: Texts, infos: Any, layout: TextLayout) -> None:
    """Check log-probabilities against how often tokens are written, with a grid of uniforms on copies of a text."""
    index = torch.zeros(GRID, dtype=torch.int64)
    writer = as_writer(actor.start(texts[index], [infos[0]] * GRID, layout))
    draws = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    tokens, logprobs = writer.next(draws)
    kept = None if writer.cut_mass is None else 1 - writer.cut_mass.double().cpu()
    writer.close()
    if logprobs is None:
        return
    probabilities = logprobs.double().exp().cpu() / (1.0 if kept is None else kept)
    for token in tokens.unique().tolist():
        is_token = (tokens == token).cpu()
        share, stated = float(is_token.double().mean()), float(probabilities[is_token].mean())
        rule = f"the log-probability of a token is that with which it is drawn, here token {token}"
        require(abs(share - stated) <= TOLERANCE, rule, f"probability {stated:.4f}, drawn with {share:.4f}")


def _check_continuation(
    actor: Actor, texts: Texts, infos: Any, layout: TextLayout, uniforms: Tensor, expected: list[list[int]]
) -> None:
    """Check that texts which are begun, to different lengths, are continued and not begun again."""
    begun = [tokens[: min(row % 3 + 1, len(tokens) - 1)] for row, tokens in enumerate(expected)]
    if actor.reads_text(layout):
        begun = [tokens if row % 2 else [] for row, tokens in enumerate(begun)]
    with as_broken("an actor with can_continue = True continues texts that are begun"):
        found = _written(actor, texts.with_completions(begun), infos, layout, uniforms)
    for row, (beginning, whole) in enumerate(zip(begun, found, strict=True)):
        rule = f"an actor continues a text after the tokens {beginning}, here row {row}, and writes at least one token"
        is_longer = whole[: len(beginning)] == beginning and len(beginning) < len(whole) <= layout.max_new_tokens
        require(is_longer, rule, repr(whole))
