"""Options that are seldom combined: cut-off texts without a critic, references in groups, kept figures of π_ref."""

from typing import Any

import pytest
import torch
from doubles import history, toy_envs, toy_policy

from tril_gym.agents import PPGConfig, PPOConfig, PPOPlusPlusConfig, ReMaxConfig
from tril_gym.agents.learners.distillation import next_tokens
from tril_gym.agents.learners.experience import Experience
from tril_gym.agents.learners.objectives import TextObjective
from tril_gym.experiment.algorithms import agent_type
from tril_gym.functional import losses
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer


@pytest.mark.parametrize("name", ["remax", "a-star-po"])
def test_without_a_critic_a_text_that_was_cut_off_has_its_baseline_subtracted(name):
    envs, kind = toy_envs(8, dense=True, max_episode_steps=4), agent_type(name)
    agent = kind(toy_policy(), envs, kind.config_type(check_model=False))
    batch = agent.batches.next(agent, agent.plan(0), Timer())
    assert batch.trajectories.is_cut_off.sum() >= 4
    less = batch.trajectories.total_rewards - batch.learned.total_rewards
    assert float(less.mean()) == pytest.approx(batch.metrics["reward/baseline"])


def test_control_with_a_critic_it_bootstraps():
    kind = agent_type("ppo")
    agent = kind(
        toy_policy(),
        toy_envs(8, dense=True, max_episode_steps=4),
        kind.config_type(check_model=False, baseline="prompt"),
    )
    batch = agent.batches.next(agent, agent.plan(0), Timer())
    cut = batch.trajectories.is_cut_off
    assert torch.equal(batch.trajectories.total_rewards[cut], batch.learned.total_rewards[cut])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_what_is_kept_of_the_reference_policy_is_of_its_distribution(temperature, tmp_path):
    kind, changes = agent_type("a-lol"), {"temperature": temperature}
    agent = kind(toy_policy(), toy_envs(6, num_examples=4), kind.config_type(check_model=False, value_texts=0))
    history(agent, 1)
    agent.save(tmp_path / "a-lol")
    loaded = kind.load(tmp_path / "a-lol", envs=toy_envs(6, num_examples=4), changes=changes)
    assert bool(loaded.learner.credit.known) == (temperature == 1.0)
    history(loaded, 1)
    for (prompt, completion), kept in loaded.learner.credit.known.items():
        texts = Texts.from_ids([prompt], [completion], max_new_tokens=loaded.layout.max_new_tokens)
        now = loaded.learner.ref_policy.token_logprobs(texts, loaded.layout).logprobs[0]
        torch.testing.assert_close(kept, now, rtol=0, atol=1e-4)
    kind = agent_type("a-star-po")
    agent = kind(toy_policy(), toy_envs(6, num_examples=4), kind.config_type(check_model=False))
    history(agent, 2)
    agent.save(tmp_path / "a-star")
    loaded = kind.load(tmp_path / "a-star", envs=toy_envs(6, num_examples=4), changes=changes)
    assert loaded.learner.values == (agent.learner.values if temperature == 1.0 else {})


def test_the_kl_of_an_update_is_over_the_policys_own_tokens():
    kind = agent_type("grpo")
    config = kind.config_type(
        given_texts=1, texts_per_prompt=4, epochs=3, learning_rate=3e-3, check_model=False, minibatch_size=16
    )
    agent = kind(toy_policy(dtype=torch.float64), toy_envs(16), config)
    found, terms_of = [], agent.learner.epochs.policy_terms

    def recorded(part: Experience, counts: Any, **more: Any) -> Any:
        total, terms = terms_of(part, counts, **more)
        logprobs = agent.policy.token_logprobs(part.texts, agent.layout).logprobs.detach()
        found.append([float(losses.approx_kl(logprobs, part.old_logprobs, of)) for of in (part.own, part.learn)])
        return total, terms

    agent.learner.epochs.policy_terms = recorded
    (row,) = history(agent, 1)
    own, both = torch.tensor(found).mean(0).tolist()
    assert row["policy/approx_kl"] == pytest.approx(own)
    assert abs(both - own) > 1e-2  # the control


