"""Baselines in plain PyTorch and `transformers`: sampling with a cache, and an iteration of PPO.

B texts, P prompt columns, T new tokens, V vocabulary. Prompts are padded on the left, tokens on the right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PAD = 0


@torch.no_grad()
def write(
    model: Any, prompts: Tensor, mask: Tensor, new_tokens: int, *, eos: int, stops: bool, logprobs: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Sample completions; no row leaves the batch before the last one has ended.

    Args:
        model: causal, or an encoder-decoder.
        prompts: (B, P).
        mask: (B, P) True on real tokens.
        new_tokens: T.
        eos: the token that ends a text.
        stops: False excludes EOS, so that every text has T tokens.
        logprobs: also return the log-probability of each token.

    Returns:
        (B, T' ≤ T) tokens, PAD after the end; and their log-probabilities, None unless `logprobs`.
    """
    decoder = _Seq2Seq(model, prompts, mask) if model.config.is_encoder_decoder else _Causal(model, prompts, mask)
    active = torch.ones(len(prompts), dtype=torch.bool, device=prompts.device)
    tokens: list[Tensor] = []
    token_logprobs: list[Tensor] = []
    for _ in range(new_tokens):
        logits = decoder.read(tokens[-1] if tokens else None)
        if not stops:
            logits[:, eos] = float("-inf")
        probabilities = logits.softmax(-1)
        token = torch.multinomial(probabilities, 1).squeeze(1)
        if stops:
            token = torch.where(active, token, PAD)
            active = active & (token != eos)
        if logprobs:
            token_logprobs.append(probabilities.gather(1, token.unsqueeze(1)).squeeze(1).log())
        tokens.append(token)
        if not active.any():
            break
    return torch.stack(tokens, 1), torch.stack(token_logprobs, 1) if logprobs else None


def generate(model: Any, prompts: Tensor, mask: Tensor, new_tokens: int, *, eos: int, stops: bool) -> Tensor:
    """Sample with `transformers`' `generate`: (B, …), the completions after the prompt or the start token."""
    output: Tensor = model.generate(
        input_ids=prompts,
        attention_mask=mask.long(),
        do_sample=True,
        top_k=0,
        max_new_tokens=new_tokens,
        min_new_tokens=None if stops else new_tokens,
        eos_token_id=eos,
        pad_token_id=PAD,
    )
    return output


class _Causal:
    """Causal model with a cache; `read` returns the logits of the next token, (B, V)."""

    def __init__(self, model: Any, prompts: Tensor, mask: Tensor) -> None:
        self.model, self.ids, self.mask, self.cache = model, prompts, mask.long(), None

    def read(self, token: Tensor | None) -> Tensor:
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        if token is not None:
            self.ids = token.unsqueeze(1)
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
            positions = positions[:, -1:] + 1
        output = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        return output.logits[:, -1]


