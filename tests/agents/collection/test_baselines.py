"""The reward of another text from the same start is subtracted from the right text, and helps where it should."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from doubles import OneToken, foreign_envs, generator, language_model, policy_of, toy_policy
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformReward
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    PPO,
    AggreVaTeD,
    AggreVaTeDConfig,
    AStarPO,
    GAILConfig,
    LMPolicy,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    ReMax,
    Trajectories,
    UniformCut,
    VinePPO,
)
from tril_gym.agents.algorithms import batches
from tril_gym.agents.collection.baselines import (
    BaselineTexts,
    baseline_rewards,
    subtract_baselines,
    values_by_rollouts,
)
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.envs.config import TextEnvConfig
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.utils.profiler import Timer
from tril_gym.wrappers import WithoutInfo

GOOD, BAD, OTHER = 5, 7, 8  # of the toy environment, whose "count" pays the share of 5, 8, … in a text of T = 8 words
T = 8


def toy_envs(num_envs: int = 6, mode: str = "Disabled", **settings: Any) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=num_envs, autoreset_mode=mode, **settings)


def guided(envs: VectorEnv, episodes: int = 20) -> Trajectories:
    """Texts whose first words are the guide's, all good, and the policy's others are good."""
    plan = Plan.guide_starts(OneToken(OTHER), OneToken(GOOD), rollin_prob=0.7)
    return collect(envs, plan, episodes=episodes, generator=generator(1))


@pytest.mark.parametrize("mode", ["Disabled", "NextStep"])
@pytest.mark.parametrize("settings", [{}, {"dense": True}], ids=["sparse", "dense"])
def test_from_the_rollin_it_has_the_rollin_and_from_the_prompt_not(mode, settings):
    envs = toy_envs(mode=mode, **settings)
    texts = guided(envs)
    rollin, prompt = (
        baseline_rewards(envs, texts, OneToken(BAD), baseline=baseline, generator=generator(2))[:, 0]
        for baseline in ("rollin", "prompt")
    )
    # The other writer's words are worth nothing: what is left is the share of the rollin's good words.
    torch.testing.assert_close(rollin, texts.switch.double() / T)
    assert len(set(texts.switch.tolist())) > 3
    assert torch.equal(prompt, torch.zeros(20, dtype=torch.float64))


def pay_for_two_words(texts: Trajectories) -> Tensor:
    """Which prompts pay 1 for EOS after two words: "stop" pays it after a number that the prompt determines."""
    first = torch.tensor([texts.texts.prompt_ids(row)[0] for row in range(len(texts))])
    found = ((first - 2) % (T - 1) == 1).double()
    assert 0 < float(found.sum()) < len(texts)
    return found


def test_it_is_for_the_same_example():
    envs = toy_envs(rule="stop")
    texts = collect(envs, Plan(rollout=OneToken(BAD)), episodes=20, generator=generator(1))
    rewards = baseline_rewards(envs, texts, OneToken(BAD, (3,)), baseline="prompt", generator=generator(2))[:, 0]
    assert torch.equal(rewards, pay_for_two_words(texts))


def test_where_the_policy_writes_the_rollin_both_begin_at_the_prompt():
    envs = toy_envs()
    plan = Plan.guide_finishes(OneToken(GOOD), OneToken(GOOD), rollin_prob=1.0, cut=UniformCut(allow_full=True))
    texts = collect(envs, plan, episodes=20, generator=generator(1))
    rewards = baseline_rewards(envs, texts, OneToken(BAD), baseline="rollin", generator=generator(2))[:, 0]
    assert not rewards.any()  # no word of the policy, all of which are good, is in it


def test_a_whole_text_is_its_own_baseline():
    envs = toy_envs()
    texts = guided(envs)
    full = replace(texts, is_rollin=texts.is_token, switch=texts.lengths)
    rewards = baseline_rewards(envs, full, OneToken(BAD), baseline="rollin", generator=generator(2))[:, 0]
    torch.testing.assert_close(rewards, texts.rewards.sum(1))


def test_it_is_subtracted_from_the_last_token_by_hand():
    texts = guided(toy_envs())[torch.tensor([0, 1, 2])]
    is_token = torch.arange(T) < torch.tensor([[3], [1], [2]])
    cut_off = torch.tensor([False, False, True])  # whose value after the end is less the baseline already
    at_limit = torch.tensor([False, True, True])  # the second text has ended there all the same
    texts = replace(texts, is_token=is_token, truncated=at_limit, terminated=~cut_off, rewards=torch.ones(3, T))
    expected = torch.ones(3, T, dtype=torch.float64)
    expected[0, 2], expected[1, 0] = 0.5, 3.0
    assert torch.equal(subtract_baselines(texts, torch.tensor([0.5, -2.0, 9.0])).rewards, expected)


def prompt_only(prompts: np.ndarray, completions: np.ndarray, lengths: np.ndarray, has_ended: np.ndarray) -> np.ndarray:
    """A reward that depends on the prompt alone."""
    return np.where(has_ended, prompts[:, -1], 0).astype(np.float64)


def advantages(baseline: str, monkeypatch: pytest.MonkeyPatch, *, shuffled: bool = False) -> tuple[Tensor, dict]:
    """The advantages of an iteration with an untrained critic, and its metrics."""
    examples = Examples([Example(f"w{2 + i % 14}", ("w3 w4",)) for i in range(28)], source="here")
    config = TextEnvConfig(examples, toy_tokenizer(16), max_prompt_length=4, max_new_tokens=T, reward_fn=prompt_only)
    envs = TextVectorEnv(config, 16, autoreset_mode="Disabled")
    policy = LMPolicy(language_model("gpt2", vocab_size=16, positions=20), toy_tokenizer(16))
    agent = PPO(policy, envs, PPOConfig(kl_coef=0.0, gae_lambda=1.0, epochs=1, baseline=baseline))
    made, reports, experience = [], [], agent.learner.credit.experience

    def recorded(trajectories: Trajectories, *, kl_coef: float) -> Any:
        made.append(experience(trajectories, kl_coef=kl_coef))
        return made[-1]

    agent.learner.credit.experience = recorded  # type: ignore[method-assign]
    if shuffled:
        monkeypatch.setattr(
            batches, "baseline_rewards", lambda *parts, **options: baseline_rewards(*parts, **options).roll(1)
        )
    agent.learn(1, callbacks=[reports.append])
    (batch,) = made
    return batch.advantages[batch.learn], reports[0].metrics


def test_the_variance_of_advantages_falls_where_the_prompt_decides(monkeypatch):
    plain, _ = advantages("none", monkeypatch)
    less, metrics = advantages("prompt", monkeypatch)
    shuffled, _ = advantages("prompt", monkeypatch, shuffled=True)
    assert float(plain.var()) > 1.0
    assert float(less.abs().max()) < 1e-5
    assert float(shuffled.var()) > float(plain.var())  # control: another text's
    assert metrics["reward/baseline"] == pytest.approx(metrics["reward/mean"])  # which is the environment's


@pytest.mark.parametrize("baseline", ["prompt", "rollin"])
def test_an_agent_subtracts_what_the_reference_policy_earns_from_the_start_it_names(baseline):
    # The guide writes good words, the reference policy bad ones: from a rollin it earns the rollin's share of the text.
    config = PPOPlusPlusConfig(rollin_prob=0.7, baseline=baseline, check_model=False)
    agent = PPOPlusPlus(toy_policy(), OneToken(GOOD), toy_envs(), config)
    agent.learner.credit.ref_policy = OneToken(BAD)
    batch = agent.batches.next(agent, agent.plan(0), Timer())
    texts = batch.trajectories
    less = texts.rewards.sum(1) - batch.learned.rewards.sum(1)
    torch.testing.assert_close(less, texts.switch.double() / T if baseline == "rollin" else torch.zeros(6).double())
    assert batch.metrics["reward/baseline"] == pytest.approx(float(less.mean()))
    assert len(set(texts.switch.tolist())) > 2


def test_a_learner_without_a_reference_policy_has_greedy_baselines_only(monkeypatch):
    agent = PPO(toy_policy(), toy_envs(), PPOConfig(check_model=False))
    monkeypatch.setattr(ActorCritic, "ref_policy", None)
    monkeypatch.setattr(ActorCritic, "baseline_texts", BaselineTexts("prompt"))
    with pytest.raises(ValueError, match=r"the ref_policy of ActorCritic is None; return one, or use .* 'greedy'"):
        agent.batches.next(agent, agent.plan(0), Timer())
    monkeypatch.setattr(ActorCritic, "baseline_texts", BaselineTexts("greedy"))
    assert "reward/baseline" in agent.batches.next(agent, agent.plan(0), Timer()).metrics


def test_metrics_have_the_rewards_of_the_environment():
    config = AggreVaTeDConfig(rollin_prob=1.0, baseline="prompt", epochs=1, check_model=False)
    reports: list[Any] = []
    AggreVaTeD(toy_policy(), OneToken(GOOD), toy_envs(), config).learn(1, callbacks=[reports.append])
    rewards, has_rollin = reports[0].trajectories.rewards.sum(1), reports[0].trajectories.switch > 0
    assert reports[0].metrics["reward/mean"] == pytest.approx(float(rewards.mean()))
    assert reports[0].metrics["reward/guide_finished"] == pytest.approx(float(rewards[has_rollin].mean()))
    assert reports[0].metrics["reward/baseline"] > 0.01


def test_an_environment_without_restart_is_refused():
    with pytest.raises(ValueError, match=r"baseline='prompt' needs .* got restart=None; use baseline=\"none\""):
        PPO(policy_of("gpt2"), foreign_envs(2), PPOConfig(baseline="prompt"))
    with pytest.raises(ValueError, match=r"a value by rollouts needs .* got restart=None; use such an environment, or"):
        VinePPO(policy_of("gpt2"), foreign_envs(2))
    with pytest.raises(ValueError, match="learns only from the rewards of the discriminator"):
        GAILConfig(baseline="prompt")


@pytest.mark.parametrize("dense", [False, True])
def test_values_by_rollouts_are_those_of_the_actor(dense):
    """A writer of bad words adds nothing: its value is what is still paid for the good words before."""
    envs = toy_envs(dense=dense)
    texts = collect(envs, Plan(rollout=OneToken(GOOD)), episodes=6, generator=generator(1))
    values = values_by_rollouts(envs, texts, OneToken(BAD), texts=2, every=2, generator=generator(2))
    right = torch.zeros(T).double() if dense else torch.arange(T).double() / T
    assert torch.allclose(values[:, 0:T:2], right[::2].expand(6, -1))
    assert not values[:, 1::2].any()
    # The control: a writer of good words is worth more, by the words that are left.
    best = values_by_rollouts(envs, texts, OneToken(GOOD), texts=2, every=2, generator=generator(2))
    assert torch.allclose(best[:, 0:T:2] - values[:, 0:T:2], (1 - torch.arange(T).double() / T)[::2].expand(6, -1))


def test_values_by_rollouts_are_means_over_texts_of_the_same_example():
    envs = toy_envs(rule="stop")
    texts = collect(envs, Plan(rollout=OneToken(BAD)), episodes=20, generator=generator(1))
    half_stop = OneToken(BAD, (3, 99))  # of two texts from a state, the first stops after two words
    values = values_by_rollouts(envs, texts, half_stop, texts=2, every=1, generator=generator(2))
    assert torch.equal(values[:, :3], pay_for_two_words(texts).unsqueeze(1).expand(-1, 3) / 2)
    assert not values[:, 3:].any()


def test_values_count_what_a_wrapper_pays_for_each_token():
    plain, costly = (toy_envs(16, min_new_tokens=T), TransformReward(toy_envs(16, min_new_tokens=T), lambda r: r - 0.1))
    policy = toy_policy(dtype=torch.float64)
    one, other = (
        values_by_rollouts(
            envs,
            collect(envs, Plan(rollout=policy), episodes=4, generator=generator(0)),
            policy,
            texts=4,
            every=6,
            generator=generator(1),
        )
        for envs in (plain, costly)
    )
    assert torch.allclose(other[:, 0], one[:, 0] - 0.1 * T)
    assert torch.allclose(other[:, 6], one[:, 6] - 0.1 * (T - 6))


def test_states_beyond_which_a_limit_cuts_all_texts_are_worth_nothing():
    envs = toy_envs(4, max_episode_steps=6, min_new_tokens=T)  # a text that is cut off is not rewarded
    policy = toy_policy(dtype=torch.float64)
    texts = collect(envs, Plan(rollout=policy), episodes=4, generator=generator(0))
    assert texts.is_cut_off.all()
    assert not values_by_rollouts(envs, texts, policy, texts=4, every=3, generator=generator(1)).any()


@pytest.mark.parametrize("agent", [ReMax, AStarPO, VinePPO])
def test_texts_of_unknown_examples_are_refused(agent):
    def agent_of(envs):
        return agent(toy_policy(), envs, agent.config_type(check_model=False))

    agent_of(WithoutInfo(toy_envs(), keep=["example"])).learn(1)
    with pytest.raises(ValueError, match=r"keep it: WithoutInfo\(envs, keep=\[\"example\"\]\)"):
        agent_of(WithoutInfo(toy_envs())).learn(1)
