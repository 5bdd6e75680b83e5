"""PPG in its limits: without auxiliary epochs it is PPO; the KL keeps the policy where the phase began."""

from dataclasses import replace

import pytest
import torch
from doubles import generator, history, toy_envs, toy_policy

from tril_gym.agents import PPG, PPO, PPGConfig, PPOConfig
from tril_gym.agents.learners import phasic
from tril_gym.agents.learners.experience import Experience
from tril_gym.functional.losses import value_loss

NUMBERS = {"learning_rate": 1e-3, "episodes_per_iteration": 16, "minibatch_size": 8, "epochs": 2, "kl_coef": 0.05}


def trained(agent_type, config_type, iterations=2, **numbers):
    config = config_type(**NUMBERS | numbers, critic="separate", check_model=False)
    agent = agent_type(toy_policy(dtype=torch.float64), toy_envs(), config)
    history(agent, iterations)
    return agent


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def test_without_auxiliary_epochs_it_is_ppo():
    plain = weights(trained(PPO, PPOConfig))
    assert torch.equal(weights(trained(PPG, PPGConfig, auxiliary_every=1, auxiliary_epochs=0)), plain)
    # The control: with them it is not.
    assert not torch.equal(weights(trained(PPG, PPGConfig, auxiliary_every=1, auxiliary_epochs=1)), plain)


def test_baselines_are_subtracted_as_in_ppo():
    numbers = {"baseline": "prompt", "auxiliary_every": 1, "auxiliary_epochs": 0}
    plain, phasic = trained(PPO, PPOConfig, baseline="prompt"), trained(PPG, PPGConfig, **numbers)
    assert phasic.history["reward/baseline"] == plain.history["reward/baseline"]
    assert torch.equal(weights(phasic), weights(plain))


def test_while_the_critic_warms_up_no_phase_ends():
    numbers = {"critic_warmup": 2, "auxiliary_every": 1, "auxiliary_epochs": 1}
    start = torch.cat([weight.detach().flatten() for weight in toy_policy(dtype=torch.float64).parameters()])
    warm = trained(PPG, PPGConfig, **numbers)
    assert torch.equal(weights(warm), start)
    assert len(warm.learner.phase) == 2
    assert "auxiliary/loss" in history(warm, 1)[0]  # the control: then it ends, and the policy has moved
    assert not warm.learner.phase
    assert not torch.equal(weights(warm), start)


def test_the_learning_rate_of_the_auxiliary_phase_is_the_policys():
    numbers = {"auxiliary_every": 1, "auxiliary_epochs": 1, "lr_schedule": "linear", "lr_iterations": 4}
    learner = trained(PPG, PPGConfig, **numbers).learner
    rates = [optimizer.param_groups[0]["lr"] for optimizer in (learner.actor_critic.optimizer, learner.optimizer)]
    assert rates == pytest.approx([0.75e-3] * 2)  # 4/4, then 3/4 of 1e-3


def phase_of(**numbers):
    """Return a learner in the middle of a phase, and the texts of its phase."""
    numbers = {"auxiliary_every": 2, "auxiliary_coef": 0.7, "clone_coef": 1.3, "temperature": 1.5} | numbers
    learner = trained(PPG, PPGConfig, 1, **numbers).learner
    return learner, Experience.cat(learner.phase)


def gradients(learner):
    critic, _ = learner.actor_critic.critic("policy")
    parameters = [*learner.parameters(), *critic.parameters()]
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad.clone() for weight in parameters]


def move(learner):
    """Change the policy and the value head, which begins at 0 and hides what the body gets from it."""
    noise = generator(3)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype))


def gradients_by_hand(learner, before, batch, *, is_reversed=False):
    """Differentiate Cobbe et al. 2020, L_joint + L_value, text by text, without padding."""
    critic, _ = learner.actor_critic.critic("policy")
    config, tokens, total = learner.config, int(batch.texts.is_token.sum()), 0.0
    for row, length in enumerate(batch.texts.lengths.tolist()):
        prompt = batch.texts.prompt_ids(row)
        ids, at = torch.tensor([prompt + batch.texts.completion_ids(row)]), slice(len(prompt) - 1, -1)
        own, old = (policy.model(ids).logits[0, at] / config.temperature for policy in (learner.policy, before))
        p, q = old.detach().softmax(-1), own.softmax(-1)
        kl = q * (q / p).log() if is_reversed else p * (p / q).log()
        returns = batch.returns[row, :length]
        for body, head, weight in (
            (learner.policy.model, learner.head.head, config.auxiliary_coef),
            (critic.model, critic.head, 1.0),
        ):
            values = head(body.transformer(ids).last_hidden_state)[0, at, 0]
            total += weight * 0.5 * (values - returns).square().sum() / tokens
        total += config.clone_coef * kl.sum() / tokens
    parameters = [*learner.parameters(), *critic.parameters()]
    return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)


