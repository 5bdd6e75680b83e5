"""Rewards of wrappers in collection: each text receives its own reward, at once or deferred."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from doubles import generator, policy_of, same, toy_plan
from gymnasium.vector import SyncVectorEnv

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Guide, Plan, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.rewards import Score
from tril_gym.wrappers.text_reward import TextReward


class Lengths(Score):
    """Scores a text by its characters and those of its prompt; records the sizes of its batches."""

    name = "lengths"

    def __init__(self, slow: bool) -> None:
        self.slow = slow
        self.batches: list[int] = []

    def __call__(self, prompts, completions, references, extras):
        self.batches.append(len(completions))
        return np.array([len(prompt) + 10.0 * len(text) for prompt, text in zip(prompts, completions, strict=True)])


def envs_with(score: Lengths, num_envs: int = 8, **settings) -> gym.vector.VectorEnv:
    settings = {"rule": "count", "autoreset_mode": "Disabled"} | settings
    return TextReward(gym.make_vec("tril/Toy-v0", num_envs=num_envs, **settings), score)


@pytest.mark.parametrize("dense", [False, True], ids=["terminal", "dense"])
@pytest.mark.parametrize("episodes", [8, 20])
def test_deferred_rewards_equal_immediate_ones(episodes, dense):
    quick, slow = Lengths(slow=False), Lengths(slow=True)
    at_once, late = (
        collect(envs_with(score, dense=dense), toy_plan(), episodes=episodes, generator=generator(2))
        for score in (quick, slow)
    )
    assert same(at_once, late)
    assert torch.equal(at_once.scores["lengths"], late.scores["lengths"])
    assert len(slow.batches) == -(-episodes // 8)  # each batch of texts in one call
    assert len(quick.batches) > len(slow.batches)
    expected = [len(info["prompt"]) + 10.0 * len(info["completion"]) for info in late.infos]
    assert late.scores["lengths"].tolist() == expected
    # The toy's own reward is at most 1; the score is added to each text's last token.
    last = torch.gather(late.rewards, 1, late.lengths.unsqueeze(1) - 1).squeeze(1)
    assert ((last - torch.tensor(expected)).abs() <= 1.0).all()
    assert len(set(late.lengths.tolist())) > 1


def test_a_term_that_is_paid_late_keeps_the_scores_of_the_others():
    envs = TextReward(envs_with(Lengths(slow=True)), "length_bonus", settings={"target": 4})
    found = collect(envs, toy_plan(), episodes=8, generator=generator(2))
    assert found.scores["length_bonus"].tolist() == [
        min(len(info["completion"].split()) / 4, 1) for info in found.infos
    ]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_autoreset_modes_without_idle_rows_pay_at_once(mode):
    score = Lengths(slow=True)
    trajectories = collect(envs_with(score, autoreset_mode=mode), toy_plan(), episodes=8, generator=generator(2))
    disabled = collect(envs_with(Lengths(slow=True)), toy_plan(), episodes=8, generator=generator(2))
    assert same(trajectories, disabled)
    assert len(score.batches) > 1


@pytest.mark.parametrize("native", [False, True], ids=["single", "native"])
def test_task_with_its_reward(native, autoreset_mode):
    settings = {"reward": "rouge_l", "max_new_tokens": 6}
    if native:
        envs = gym.make_vec("tril/CommonGen-v0", num_envs=4, autoreset_mode=autoreset_mode, **settings)
    else:
        make = [lambda: gym.make("tril/CommonGen-v0", disable_env_checker=True, **settings)] * 4
        envs = SyncVectorEnv(make, autoreset_mode=autoreset_mode)
    layout = TextLayout.of(envs)
    policy = policy_of("gpt2", vocab_size=layout.vocab_size, positions=64)
    guide = Guide.references()
    plan = Plan(rollout=policy, rollin=guide, rollin_prob=0.7)
    trajectories = collect(envs, plan, episodes=12, generator=generator(1))
    # Rollins are references, so they share words with the references, whatever an untrained policy adds.
    assert trajectories.rewards.sum() > 0
    columns = torch.arange(6) == trajectories.lengths.unsqueeze(1) - 1
    assert trajectories.rewards[~columns].eq(0).all()
    np.testing.assert_allclose(trajectories.rewards.sum(1), trajectories.scores["rouge_l"], atol=1e-6)
    for info, ids, switch in zip(
        trajectories.infos, trajectories.tokens.tolist(), trajectories.switch.tolist(), strict=True
    ):
        begun = layout.tokenizer.decode(ids[:switch])
        assert any((" " + text).startswith(begun) for text in info["references"]) or not switch