class _Seq2Seq:
    """Encoder-decoder with a cache; `read` returns the logits of the next token, (B, V)."""

    def __init__(self, model: Any, prompts: Tensor, mask: Tensor) -> None:
        self.model, self.mask, self.cache = model, mask.long(), None
        # The encoder needs its padding on the right.
        order = (~mask).long().argsort(dim=1, stable=True)
        self.mask = self.mask.gather(1, order)
        self.encoded = model.get_encoder()(input_ids=prompts.gather(1, order), attention_mask=self.mask)
        self.start = torch.full((len(prompts),), model.config.decoder_start_token_id, device=prompts.device)

    def read(self, token: Tensor | None) -> Tensor:
        output = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=(self.start if token is None else token).unsqueeze(1),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        return output.logits[:, -1]


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of an iteration."""

    new_tokens: int = 48
    epochs: int = 4
    minibatch_size: int = 16
    learning_rate: float = 1e-8  # so small that the lengths of texts do not change over the iterations
    clip_range: float = 0.2
    vf_coef: float = 0.5
    kl_coef: float = 0.001
    gae_lambda: float = 0.95
    max_grad_norm: float = 1.0


class HandWrittenPPO:
    """PPO for GPT-2, with a separate critic or with a value head on the policy's body.

    Args:
        model: trained in place.
        reward: (B, T) tokens, (B, T) mask -> (B,).
        hyperparameters: of each iteration.
        eos: the token that ends a text.
        stops: whether texts end at EOS.
        shared: whether the critic shares the policy's body.
        generates: whether `transformers`' `generate` writes the texts, which are then read for their log-probabilities.
    """

    def __init__(
        self,
        model: Any,
        reward: Callable[[Tensor, Tensor], Tensor],
        hyperparameters: Hyperparameters,
        *,
        eos: int,
        stops: bool,
        shared: bool,
        generates: bool = False,
    ) -> None:
        self.model, self.reward, self.hyperparameters = model.train(), reward, hyperparameters
        self.eos, self.stops, self.shared, self.generates = eos, stops, shared, generates
        self.ref_model = copy.deepcopy(model).eval().requires_grad_(False)
        self.body = model.transformer if shared else copy.deepcopy(model.transformer)
        self.value = nn.Linear(model.config.n_embd, 1, device=model.device, dtype=model.dtype)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.critic = list(self.value.parameters()) + ([] if shared else list(self.body.parameters()))
        parameters = [*model.parameters(), *self.critic]
        self.optimizer = torch.optim.AdamW(parameters, lr=hyperparameters.learning_rate, weight_decay=0.0, fused=True)

    def iterate(self, prompts: Tensor, mask: Tensor) -> int:
        """Write B texts and learn from them; return the number of tokens written."""
        texts = self.write(prompts, mask)
        self.learn(*texts)
        return int(texts[3].sum())

    def write(self, prompts: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return ids and mask of whole texts, (B, P + T), and tokens, their mask and log-probabilities, (B, T)."""
        if self.generates:
            written = generate(
                self.model.eval(), prompts, mask, self.hyperparameters.new_tokens, eos=self.eos, stops=self.stops
            )
            self.model.train()
            tokens, old = written[:, prompts.shape[1] :], None
        else:
            tokens, old = write(
                self.model,
                prompts,
                mask,
                self.hyperparameters.new_tokens,
                eos=self.eos,
                stops=self.stops,
                logprobs=True,
            )
        is_eos = ((tokens == self.eos) & self.stops).long()
        is_token = is_eos.cumsum(1) - is_eos == 0
        ids, full = torch.cat([prompts, tokens], 1), torch.cat([mask, is_token], 1).long()
        return ids, full, tokens, is_token, self._logprobs(self.model, ids, full, tokens) if old is None else old

    @torch.no_grad()
    def _logprobs(self, model: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probabilities of the tokens, (B, T)."""
        logits = model(**self._sequence(ids, mask), logits_to_keep=tokens.shape[1] + 1).logits[:, :-1]
        return logprobs_of(logits, tokens)

    def learn(self, *batch: Tensor) -> None:
        """Train for some epochs on what `write` returned."""
        ids, full, tokens, is_token, old = batch
        ref_logprobs = self._logprobs(self.ref_model, ids, full, tokens)
        with torch.no_grad():
            values = self._values(self.body(**self._sequence(ids, full)).last_hidden_state, tokens)
        advantages, returns = self._advantages(old, ref_logprobs, values, is_token, self.reward(tokens, is_token))
        for _ in range(self.hyperparameters.epochs):
            for rows in torch.randperm(len(tokens)).split(self.hyperparameters.minibatch_size):
                self._step(*(part[rows] for part in batch), advantages[rows], returns[rows])

    def _sequence(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}

    def _values(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self.value(hidden[:, -tokens.shape[1] - 1 : -1]).squeeze(-1)

    def _advantages(
        self, old: Tensor, ref_logprobs: Tensor, values: Tensor, is_token: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return advantages and returns, both (B, T)."""
        rewards = -self.hyperparameters.kl_coef * (old - ref_logprobs) * is_token
        rewards[torch.arange(len(rewards)), is_token.sum(1) - 1] += scores
        values = values * is_token
        advantages, advantage = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
        for t in reversed(range(rewards.shape[1])):
            next_value = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(advantage)
            advantage = rewards[:, t] + next_value - values[:, t] + self.hyperparameters.gae_lambda * advantage
            advantages[:, t] = advantage
        return advantages, advantages + values

    def _step(
        self,
        ids: Tensor,
        mask: Tensor,
        tokens: Tensor,
        is_token: Tensor,
        old: Tensor,
        advantages: Tensor,
        returns: Tensor,
    ) -> None:
        sequence = self._sequence(ids, mask)
        hidden = self.model.transformer(**sequence).last_hidden_state
        logits = self.model.lm_head(hidden[:, -tokens.shape[1] - 1 : -1])
        ratio = (logprobs_of(logits, tokens) - old).exp()
        clipped = ratio.clamp(1 - self.hyperparameters.clip_range, 1 + self.hyperparameters.clip_range)
        surrogate = -mean(torch.minimum(ratio * advantages, clipped * advantages), is_token)
        body = hidden if self.shared else self.body(**sequence).last_hidden_state
        value = 0.5 * mean((self._values(body, tokens) - returns) ** 2, is_token)
        self.optimizer.zero_grad(set_to_none=True)
        (surrogate + self.hyperparameters.vf_coef * value).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.hyperparameters.max_grad_norm)
        nn.utils.clip_grad_norm_(self.critic, self.hyperparameters.max_grad_norm)
        self.optimizer.step()


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of tokens: (B, T, V), (B, T) -> (B, T)."""
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over the cells where the mask is True."""
    return (values * mask).sum() / mask.sum()
