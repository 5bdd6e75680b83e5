"""Plans of the guided algorithms: LOLS and D2LOLS are made of PPO++ and AggreVaTeD, with the settings of both."""

import inspect
import pkgutil
import re
from dataclasses import fields

import pytest
from doubles import foreign_envs, policy_of

import tril_gym.agents.algorithms.ppo as ppo
from tril_gym.agents import (
    D2LOLS,
    LOLS,
    ActorCriticConfig,
    AggreVaTeD,
    AggreVaTeDConfig,
    D2LOLSConfig,
    Guide,
    LOLSConfig,
    Plan,
    PPOPlusPlus,
    PPOPlusPlusConfig,
)

SETTINGS = {"learn_on": "switch", "allow_full_rollins": True}


@pytest.fixture(scope="module")
def parts():
    return policy_of("gpt2"), Guide(policy_of("gpt2", seed=1)), foreign_envs(2)


def plans(agent_type, config, parts):
    """The first two plans, the actors by their roles."""
    agent = agent_type(*parts, config)
    roles = {id(agent.policy): "policy", id(agent.guide): "guide"}
    return [
        {entry.name: roles.get(id(value := getattr(plan, entry.name)), value) for entry in fields(Plan)}
        for plan in map(agent.plan, range(2))
    ]


def test_lols_is_aggrevated_or_ppo_pp(parts):
    aggrevated = plans(AggreVaTeD, AggreVaTeDConfig(rollin_prob=0.4, **SETTINGS), parts)
    ppo_pp = plans(PPOPlusPlus, PPOPlusPlusConfig(rollin_prob=0.7), parts)
    both = {"rollin_prob": 0.7, "aggrevated_rollin_prob": 0.4, **SETTINGS}
    assert plans(LOLS, LOLSConfig(ppo_pp_prob=0.0, **both), parts) == aggrevated
    assert plans(LOLS, LOLSConfig(ppo_pp_prob=1.0, **both), parts) == ppo_pp
    assert aggrevated != ppo_pp


def test_d2lols_is_aggrevated_then_ppo_pp(parts):
    aggrevated = plans(AggreVaTeD, AggreVaTeDConfig(rollin_prob=0.4, **SETTINGS), parts)
    ppo_pp = plans(PPOPlusPlus, PPOPlusPlusConfig(rollin_prob=0.7), parts)
    config = D2LOLSConfig(aggrevated_iterations=1, rollin_prob=0.7, aggrevated_rollin_prob=0.4, **SETTINGS)
    assert plans(D2LOLS, config, parts) == [aggrevated[0], ppo_pp[1] | {"warm_start_critic": True}]


def test_one_rollin_prob_serves_both(parts):
    for agent_type, config in (
        (LOLS, LOLSConfig(ppo_pp_prob=0.0, rollin_prob=0.3)),
        (D2LOLS, D2LOLSConfig(rollin_prob=0.3)),
    ):
        assert [plan["rollin_prob"] for plan in plans(agent_type, config, parts)] == [0.3, 0.3]


KINDS = {
    "ppo-pp": (PPOPlusPlus, PPOPlusPlusConfig, {}),
    "aggrevated": (AggreVaTeD, AggreVaTeDConfig, {}),
    "lols, ppo-pp": (LOLS, LOLSConfig, {"ppo_pp_prob": 1.0}),
    "lols, aggrevated": (LOLS, LOLSConfig, {"ppo_pp_prob": 0.0}),
    "d2lols": (D2LOLS, D2LOLSConfig, {"aggrevated_iterations": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rollin_prob_moves_linearly(kind, parts):
    agent_type, config, numbers = KINDS[kind]

    def probs(**schedule):
        agent = agent_type(*parts, config(**numbers, **schedule))
        return [agent.plan(iteration).rollin_prob for iteration in range(6)]

    # From .8 by .2 an iteration to 0 in iteration 4.
    schedule = {"rollin_prob": 0.8, "final_rollin_prob": 0.0, "rollin_iterations": 4}
    assert probs(**schedule) == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    assert probs(rollin_prob=0.8) == [0.8] * 6
    assert probs(rollin_prob=0.2, final_rollin_prob=1.0, rollin_iterations=2) == pytest.approx([0.2, 0.6] + [1.0] * 4)


def test_rollin_prob_of_aggrevated_is_constant_where_given(parts):
    schedule = {"rollin_prob": 0.8, "final_rollin_prob": 0.0, "rollin_iterations": 4, "aggrevated_rollin_prob": 0.5}
    agent = D2LOLS(*parts, D2LOLSConfig(aggrevated_iterations=2, **schedule))
    assert [agent.plan(i).rollin_prob for i in range(5)] == pytest.approx([0.5, 0.5, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("config", [PPOPlusPlusConfig, AggreVaTeDConfig, LOLSConfig, D2LOLSConfig])
def test_a_final_rollin_prob_needs_its_iterations(config):
    with pytest.raises(ValueError, match=r"final_rollin_prob is 0\.0, so rollin_iterations must say"):
        config(final_rollin_prob=0.0)


def test_ppo_pp_warns_of_rollins_in_every_text_only_where_none_is_without():
    with pytest.warns(UserWarning, match="never learns its first token"):
        PPOPlusPlusConfig(rollin_prob=1.0, final_rollin_prob=1.0, rollin_iterations=3)
    with pytest.warns(UserWarning, match="never learns its first token"):
        PPOPlusPlusConfig(rollin_prob=1.0, cut="share", cut_share=0.5)
    PPOPlusPlusConfig(rollin_prob=1.0, final_rollin_prob=0.5, rollin_iterations=3)
    PPOPlusPlusConfig(rollin_prob=1.0, cut="uniform_from_prompt")
    PPOPlusPlusConfig(rollin_prob=1.0, cut="share", cut_share=0.1)  # of nine tokens none is left


@pytest.mark.parametrize("config", [LOLSConfig, D2LOLSConfig])
def test_every_setting_of_aggrevated_is_one_of_both(config):
    own = {entry.name: entry.default for entry in fields(AggreVaTeDConfig)}
    shared = {entry.name for entry in fields(ActorCriticConfig)}
    settings = {name: default for name, default in own.items() if name not in shared}
    assert set(settings) == {
        *("rollin_prob", "final_rollin_prob", "rollin_iterations", "allow_full_rollins", "learn_on"),
        *("cut", "cut_share", "cut_iterations", "texts_per_prompt", "best_of", "best_of_by"),
    }
    assert settings.items() <= {entry.name: entry.default for entry in fields(config)}.items()


class TestMapOfPPO:
    """The steps in the docstring of `ppo.py`."""

    STEPS = re.findall(r"^ ?(\d*)\.? +\S.*?((?:(?: of| by|) ?`[\w.]+`)+)$", inspect.getdoc(ppo) or "", re.MULTILINE)

    def test_steps_are_numbered(self):
        numbers = [int(number) for number, _ in self.STEPS if number]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 10

    def test_every_function_exists(self):
        names = [name for _, named in self.STEPS for name in re.findall(r"`([\w.]+)`", named)]
        assert len(names) > 15
        for name in names:
            assert callable(pkgutil.resolve_name(f"tril_gym.{name}")), name

    def test_the_check_can_fail(self):
        with pytest.raises(AttributeError):
            pkgutil.resolve_name("tril_gym.functional.returns.gae2")
