"""Who wrote which token: the text shows the plan. The guide always writes g, the policy always writes p."""

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from doubles import EOS, ForeignDense, G, OneToken, P, foreign_envs, generator, policy_of, shown
from gymnasium.vector import VectorEnv
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    D2LOLS,
    LOLS,
    PPO,
    Agent,
    AggreVaTeD,
    AggreVaTeDConfig,
    D2LOLSConfig,
    LOLSConfig,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    Trajectories,
)
from tril_gym.agents.collection.collector import EpisodeRandomness, collect, switch_points
from tril_gym.agents.learners.critic import Critic
from tril_gym.utils.profiler import Timer

NO_EOS = (99,)


def write(plan: Plan, episodes: int = 40, mode: str = "NextStep", **settings) -> Trajectories:
    return collect(foreign_envs(8, mode=mode, **settings), plan, episodes=episodes, generator=generator(1))


def rollins(trajectories: Trajectories) -> list[int]:
    """Switches of the rows that have a rollin."""
    return [switch for switch in trajectories.switch.tolist() if switch]


def test_ppo(autoreset_mode):
    policy = OneToken(P, lengths=(3, 5, 1, 8, 99), logprob=-0.5)
    trajectories = write(Plan(rollout=policy), mode=autoreset_mode)
    assert shown(trajectories)[:5] == ["pp.", "pppp.", ".", "ppppppp.", "pppppppp"]
    assert trajectories.switch.eq(0).all()
    assert not trajectories.is_rollin.any()
    for mask in (trajectories.is_rollout, trajectories.wrote, trajectories.learn):
        assert torch.equal(mask, trajectories.is_token)
    assert trajectories.old_logprobs[trajectories.is_token].eq(-0.5).all()
    assert trajectories.old_logprobs[~trajectories.is_token].eq(0.0).all()
    assert trajectories.tokens[~trajectories.is_token].eq(0).all()
    assert policy.begun == [[0] * 8] * 5


def test_ppo_pp(autoreset_mode):
    # The guide writes ggggg. and the policy, wherever it takes up a text, makes it seven tokens long.
    guide, policy = OneToken(G, lengths=(6,), logprob=-9.0), OneToken(P, lengths=(7,), logprob=-0.5)
    trajectories = write(Plan(rollout=policy, rollin=guide, rollin_prob=0.6), mode=autoreset_mode)
    switches = trajectories.switch.tolist()
    assert shown(trajectories) == ["g" * h + "p" * (6 - h) + "." for h in switches]
    assert set(switches) == {0, 1, 2, 3, 4, 5}
    columns = torch.arange(8)
    assert torch.equal(trajectories.is_rollin, columns < trajectories.switch.unsqueeze(1))
    assert torch.equal(trajectories.is_rollout, trajectories.is_token & (columns >= trajectories.switch.unsqueeze(1)))
    assert torch.equal(trajectories.wrote, trajectories.is_rollout)
    assert torch.equal(trajectories.learn, trajectories.is_rollout)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.wrote, -0.5, 0.0).double())
    # The policy took up each text where the guide's was cut, and the guide wrote only where the coin said so.
    assert [length for wave in policy.begun for length in wave] == switches
    assert sum(len(wave) for wave in guide.begun) == len(rollins(trajectories))


@dataclass
class Promising:
    """An actor whose writer promises to end no text before so many tokens. It counts the tokens that it writes."""

    actor: OneToken
    min_new_tokens: int
    written: int = 0

    def start(self, *text: Any) -> Any:
        writer = self.actor.start(*text)
        writer.min_new_tokens = self.min_new_tokens
        write_on = writer.next

        def next_and_count(draws: Tensor) -> tuple[Tensor, Tensor | None]:
            self.written += len(draws)
            return write_on(draws)

        writer.next = next_and_count
        return writer


def test_a_rollin_of_known_length_is_written_up_to_the_cut_only(autoreset_mode):
    promising, silent = (Promising(OneToken(G), shortest) for shortest in (8, 0))  # T = 8, and they never end early
    known, unknown = (
        write(Plan(rollout=OneToken(P, lengths=(7,)), rollin=guide, rollin_prob=0.6), mode=autoreset_mode)
        for guide in (promising, silent)
    )
    assert shown(known) == shown(unknown)
    assert torch.equal(known.switch, unknown.switch)
    switches = rollins(known)
    assert promising.written == sum(switches) < 8 * len(switches) == silent.written