@pytest.mark.parametrize("controller", ["proportional", "pid"])
def test_no_controller_moves_the_coefficient_beside_the_anchor(controller):
    numbers = {"apa_anchor": "reference", "kl_coef": 0.0}
    kind = agent_type("apa").config_type
    kind(**numbers)
    with pytest.raises(ValueError, match="penalised twice"):
        kind(**numbers, kl_controller=controller, kl_target=1.0)


def test_a_baseline_is_not_discounted():
    with pytest.raises(ValueError, match=r"gamma must be 1 with subtract_greedy, got 0\.9"):
        ReMaxConfig(gamma=0.9)
    ReMaxConfig(gamma=0.9, subtract_greedy=False)


@pytest.mark.parametrize("kind", [PPOConfig, PPOPlusPlusConfig, PPGConfig])
@pytest.mark.parametrize("baseline", ["prompt", "rollin"])
def test_a_baseline_beside_a_critic_is_not_discounted(kind, baseline):
    with pytest.raises(ValueError, match=rf"gamma must be 1 with baseline {baseline}, got 0\.99"):
        kind(baseline=baseline, gamma=0.99)
    kind(baseline=baseline)
    kind(gamma=0.99)


def test_the_clip_fraction_of_a_lol_is_of_what_is_clipped():
    on, zeros = torch.ones((2, 8), dtype=torch.bool), torch.zeros(2, 8)
    ids = on.long()
    texts = Texts(ids, on, ids, on)
    same: dict[str, Any] = {"old_logprobs": zeros - 2, "ref_logprobs": zeros - 2}
    same |= dict.fromkeys(("old_values", "advantages", "returns"), zeros) | {"learn": on, "learn_critic": on}
    part = Experience(texts=texts, rewards=torch.ones(2), **same)
    moved = zeros - 1.9  # a ratio of 1.1 for each token, of 2.2 for the text
    moved[0, 0] = 0.0  # a ratio of 7.4
    found = {
        variant: TextObjective(loss=variant, clip_range=0.9)(moved, part, part.counts)[1]
        for variant in ("ratio", "token_ratio", "ref_free", "kl")
    }
    assert float(found["ratio"]["policy/clip_fraction"]) == 1.0
    assert float(found["token_ratio"]["policy/clip_fraction"]) == pytest.approx(1 / 16)
    assert found["ref_free"] == found["kl"] == {}


def test_a_rollin_of_the_policy_is_no_guides():
    kind = agent_type("rebel")
    agent = kind(toy_policy(), toy_envs(8), kind.config_type(rollin_prob=1.0, check_model=False))
    (row,) = history(agent, 1)
    assert row["rollin/share"] > 0
    assert "guide/token_share" not in row


@pytest.mark.parametrize("size", [3, 4, 6])
def test_the_entropy_is_that_of_the_first_epoch(size):
    kind = agent_type("rloo")
    config = kind.config_type(texts_per_prompt=4, minibatch_size=size, epochs=2, check_model=False)
    agent = kind(toy_policy(), toy_envs(16), config)
    modes, gradients = [], agent.learner.epochs.gradients

    def recorded(*parts: Any, entropies: Any) -> Any:
        modes.append(entropies)
        return gradients(*parts, entropies=entropies)

    agent.learner.epochs.gradients = recorded
    history(agent, 1)
    assert modes == ["detached"] * 4 + ["none"] * 4


def test_of_equally_close_beginnings_the_first_is_continued():
    # "a" and "a b a" are one edit from "b a", and one token from its length: 5 continues the first, 3 the other one.
    assert next_tokens([5, 4, 9], [[4, 5, 4, 3, 1]])[2] == 5
    assert next_tokens([15, 4, 9], [[4, 15, 4, 3, 1]])[2] == 15