def largest_difference(found, expected):
    return max(float((mine - theirs).abs().max()) for mine, theirs in zip(found, expected, strict=True))


def test_gradients_are_those_of_the_papers_loss():
    learner, batch = phase_of()
    before = learner.policy.frozen_copy()
    move(learner)
    learner.gradients(before, batch)
    assert largest_difference(gradients(learner), gradients_by_hand(learner, before, batch)) < 1e-9
    # The control: the KL has a direction.
    assert largest_difference(gradients(learner), gradients_by_hand(learner, before, batch, is_reversed=True)) > 1e-3


def test_parts_of_a_minibatch_change_no_gradient():
    whole, parts = phase_of(), phase_of(gradient_accumulation=3)
    for learner, batch in (whole, parts):
        before = learner.policy.frozen_copy()
        move(learner)
        learner.gradients(before, batch)
    assert largest_difference(gradients(parts[0]), gradients(whole[0])) < 1e-12


def test_in_the_first_step_the_kl_has_no_gradient():
    learner, batch = phase_of(auxiliary_coef=0.0)
    before = learner._policy_before()
    assert learner.gradients(before, batch)["auxiliary/kl"] == 0.0
    own = len(learner.parameters())
    assert not any(gradient.any() for gradient in gradients(learner)[:own])
    assert any(gradient.any() for gradient in gradients(learner)[own:])  # the critic learns
    move(learner)  # the control: later it has one
    assert learner.gradients(before, batch)["auxiliary/kl"] > 1e-3
    assert max(float(gradient.abs().max()) for gradient in gradients(learner)[:own]) > 1e-3


def test_a_large_kl_coefficient_keeps_the_policy_while_the_body_learns_values():
    numbers = {"auxiliary_coef": 1.0, "auxiliary_epochs": 30, "learning_rate": 3e-4, "max_grad_norm": 1e9}
    found = {}
    for coef in (0.0, 1e4):
        learner, batch = phase_of(clone_coef=coef, **numbers)
        before = learner.policy.frozen_copy()
        first = learner.gradients(before, batch)
        learner._auxiliary_phase(generator())
        last = learner.gradients(before, batch)
        assert last["auxiliary/loss"] < 0.5 * first["auxiliary/loss"]
        found[coef] = last["auxiliary/kl"]
    assert found[1e4] < 1e-3 * found[0.0]


def test_a_shared_critic_is_refused():
    with pytest.raises(ValueError, match="critic must be separate or adapter, got shared"):
        PPGConfig(critic="shared")


def test_targets_of_the_auxiliary_phase_are_returns_of_collection(monkeypatch):
    numbers = NUMBERS | {"auxiliary_every": 2, "auxiliary_epochs": 1, "critic": "separate", "check_model": False}
    agent = PPG(toy_policy(dtype=torch.float64), toy_envs(), PPGConfig(**numbers))
    inner, collected, moved, targets = agent.learner.actor_critic, [], [], []
    update = inner.update

    def returns_with_the_critic_of_now(trajectories):
        scored = inner.credit.add_reference_and_values(replace(trajectories, values=None), inner.critic("policy")[0])
        experience = inner.credit.experience(scored, kl_coef=NUMBERS["kl_coef"])
        return experience.returns[experience.learn_critic]

    def recorded_update(trajectories, *arguments, **keywords):
        begun = returns_with_the_critic_of_now(trajectories)
        metrics = update(trajectories, *arguments, **keywords)
        collected.append(begun)
        moved.append(returns_with_the_critic_of_now(trajectories))
        return metrics

    def recorded_loss(values, old_values, returns, learn, *, count):
        targets.append(returns[learn])
        return value_loss(values, old_values, returns, learn, count=count)

    monkeypatch.setattr(inner, "update", recorded_update)
    monkeypatch.setattr(phasic, "value_loss", recorded_loss)
    history(agent, 2)
    # Two losses have them: that of the head on the policy's body, and the critic's.
    found, expected, other = (torch.cat(parts).sort().values for parts in (targets, 2 * collected, 2 * moved))
    torch.testing.assert_close(found, expected)
    assert (found - other).abs().max() > 1e-3  # the control: returns of the critic that has learned from them