@pytest.mark.parametrize("learn_on", ["rollin", "switch"])
def test_aggrevated(learn_on):
    guide, policy = OneToken(G, lengths=(7,), logprob=-9.0), OneToken(P, lengths=(6,), logprob=-0.5)
    trajectories = write(Plan(rollout=guide, rollin=policy, rollin_prob=0.6, learn_on=learn_on))
    switches = trajectories.switch.tolist()
    assert shown(trajectories) == ["p" * h + "g" * (6 - h) + "." for h in switches]
    assert torch.equal(trajectories.wrote, trajectories.is_rollin)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.is_rollin, -0.5, 0.0).double())
    if learn_on == "rollin":
        assert torch.equal(trajectories.learn, trajectories.is_rollin)
    else:  # the last token before the switch, none where there is no rollin
        expected = [[t == h - 1 for t in range(8)] for h in switches]
        assert trajectories.learn.tolist() == expected
        assert trajectories.learn.sum(1).tolist() == [int(h > 0) for h in switches]


def test_a_guide_who_says_no_logprobs():
    plan = Plan(rollout=OneToken(P, logprob=-0.5), rollin=OneToken(G), rollin_prob=1.0)
    trajectories = write(plan)
    assert torch.equal(trajectories.old_logprobs, torch.where(trajectories.wrote, -0.5, 0.0).double())


def test_a_rollin_too_short_to_be_cut_is_dropped():
    plan = Plan(rollout=OneToken(P, lengths=(4,)), rollin=OneToken(G, lengths=(1,)), rollin_prob=1.0)
    trajectories = write(plan)
    assert set(shown(trajectories)) == {"ppp."}
    assert trajectories.switch.eq(0).all()


@pytest.mark.parametrize("rollin_prob", [0.0, 0.3, 0.8, 1.0])
def test_the_share_of_rollins_is_rollin_prob(rollin_prob):
    plan = Plan(rollout=OneToken(P), rollin=OneToken(G), rollin_prob=rollin_prob)
    trajectories = collect(foreign_envs(64, max_new_tokens=3), plan, episodes=1024, generator=generator(4))
    share = len(rollins(trajectories)) / 1024
    # Four standard deviations; none at 0 and 1.
    assert abs(share - rollin_prob) <= 4 * np.sqrt(rollin_prob * (1 - rollin_prob) / 1024)


def chi_squared(switches: np.ndarray, cells: int) -> float:
    """Of 1 … cells against the uniform distribution."""
    counts = np.bincount(switches, minlength=cells + 1)
    assert counts[0] == 0
    assert len(counts) == cells + 1
    expected = len(switches) / cells
    return float(((counts[1:] - expected) ** 2 / expected).sum())


def test_the_switch_is_uniform():
    # 9 tokens: 8 places to cut, 7 degrees of freedom; chance exceeds 24.3 once in a thousand times.
    draws = EpisodeRandomness.draw(20_000, 1, generator(2)).switch.numpy()
    lengths = np.full(20_000, 9)
    assert chi_squared(switch_points(lengths, draws), cells=8) < 24.3
    assert chi_squared(switch_points(lengths, draws**1.1), cells=8) > 24.3  # control: draws that lean to 0


def test_where_a_switch_may_be():
    first, last = np.zeros(4), np.full(4, np.nextafter(1.0, 0.0))
    lengths = np.array([1, 2, 3, 50])
    assert switch_points(lengths, first).tolist() == [0, 1, 1, 1]
    assert switch_points(lengths, last).tolist() == [0, 1, 2, 49]
    assert switch_points(np.zeros(1, int), last[:1]).tolist() == [0]


def test_coins_and_switches_are_drawn_apart():
    draws = EpisodeRandomness.draw(4000, 3, generator(2))
    columns = torch.cat([draws.rollin_uniform[:, None], draws.switch[:, None], draws.rollin, draws.rollout], dim=1)
    off_diagonal = columns.T.corrcoef() - torch.eye(8)
    assert float(off_diagonal.abs().max()) < 0.07  # four standard deviations of 1/√4000
    assert len(set(draws.seeds.tolist())) == 4000


def test_a_plan_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"rollin_prob must be a probability in \[0, 1\], got 1.5"):
        Plan(rollout=OneToken(P), rollin=OneToken(G), rollin_prob=1.5)
    with pytest.raises(ValueError, match=r"rollin_prob is 0\.5 but the plan has no rollin actor"):
        Plan(rollout=OneToken(P), rollin_prob=0.5)


