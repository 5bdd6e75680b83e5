"""The whole loss and its gradient equal those of a slow version: one text and one token at a time, no padding.

The slow version uses plain calls of the models, lists, and the formulas of the papers.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import generator, language_model
from torch import Tensor, nn

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Guide, LMPolicy, Plan, PPOConfig, TextLayout, Trajectories
from tril_gym.agents.actors.references import reference_texts
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.critic import Critic
from tril_gym.agents.learners.experience import Experience
from tril_gym.models.texts import Texts

V, EOS, MIN_NEW = 16, 1, 2
CONFIG = PPOConfig(
    gamma=0.9,
    gae_lambda=0.8,
    clip_range=0.2,
    value_clip_range=0.3,
    vf_coef=0.7,
    ent_coef=0.05,
    target_coef=0.3,
    kl_coef=0.2,
    temperature=2.0,
)


def ppo(policy: LMPolicy, guide: Guide) -> Plan:
    return Plan(rollout=policy)


def ppo_pp(policy: LMPolicy, guide: Guide) -> Plan:
    return Plan(rollout=policy, rollin=guide, rollin_prob=0.7)


def aggrevated(policy: LMPolicy, guide: Guide) -> Plan:
    return Plan(rollout=guide, rollin=policy, rollin_prob=0.7, learn_on="rollin", critic="guide")


def one_step(policy: LMPolicy, guide: Guide) -> Plan:
    return replace(aggrevated(policy, guide), learn_on="switch")


@dataclass
class Setting:
    """Texts of a plan, and a policy and a critic that have been changed since."""

    learner: ActorCritic
    critic: Critic
    old_policy: Any  # models of `transformers`
    old_critic: Critic
    trajectories: Trajectories
    targets: Texts
    experience: Experience


def setting(family: str, plan_of: Callable[[LMPolicy, Guide], Plan], config: PPOConfig = CONFIG) -> Setting:
    envs = gym.make_vec(
        "tril/Toy-v0", num_envs=6, autoreset_mode="Disabled", rule="stop", min_new_tokens=MIN_NEW, max_new_tokens=6
    )
    layout = TextLayout.of(envs)

    def policy_of(seed: int) -> LMPolicy:
        model = language_model(family, vocab_size=V, positions=20, dtype=torch.float64, seed=seed)
        return LMPolicy(model, layout.tokenizer).with_decoding(config.decoding())

    policy = policy_of(0)
    learner = ActorCritic(policy, config, layout)
    learner.credit.ref_policy = policy_of(3)
    plan = plan_of(policy, Guide(policy_of(1), temperature=3.0))
    trajectories = collect(envs, plan, episodes=6, generator=generator(1))
    pay = torch.randn(trajectories.tokens.shape, generator=generator(2), dtype=torch.float64)
    truncated = torch.arange(6) % 3 == 0  # as by a limit from outside
    trajectories = replace(trajectories, rewards=pay, truncated=truncated, terminated=~truncated)
    critic, _ = learner.critic(plan.critic)
    move(critic.head.parameters(), 1.0)
    old_policy, old_critic = copy.deepcopy(policy.model), copy.deepcopy(critic)
    experience = learner.credit.experience(
        learner.credit.add_reference_and_values(trajectories, critic), kl_coef=learner.kl_controller.coef
    )
    assert learner.references is not None
    targets = reference_texts(trajectories, learner.references, generator(3))
    move(policy.parameters(), 0.03)
    move(critic.parameters(), 0.03)
    return Setting(learner, critic, old_policy, old_critic, trajectories, targets, replace(experience, targets=targets))


@torch.no_grad()
def move(parameters: Any, scale: float) -> None:
    noise = generator(4)
    for parameter in parameters:
        parameter.add_(scale * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype))


def logits_of(model: Any, prompt: list[int], tokens: list[int]) -> Tensor:
    """(L, V): row t predicts token t."""
    if model.config.is_encoder_decoder:
        read = torch.tensor([[model.config.decoder_start_token_id, *tokens[:-1]]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=read).logits[0]
    return model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]


def values_of(critic: Critic, prompt: list[int], tokens: list[int]) -> Tensor:
    """(L + 1,): V before each token and after the last."""
    model = critic.model
    if model.config.is_encoder_decoder:
        read = torch.tensor([[model.config.decoder_start_token_id, *tokens]])
        output = model(input_ids=torch.tensor([prompt]), decoder_input_ids=read, output_hidden_states=True)
        hidden = output.decoder_hidden_states[-1][0]
    else:
        hidden = model(torch.tensor([prompt + tokens]), output_hidden_states=True).hidden_states[-1][0]
        hidden = hidden[len(prompt) - 1 :]
    return hidden @ critic.head.weight[0] + critic.head.bias[0]


def distribution(logits: Tensor, t: int) -> Tensor:
    """log π of every word as the t-th, −inf of one that may not be."""
    banned = torch.tensor([word == EOS and t < MIN_NEW for word in range(V)])
    return (logits / CONFIG.temperature).masked_fill(banned, -torch.inf).log_softmax(0)


@dataclass
class Row:
    """A text as Python numbers, with the positions and targets of learning."""

    prompt: list[int]
    tokens: list[int]
    learn_at: list[int]  # positions where the policy learns
    rollout: list[int]  # positions where the critic learns
    values: list[float]  # before the first step
    gained: list[float]  # advantages


def row_of(s: Setting, index: int, config: PPOConfig, slip: str) -> Row:
    trajectories = s.trajectories
    prompt, tokens = written(trajectories.texts, index)
    places, switch = range(len(tokens)), int(trajectories.switch[index])
    rollin, rollout = [t for t in places if t < switch], [t for t in places if t >= switch]
    wrote = rollout if trajectories.learn_on == "rollout" else rollin
    learn_at = rollin[-1:] if trajectories.learn_on == "switch" else wrote
    if slip == "the other's tokens too":
        learn_at = list(places)
    if slip == "no last token":
        learn_at = [t for t in learn_at if t < len(tokens) - 1]

    before, anchor = (logits_of(model, prompt, tokens).detach() for model in (s.old_policy, s.learner.ref_policy.model))
    priced = places if slip == "a price on the other's tokens" else wrote
    pay = trajectories.rewards[index].tolist()
    for t in priced:
        nats = distribution(before[t], t)[tokens[t]] - distribution(anchor[t], t)[tokens[t]]
        pay[t] -= config.kl_coef * nats.item()

    gamma, credit = config.gamma, config.gamma * config.gae_lambda
    values = values_of(s.old_critic, prompt, tokens).tolist()
    if bool(trajectories.terminated[index]) or slip == "no future":
        values[-1] = 0.0
    deltas = [pay[t] + gamma * values[t + 1] - values[t] for t in places]
    gained = [sum(credit**k * delta for k, delta in enumerate(deltas[t:])) for t in places]
    return Row(prompt, tokens, learn_at, rollout, values, gained)


def slow_loss(s: Setting, config: PPOConfig = CONFIG, slip: str = "") -> Tensor:
    """−min(ρA, clip(ρ)A) + c_vf ½ max(…)² − c_ent H + c_target NLL, each a mean over its tokens."""
    rows = [row_of(s, index, config, slip) for index in range(len(s.trajectories))]
    policy, centre, spread = s.learner.policy.model, 0.0, 1.0
    if config.normalize_advantages:
        learned = torch.tensor([row.gained[t] for row in rows for t in row.learn_at], dtype=torch.float64)
        centre, spread = learned.mean().item(), learned.std(correction=0).item()

    surrogates, errors, entropies, nlls = ([[] for _ in rows] for _ in range(4))
    for index, row in enumerate(rows):
        before = logits_of(s.old_policy, row.prompt, row.tokens).detach()
        after = logits_of(policy, row.prompt, row.tokens)
        for t in row.learn_at:
            logprobs = distribution(after[t], t)
            ratio = (logprobs[row.tokens[t]] - distribution(before[t], t)[row.tokens[t]]).exp()
            advantage = (row.gained[t] - centre) / spread
            clipped = ratio if slip == "no clip" else ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
            surrogates[index].append(torch.minimum(ratio * advantage, clipped * advantage))
            possible = logprobs[logprobs > -torch.inf]
            entropies[index].append(-(possible.exp() * possible).sum())

        values, width = values_of(s.critic, row.prompt, row.tokens), config.value_clip_range
        for t in row.rollout:
            old, target = row.values[t], row.gained[t] + row.values[t]
            near = values[t] if slip == "no value clip" else values[t].clamp(old - width, old + width)
            errors[index].append(torch.maximum((values[t] - target) ** 2, (near - target) ** 2))

        prompt, tokens = written(s.targets, index)
        warmth = config.temperature if slip == "a warm target" else 1.0
        logprobs = (logits_of(policy, prompt, tokens) / warmth).log_softmax(-1)
        nlls[index] = [-logprobs[t, token] for t, token in enumerate(tokens)]
    return (
        -mean(surrogates, slip)
        + config.vf_coef * 0.5 * mean(errors, slip)
        - config.ent_coef * mean(entropies, slip)
        + config.target_coef * mean(nlls, slip)
    )


def mean(rows: list[list[Tensor]], slip: str) -> Tensor:
    """Return the mean over all tokens of all texts."""
    if slip == "a mean of rows":
        return torch.stack([torch.stack(row).mean() for row in rows if row]).mean()
    return torch.stack([value for row in rows for value in row]).mean()


def written(texts: Texts, row: int) -> tuple[list[int], list[int]]:
    return texts.prompts[row][texts.is_prompt[row]].tolist(), texts.tokens[row][texts.is_token[row]].tolist()


def gradients(s: Setting) -> list[Tensor]:
    """Return the gradients of policy and critic, flat."""
    s.learner.epochs.gradients(s.experience, s.critic)
    return [flat(network.parameters()) for network in (s.learner.policy, s.critic)]


def slow_gradients(s: Setting, config: PPOConfig = CONFIG, slip: str = "") -> list[Tensor]:
    networks = s.learner.policy, s.critic
    for network in networks:
        for parameter in network.parameters():
            parameter.grad = None
    slow_loss(s, config, slip).backward()
    return [flat(network.parameters()) for network in networks]


def flat(parameters: list[nn.Parameter]) -> Tensor:
    # (The critic's model has a language model head, too, which has no gradient.)
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def error(fast: Tensor, slow: Tensor) -> float:
    """Return the relative error over all parameters."""
    return float((fast - slow).norm() / slow.norm())


@pytest.mark.parametrize("plan_of", [ppo, ppo_pp, aggrevated, one_step])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_gradient_of_the_whole_loss(family, plan_of):
    s = setting(family, plan_of)
    assert 0 < int(s.trajectories.learn.sum()) < s.trajectories.tokens.numel()
    for fast, slow in zip(gradients(s), slow_gradients(s), strict=True):
        assert float(slow.norm()) > 1e-3
        assert error(fast, slow) < 1e-6


@pytest.mark.parametrize("plan_of", [ppo, aggrevated])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_gradient_with_a_shared_critic(family, plan_of):
    config = replace(CONFIG, critic="shared")
    s = setting(family, plan_of, config)
    assert len(s.critic.parameters()) == 2  # weight and bias of its last layer
    fast, slow = gradients(s), slow_gradients(s, config)
    for one, other in zip(fast, slow, strict=True):
        assert error(one, other) < 1e-6
    # The control: without the value loss in the shared model the gradient differs.
    assert error(fast[0], slow_gradients(s, replace(config, vf_coef=0.0))[0]) > 1e-2


def test_with_whitened_advantages():
    config = replace(CONFIG, normalize_advantages=True)
    s = setting("gpt2", ppo_pp, config)
    fast = gradients(s)[0]
    assert error(fast, slow_gradients(s, config)[0]) < 1e-6
    assert error(fast, slow_gradients(s)[0]) > 1e-2


@pytest.mark.parametrize(
    ("plan_of", "slips"),
    [
        (ppo, ["a mean of rows", "no last token", "no clip", "no value clip", "a warm target", "no future"]),
        (ppo_pp, ["the other's tokens too"]),
        (aggrevated, ["the other's tokens too", "a price on the other's tokens"]),
    ],
)
def test_wrong_formulas_are_detected(plan_of, slips):
    s = setting("gpt2", plan_of)
    fast = gradients(s)
    errors = {slip: max(map(error, fast, slow_gradients(s, slip=slip))) for slip in slips}
    assert min(errors.values()) > 1e-2, errors
