"""Who wrote which token in each algorithm, what it learns on, and where rollins end."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from algorithm_kinds import GUIDED, KINDS, POLICY_BEGINS, Kind
from doubles import EOS, ForeignDense, G, OneToken, P, foreign_envs, generator, learned, rollins, shown, write
from gymnasium.vector import VectorEnv
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    D2LOLS,
    LOLS,
    Agent,
    Trajectories,
)
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.critic import Critic


class TestAgents:
    @pytest.mark.parametrize("name", KINDS)
    def test_texts_show_the_plan(self, name, autoreset_mode):
        kind = KINDS[name]
        # The rollin actor writes six tokens; the rollout actor makes each text seven tokens long.
        lengths = {kind.rollin: (6,), kind.rollout: (7,)}
        policy, guide = (
            OneToken(token, lengths.get(letter, (1,)), logprob=-1.0) for token, letter in ((P, "p"), (G, "g"))
        )
        envs = foreign_envs(8, mode=autoreset_mode)
        plan = kind.plan(kind(envs, guide=guide), policy)
        trajectories = collect(envs, plan, episodes=40, generator=generator(1))

        switches = trajectories.switch.tolist()
        assert set(switches) == ({0, 1, 2, 3, 4, 5} if kind.rollin else {0})
        assert shown(trajectories) == [kind.rollin * h + kind.rollout * (6 - h) + "." for h in switches]
        columns = torch.arange(8)
        rollin = columns < trajectories.switch.unsqueeze(1)
        rollout = (columns < 7) & ~rollin
        assert torch.equal(trajectories.learn, rollin if kind.learn == "rollin" else rollout)
        assert torch.equal(trajectories.wrote, trajectories.learn)
        assert torch.equal(trajectories.is_rollout, rollout)
        assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.learn, -1.0, 0.0).double())
        assert plan.critic == kind.critic

    def test_learning_on_the_token_before_the_switch(self):
        kind = KINDS["aggrevated"]
        plan = kind.plan(kind(guide=OneToken(G), learn_on="switch"), OneToken(P))
        trajectories = write(plan)
        assert trajectories.learn.tolist() == [[t == h - 1 for t in range(8)] for h in trajectories.switch.tolist()]
        assert trajectories.learn.any()

    @pytest.mark.parametrize("name", GUIDED)
    @pytest.mark.parametrize("rollin_prob", [0.0, 0.3])
    def test_share_of_rollins_is_rollin_prob(self, name, rollin_prob):
        kind = KINDS[name]
        assert abs(share_of_rollins(kind, rollin_prob=rollin_prob) - rollin_prob) <= allowed(rollin_prob, 1024)

    @pytest.mark.parametrize("name", [name for name in GUIDED if KINDS[name].agent in (LOLS, D2LOLS)])
    def test_each_half_has_its_own_rollin_prob(self, name):
        kind = KINDS[name]
        expected = 0.7 if kind.rollin == "p" else 0.3
        share = share_of_rollins(kind, rollin_prob=0.3, aggrevated_rollin_prob=0.7)
        assert abs(share - expected) <= allowed(expected, 1024)


def share_of_rollins(kind: Kind, **numbers: float) -> float:
    envs = foreign_envs(64, max_new_tokens=3)
    plan = kind.plan(kind(envs, guide=OneToken(G), **numbers), OneToken(P))
    trajectories = collect(envs, plan, episodes=1024, generator=generator(4))
    return len(rollins(trajectories)) / 1024


def allowed(prob: float, draws: int) -> float:
    """Return four standard deviations of a share."""
    return 4 * float(np.sqrt(prob * (1 - prob) / draws))


class TestChoiceOfLOLS:
    @staticmethod
    def choices(agent: Agent, iterations: int = 2000) -> list[bool]:
        """Return whether each iteration is one of PPO++."""
        return [agent.plan(iteration).rollout is agent.policy for iteration in range(iterations)]

    @pytest.mark.parametrize("prob", [0.0, 0.2, 0.8, 1.0])
    def test_share_of_ppo_pp_iterations(self, prob):
        choices = np.array(self.choices(KINDS["lols, ppo-pp"](ppo_pp_prob=prob)))
        assert abs(choices.mean() - prob) <= allowed(prob, 2000)

    def test_choices_are_uncorrelated(self):
        choices = np.array(self.choices(KINDS["lols, ppo-pp"](ppo_pp_prob=0.5)), dtype=float)
        assert abs(np.corrcoef(choices[:-1], choices[1:])[0, 1]) <= 4 / np.sqrt(1999)

    def test_choice_is_a_function_of_seed_and_iteration(self):
        agent, twin, other = (KINDS["lols, ppo-pp"](ppo_pp_prob=0.5, seed=seed) for seed in (3, 3, 4))
        expected = self.choices(agent, 300)
        torch.rand(7, generator=twin.generator)
        assert [twin.plan(i).rollout is twin.policy for i in reversed(range(300))] == expected[::-1]
        assert self.choices(agent, 300) == expected
        shared = np.mean(np.array(self.choices(other, 300)) == np.array(expected))
        assert abs(shared - 0.5) <= allowed(0.5, 300)

    def test_loading_keeps_the_choices(self, tmp_path):
        numbers = {"ppo_pp_prob": 0.5, "episodes_per_iteration": 8, "epochs": 1}
        agent = KINDS["lols, ppo-pp"](seed=3, **numbers)
        expected = self.choices(agent, 300)
        learned(agent, 2).save(tmp_path)
        loaded = LOLS.load(tmp_path, envs=foreign_envs(8), guide=OneToken(G))
        assert loaded.iteration == 2
        assert self.choices(loaded, 300) == expected


GOOD = 8  # a word that the toy environment rewards, as G is


def toy_envs(mode: str, *, dense: bool) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=8, autoreset_mode=mode, rule="count", dense=dense)


class TestFullRollins:
    @pytest.mark.parametrize("name", POLICY_BEGINS)
    @pytest.mark.parametrize("world", ["foreign", "dense toy", "toy"])
    def test_full_rollin_is_learned_and_rewarded_to_its_end(self, name, world, autoreset_mode):
        kind = KINDS[name]
        envs = {
            "foreign": lambda: foreign_envs(8, env=ForeignDense, mode=autoreset_mode),
            "dense toy": lambda: toy_envs(autoreset_mode, dense=True),
            "toy": lambda: toy_envs(autoreset_mode, dense=False),
        }[world]()
        # Texts of the policy: EOS alone, EOS third, EOS eighth and last, no EOS; the guide never ends one.
        policy, guide = OneToken(GOOD, lengths=(1, 3, 8, 99), logprob=-0.5), OneToken(G)
        agent = kind(envs, guide=guide, rollin_prob=1.0, allow_full_rollins=True)
        trajectories = collect(envs, kind.plan(agent, policy), episodes=64, generator=generator(3))

        whole = ~trajectories.is_rollout.any(1)
        ways = {tuple(tokens[:n]) for tokens, n in zip(*listed(trajectories, whole), strict=True)}
        assert ways == {(EOS,), (GOOD, GOOD, EOS), (*[GOOD] * 7, EOS), (GOOD,) * 8}
        assert torch.equal(trajectories.learn[whole], trajectories.is_token[whole])
        assert torch.equal(trajectories.learn, trajectories.is_rollin)
        assert trajectories.old_logprobs[trajectories.learn].eq(-0.5).all()
        # The guide continues the others, where they were cut.
        continued = [length for batch in guide.begun for length in batch]
        assert continued == trajectories.switch[~whole].tolist()
        assert len(continued) > 10
        assert trajectories.terminated.all()
        torch.testing.assert_close(trajectories.rewards, pay(trajectories, world))

    @pytest.mark.parametrize("name", POLICY_BEGINS)
    def test_without_full_rollins_every_text_has_a_rollout(self, name):
        kind = KINDS[name]
        plan = kind.plan(kind(rollin_prob=1.0), OneToken(P, lengths=(1, 3, 8, 99)))
        assert write(plan).is_rollout.any(1).all()


def listed(trajectories: Trajectories, rows: Tensor) -> tuple[list[list[int]], list[int]]:
    return trajectories.tokens[rows].tolist(), trajectories.lengths[rows].tolist()


def pay(trajectories: Trajectories, world: str) -> Tensor:
    """Return the reward of each token by the rules of the environment."""
    tokens, is_token = trajectories.tokens.double(), trajectories.is_token
    columns = torch.arange(tokens.shape[1])
    if world == "foreign":
        return torch.where(is_token, tokens + columns / 100, 0.0)
    words = (is_token & (tokens != EOS)).double() / 8  # all words are good ones
    if world == "dense toy":
        return words
    is_last = columns == trajectories.lengths.unsqueeze(1) - 1
    return torch.where(is_last, words.sum(1, keepdim=True), 0.0)


class TestSwitchOfD2LOLS:
    @pytest.mark.parametrize("warm_start", [True, False])
    def test_initial_weights_of_the_policys_critic(self, warm_start):
        numbers = {"critic_learning_rate": 1e-2, "epochs": 2, "warm_start_critic": warm_start}
        agent: Any = KINDS["d2lols, before"](foreign_envs(8, env=ForeignDense), **numbers)
        agent.learn(3)
        guides, _ = agent.learner.critic("guide")
        initial, learned = Critic(agent.learner.ref_policy.language_model.full_copy()).state_dict(), guides.state_dict()
        assert not equal(initial, learned)

        plan = agent.plan(3)
        assert plan.critic == "policy"
        own, _ = agent.learner.critic(plan.critic, warm_start=plan.warm_start_critic)
        assert equal(own.state_dict(), learned if warm_start else initial)

        before = {name: weight.clone() for name, weight in learned.items()}
        agent.learn(1)
        assert equal(guides.state_dict(), before)  # it is no longer trained
        assert not equal(own.state_dict(), before if warm_start else initial)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())