@dataclass(frozen=True)
class Kind:
    """An algorithm in one of its iterations, and what that has to be."""

    agent: type[Agent]
    config: type
    rollin: str  # whose letter
    rollout: str
    learn: str  # the part that teaches the policy; the critic always learns on the rollout
    critic: str
    iteration: int = 0
    numbers: tuple[tuple[str, Any], ...] = ()

    def __call__(self, envs: VectorEnv | None = None, *, guide: Any = None, seed: int = 0, **numbers: Any) -> Agent:
        envs = foreign_envs(8) if envs is None else envs
        config = self.config(**dict(self.numbers) | numbers)
        policy = policy_of(vocab_size=envs.metadata["text"]["vocab_size"])
        if self.agent is PPO:
            return PPO(policy, envs, config, seed=seed)
        return self.agent(policy, OneToken(G) if guide is None else guide, envs, config, seed=seed)

    def plan(self, agent: Agent, policy: OneToken) -> Plan:
        """The agent's own, in which a stub takes the policy's place."""
        plan = agent.plan(self.iteration)
        actors = {"rollin": plan.rollin, "rollout": plan.rollout}
        return replace(plan, **{part: policy for part, actor in actors.items() if actor is agent.policy})


PPO_PP = ("g", "p", "rollout", "policy")
AGGREVATED = ("p", "g", "rollin", "guide")
BETA = (("rollin_prob", 0.6),)
KINDS = {
    "ppo": Kind(PPO, PPOConfig, "", "p", "rollout", "policy"),
    "ppo-pp": Kind(PPOPlusPlus, PPOPlusPlusConfig, *PPO_PP, numbers=BETA),
    "aggrevated": Kind(AggreVaTeD, AggreVaTeDConfig, *AGGREVATED, numbers=BETA),
    "lols, heads": Kind(LOLS, LOLSConfig, *PPO_PP, numbers=(*BETA, ("ppo_pp_prob", 1.0))),
    "lols, tails": Kind(LOLS, LOLSConfig, *AGGREVATED, numbers=(*BETA, ("ppo_pp_prob", 0.0))),
    "d2lols, first": Kind(D2LOLS, D2LOLSConfig, *AGGREVATED, numbers=(*BETA, ("aggrevated_iterations", 3))),
    "d2lols, before": Kind(D2LOLS, D2LOLSConfig, *AGGREVATED, 2, (*BETA, ("aggrevated_iterations", 3))),
    "d2lols, after": Kind(D2LOLS, D2LOLSConfig, *PPO_PP, 3, (*BETA, ("aggrevated_iterations", 3))),
    "d2lols, at once": Kind(D2LOLS, D2LOLSConfig, *PPO_PP, 0, (*BETA, ("aggrevated_iterations", 0))),
}
GUIDED = [name for name in KINDS if name != "ppo"]
POLICY_BEGINS = [name for name in KINDS if KINDS[name].rollin == "p"]


class TestAgents:
    @pytest.mark.parametrize("name", KINDS)
    def test_the_text_shows_the_plan(self, name, autoreset_mode):
        kind = KINDS[name]
        # Who begins writes six tokens; who takes that up makes seven of it.
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

    def test_the_last_token_before_the_switch(self):
        kind = KINDS["aggrevated"]
        plan = kind.plan(kind(guide=OneToken(G), learn_on="switch"), OneToken(P))
        trajectories = write(plan)
        assert trajectories.learn.tolist() == [[t == h - 1 for t in range(8)] for h in trajectories.switch.tolist()]
        assert trajectories.learn.any()

    @pytest.mark.parametrize("name", GUIDED)
    @pytest.mark.parametrize("rollin_prob", [0.0, 0.3])
    def test_the_share_of_rollins_is_rollin_prob(self, name, rollin_prob):
        kind = KINDS[name]
        assert abs(share_of_rollins(kind, rollin_prob=rollin_prob) - rollin_prob) <= allowed(rollin_prob, 1024)

    @pytest.mark.parametrize("name", [name for name in GUIDED if KINDS[name].agent in (LOLS, D2LOLS)])
    def test_each_half_has_a_chance_of_its_own(self, name):
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
    """Four standard deviations of a share."""
    return 4 * float(np.sqrt(prob * (1 - prob) / draws))


class TestCoinOfLOLS:
    @staticmethod
    def coins(agent: Agent, iterations: int = 2000) -> list[bool]:
        """Whether each iteration is PPO++'s."""
        return [agent.plan(iteration).rollout is agent.policy for iteration in range(iterations)]

    @pytest.mark.parametrize("prob", [0.0, 0.2, 0.8, 1.0])
    def test_its_share(self, prob):
        coins = np.array(self.coins(KINDS["lols, heads"](ppo_pp_prob=prob)))
        assert abs(coins.mean() - prob) <= allowed(prob, 2000)

    def test_one_coin_says_nothing_of_the_next(self):
        coins = np.array(self.coins(KINDS["lols, heads"](ppo_pp_prob=0.5)), dtype=float)
        assert abs(np.corrcoef(coins[:-1], coins[1:])[0, 1]) <= 4 / np.sqrt(1999)

    def test_it_is_a_function_of_seed_and_iteration(self):
        agent, twin, other = (KINDS["lols, heads"](ppo_pp_prob=0.5, seed=seed) for seed in (3, 3, 4))
        expected = self.coins(agent, 300)
        torch.rand(7, generator=twin.generator)
        assert [twin.plan(i).rollout is twin.policy for i in reversed(range(300))] == expected[::-1]
        assert self.coins(agent, 300) == expected
        shared = np.mean(np.array(self.coins(other, 300)) == np.array(expected))
        assert abs(shared - 0.5) <= allowed(0.5, 300)

    def test_it_goes_on_after_loading(self, tmp_path):
        numbers = {"ppo_pp_prob": 0.5, "episodes_per_iteration": 8, "epochs": 1}
        agent = KINDS["lols, heads"](seed=3, **numbers)
        expected = self.coins(agent, 300)
        agent.learn(2).save(tmp_path)
        loaded = LOLS.load(tmp_path, envs=foreign_envs(8), guide=OneToken(G))
        assert loaded.iteration == 2
        assert self.coins(loaded, 300) == expected


GOOD = 8  # a word that the toy world pays for, as G is


def toy_envs(mode: str, *, dense: bool) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=8, autoreset_mode=mode, rule="count", dense=dense)


class TestRollinsThatMayFinish:
    def test_the_switch_is_uniform_up_to_the_end(self):
        # 8 places and the end: 8 degrees of freedom; chance exceeds 26.1 once in a thousand times.
        draws, lengths = EpisodeRandomness.draw(20_000, 1, generator(2)).switch.numpy(), np.full(20_000, 9)
        assert chi_squared(switch_points(lengths, draws, allow_full=True), cells=9) < 26.1
        assert chi_squared(switch_points(lengths, draws**1.1, allow_full=True), cells=9) > 26.1  # control
        assert switch_points(np.array([0, 1, 2]), np.full(3, 0.999), allow_full=True).tolist() == [0, 1, 2]

    @pytest.mark.parametrize("name", POLICY_BEGINS)
    @pytest.mark.parametrize("world", ["foreign", "dense toy", "toy"])
    def test_a_whole_text_is_learned_to_its_end_and_paid(self, name, world, autoreset_mode):
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
        # The guide takes up the others, where they were cut, and no whole one.
        taken_up = [length for wave in guide.begun for length in wave]
        assert taken_up == trajectories.switch[~whole].tolist()
        assert len(taken_up) > 10
        assert trajectories.terminated.all()
        torch.testing.assert_close(trajectories.rewards, pay(trajectories, world))

    @pytest.mark.parametrize("name", POLICY_BEGINS)
    def test_they_do_not_unless_they_may(self, name):
        kind = KINDS[name]
        plan = kind.plan(kind(rollin_prob=1.0), OneToken(P, lengths=(1, 3, 8, 99)))
        assert write(plan).is_rollout.any(1).all()


def listed(trajectories: Trajectories, rows: Tensor) -> tuple[list[list[int]], list[int]]:
    return trajectories.tokens[rows].tolist(), trajectories.lengths[rows].tolist()


def pay(trajectories: Trajectories, world: str) -> Tensor:
    """What the environment owes for each token, by its rules."""
    tokens, is_token = trajectories.tokens.double(), trajectories.is_token
    columns = torch.arange(tokens.shape[1])
    if world == "foreign":
        return torch.where(is_token, tokens + columns / 100, 0.0)
    words = (is_token & (tokens != EOS)).double() / 8  # all words are good ones
    if world == "dense toy":
        return words
    is_last = columns == trajectories.lengths.unsqueeze(1) - 1
    return torch.where(is_last, words.sum(1, keepdim=True), 0.0)


class TestHandOverOfD2LOLS:
    @pytest.mark.parametrize("warm_start", [True, False])
    def test_which_weights_the_policys_critic_starts_from(self, warm_start):
        numbers = {"critic_learning_rate": 1e-2, "epochs": 2, "warm_start_critic": warm_start}
        agent: Any = KINDS["d2lols, before"](foreign_envs(8, env=ForeignDense), **numbers)
        agent.learn(3)
        guides, _ = agent.learner.critic("guide")
        newborn, learned = Critic(agent.learner.ref_policy.language_model.full_copy()).state_dict(), guides.state_dict()
        assert not equal(newborn, learned)

        plan = agent.plan(3)
        assert plan.critic == "policy"
        mine, _ = agent.learner.critic(plan.critic, warm_start=plan.warm_start_critic)
        assert equal(mine.state_dict(), learned if warm_start else newborn)

        before = {name: weight.clone() for name, weight in learned.items()}
        agent.learn(1)
        assert equal(guides.state_dict(), before)  # its work is done
        assert not equal(mine.state_dict(), before if warm_start else newborn)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())


GARBAGE = [-50.0, float("nan")]


class TestLogprobsOfTheGuidesTokens:
    """What the policy thinks of tokens that it did not write moves no loss."""

    @pytest.mark.parametrize("name", ["ppo-pp", "aggrevated"])
    def test_those_that_were_stored(self, name):
        _, trajectories = self.setting(name)
        guides = trajectories.is_token & ~trajectories.wrote

        def learned(where: Tensor, garbage: float) -> tuple[Tensor, dict[str, float]]:
            """Weights and figures after an update on texts with garbage in some places."""
            agent, _ = self.setting(name)
            texts = replace(trajectories, old_logprobs=torch.where(where, garbage, trajectories.old_logprobs))
            figures = agent.learner.update(texts, agent.plan(1), generator=generator(7), timer=Timer())
            return torch.cat([weight.detach().flatten() for weight in agent.policy.parameters()]), figures

        honest, figures = learned(torch.zeros_like(guides), 0.0)
        for garbage in GARBAGE:
            weights, found = learned(guides, garbage)
            assert torch.equal(weights, honest)
            assert found == figures
        assert not torch.equal(learned(trajectories.wrote, -5.0)[0], honest)  # control

    @pytest.mark.parametrize("name", ["ppo-pp", "aggrevated"])
    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_those_that_it_gives_them_now(self, name, garbage, monkeypatch):
        agent, trajectories = self.setting(name)
        honest = self.gradients(agent, trajectories)
        assert max(float(gradient.abs().max()) for gradient in honest) > 1e-3
        guides = trajectories.is_token & ~trajectories.wrote
        for critic_owner in (guides, trajectories.wrote):
            with monkeypatch.context() as patch:
                for policy in (agent.policy, agent.learner.ref_policy):
                    wrong = mad_about(policy.token_logprobs, critic_owner, garbage)
                    patch.setattr(policy, "token_logprobs", wrong)
                found = self.gradients(agent, trajectories)
            same = all(torch.equal(one, other) for one, other in zip(found, honest, strict=True))
            assert same == (critic_owner is guides)

    @staticmethod
    def setting(name: str) -> tuple[Any, Trajectories]:
        """An agent that is on its way, and texts that both have written on."""
        envs = foreign_envs(8, env=ForeignDense)
        numbers = {"kl_coef": 0.5, "ent_coef": 0.1, "temperature": 3.0, "learning_rate": 1e-3, "minibatch_size": 8}
        agent = KINDS[name](envs, guide=OneToken(G, lengths=(7,)), **numbers)
        agent.learn(1)
        trajectories = collect(envs, agent.plan(1), episodes=8, generator=generator(6))
        assert trajectories.wrote.any()
        assert not trajectories.wrote.all()
        return agent, trajectories

    @staticmethod
    def gradients(agent: Any, trajectories: Trajectories) -> list[Tensor]:
        """Of policy and critic, on all texts at once."""
        critic, _ = agent.learner.critic(agent.plan(1).critic)
        experience = agent.learner.credit.experience(
            agent.learner.credit.add_reference_and_values(trajectories, critic),
            kl_coef=agent.learner.kl_controller.coef,
        )
        agent.learner.epochs.gradients(experience, critic)
        parameters = [*agent.policy.parameters(), *critic.parameters()]
        return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def mad_about(score: Any, where: Tensor, garbage: float) -> Any:
    """A policy's `score` for the same texts, whose figures are garbage in some places."""

    def mad(texts: Any, *rest: Any, **more: Any) -> Any:
        scores, here = score(texts, *rest, **more), where[:, : texts.tokens.shape[1]]
        entropy = None if scores.entropy is None else torch.where(here, garbage, scores.entropy)
        return replace(scores, logprobs=torch.where(here, garbage, scores.logprobs), entropy=entropy)

    return mad
