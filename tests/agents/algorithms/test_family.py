"""The family of group and pair algorithms: each trains, resumes exactly and reports; groups stay whole."""

import pytest
import torch
from doubles import generator, history, toy_envs, toy_policy
from seven import SEVEN

from tril_gym.agents import Guide, Pairs, Plan, ReinforcePlusPlusConfig, collect
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type

FAMILY = [name for name in ALGORITHMS if name not in SEVEN]
OFFLINE = ("dpo", "ipo")
OWN = {"ppg": {"auxiliary_every": 2, "auxiliary_epochs": 2}}  # a phase ends after the agent is saved
NUMBERS = {"learning_rate": 1e-3, "episodes_per_iteration": 16, "minibatch_size": 8, "check_model": False}


def parts_of(name, envs):
    """Return what an agent needs beside policy and environment."""
    references = [example.references[0] for example in envs.unwrapped.examples]
    kind = agent_type(name)
    writer = Guide.references() if name == "dr-po" else Guide(toy_policy(seed=1, dtype=torch.float64))
    guide = {"guide": writer} if kind.takes_guide else {}
    return guide | ({"pairs": Pairs([(text, text[:-4]) for text in references])} if name in OFFLINE else {})


def agent_of(name, *, policy=None, num_envs=6, **numbers):
    """Return an agent whose groups cross the batches of its environment."""
    envs, kind = toy_envs(num_envs), agent_type(name)
    policy = toy_policy(dtype=torch.float64) if policy is None else policy
    return kind(
        policy=policy,
        envs=envs,
        config=kind.config_type(**NUMBERS | OWN.get(name, {}) | numbers),
        **parts_of(name, envs),
    )


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


@pytest.mark.parametrize("name", FAMILY)
def test_a_resumed_agent_continues_as_if_never_stopped(name, tmp_path):
    agent = agent_of(name)
    before = weights(agent)
    first = history(agent, 1)
    assert agent.name == name
    agent.save(tmp_path / "agent")
    second = history(agent, 1)
    assert not torch.equal(weights(agent), before)
    assert all(abs(row.get("policy/ratio_error", 0.0)) < 1e-9 for row in first + second)
    again = agent_type(name).load(tmp_path / "agent", envs=toy_envs(6), **parts_of(name, toy_envs(6)))
    assert history(again, 1) == second
    assert torch.equal(weights(again), weights(agent))


@pytest.mark.parametrize("name", ["rloo", "rebel", "dapo", "online-dpo", "dpo"])
def test_parts_of_a_minibatch_change_nothing(name):
    whole, parts = agent_of(name), agent_of(name, gradient_accumulation=3)
    history(whole, 1), history(parts, 1)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_texts_of_a_group_have_one_prompt_and_one_rollin(mode):
    import gymnasium as gym

    envs = gym.make_vec("tril/Toy-v0", num_envs=5, autoreset_mode=mode)
    plan = Plan(
        rollout=toy_policy(dtype=torch.float64),
        rollin=Guide.references(),
        rollin_prob=0.7,
        texts_per_prompt=4,
        share_rollin=True,
    )
    texts = collect(envs, plan, episodes=12, generator=generator())
    assert texts.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for rows in torch.arange(12).view(3, 4):
        group = texts[rows]
        assert len(group.examples.unique()) == len(group.switch.unique()) == 1
        rollins = torch.where(group.is_rollin, group.tokens, 0)
        assert bool((rollins == rollins[0]).all())
    assert [info["member"] for info in texts.infos] == [0, 1, 2, 3] * 3
    assert len({tuple(row) for row in texts.tokens.tolist()}) > 3  # control: the policy's parts differ


def test_groups_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="a multiple of texts_per_prompt texts, 4, got 14"):
        agent_of("rloo", episodes_per_iteration=14)
    with pytest.raises(ValueError, match=r"texts_per_prompt must be at least 2 for the advantage leave_one_out, got 1"):
        agent_type("rloo").config_type(texts_per_prompt=1)


def test_groups_of_one_have_no_signal_to_be_kept_by():
    with pytest.raises(ValueError, match=r"drop_groups leaves out .* every group with texts_per_prompt 1"):
        ReinforcePlusPlusConfig(drop_groups=True)
    assert ReinforcePlusPlusConfig(drop_groups=True, texts_per_prompt=2).drop_groups


def test_examples_without_a_pair_are_refused():
    agent = agent_type("dpo")(policy=toy_policy(), envs=toy_envs(4))
    with pytest.raises(ValueError, match=r"example \d+ has no pair"):
        agent.learn(1, progress=False)


def test_dr_po_without_rollins_is_ppo():
    numbers = {"kl_coef": 0.05, "vf_coef": 0.1, "rollin_prob": 0.0}
    reset = agent_of("dr-po", **numbers)
    numbers.pop("rollin_prob")
    plain = agent_of("ppo", **numbers)
    ours, theirs = history(reset, 2), history(plain, 2)
    shared = theirs[0].keys()
    assert [{name: row[name] for name in shared} for row in ours] == theirs
    assert torch.equal(weights(reset), weights(plain))


def test_given_texts_are_scored_once_by_the_reference_policy(monkeypatch):
    agent = agent_of("dpo", episodes_per_iteration=128)
    scored = []
    credit = agent.learner.credit
    original = credit._logprobs

    def count(policy, texts):
        if policy is agent.learner.ref_policy:
            scored.append(len(texts))
        return original(policy, texts)

    monkeypatch.setattr(credit, "_logprobs", count)
    history(agent, 2)
    first, second = scored[0], sum(scored[1:])
    assert first > second  # of 64 examples most were seen in the first iteration


def test_values_are_kept_by_example():
    agent = agent_of("a-star-po", value_texts=2)
    history(agent, 3)
    values = dict(agent.learner.values)
    assert 16 <= len(values) <= 48
    history(agent, 1)
    assert {name: agent.learner.values[name] for name in values} == values


class TestPPG:
    def test_without_epochs_of_the_auxiliary_phase_it_is_ppo(self):
        phasic, plain = agent_of("ppg", auxiliary_epochs=0), agent_of("ppo", epochs=1)
        assert history(phasic, 2) == history(plain, 2)
        assert torch.equal(weights(phasic), weights(plain))

    def test_with_the_kl_alone_the_policy_stays(self):
        """The KL begins at 0 with a gradient of 0, in T5 but for rounding, of which nothing may become a step."""
        numbers = {"auxiliary_coef": 0.0, "auxiliary_every": 1}
        phasic = agent_of("ppg", policy=toy_policy("t5"), **numbers)
        plain = agent_of("ppg", policy=toy_policy("t5"), auxiliary_epochs=0, **numbers)
        (row,), _ = history(phasic, 1), history(plain, 1)
        assert row["auxiliary/kl"] < 1e-6
        assert torch.equal(weights(phasic), weights(plain))
        moved = agent_of("ppg", policy=toy_policy("t5"), auxiliary_every=1)  # the control: a value loss moves the body
        (row,) = history(moved, 1)
        assert row["auxiliary/kl"] > 1e-12
        assert (weights(moved) - weights(plain)).abs().max() > 1e-4


class TestPairsFromOneState:
    """REFUEL: the texts of a pair have one rollin of the policy, and what differs between them is learned."""

    @pytest.mark.parametrize("name", ["rebel", "p3o", "online-dpo"])
    def test_texts_of_a_group_continue_one_text_of_the_policy(self, name):
        agent = agent_of(name, rollin_prob=1.0)
        texts = collect(agent.envs, agent.plan(0), episodes=16, generator=generator())
        for rows in torch.arange(16).view(-1, agent.config.texts_per_prompt):
            group = texts[rows]
            rollins = torch.where(group.is_rollin, group.tokens, 0)
            assert bool((rollins == rollins[0]).all())
        assert bool(texts.is_rollin.any())
        (row,) = history(agent, 1)
        assert 0 < row["rollin/share"] <= 1

    def test_the_rollin_moves_no_loss(self):
        agent = agent_of("rebel", rollin_prob=1.0)
        texts = collect(agent.envs, agent.plan(0), episodes=16, generator=generator())
        assert not bool((texts.learn & texts.is_rollin).any())
        alone = collect(agent.envs, agent_of("rebel").plan(0), episodes=16, generator=generator())  # the control
        assert not bool(alone.is_rollin.any())


class TestALoL:
    def test_without_a_value_it_is_behaviour_cloning_where_all_rewards_are_1(self):
        """Its loss is a mean over texts in place of tokens, which Adam's first step does not see."""
        one_step = {"episodes_per_iteration": 16, "minibatch_size": 16, "epochs": 1}
        weighted = agent_of("a-lol", variant="ref_free", value_texts=0, **one_step)
        cloned = agent_of("bc", **one_step)
        (row,), _ = history(weighted, 1), history(cloned, 1)
        assert row["reward/mean"] == 1
        torch.testing.assert_close(weights(weighted), weights(cloned), rtol=0, atol=1e-7)
        with_value = agent_of("a-lol", variant="ref_free", **one_step)  # the control
        history(with_value, 1)
        assert (weights(with_value) - weights(cloned)).abs().max() > 1e-4


# One of each loss in `make test`; a task's matrix has an encoder-decoder for half of the others.
@pytest.mark.parametrize(("temperature", "moves"), [(1.0, False), (0.3, True)])
def test_gkd_learns_the_distribution_at_the_guides_temperature(temperature, moves):
    """From itself at temperature 1 a policy has nothing to learn."""
    policy, kind = toy_policy(dtype=torch.float64), agent_type("gkd")
    guide = Guide(policy.frozen_copy(), temperature=temperature)
    agent = kind(policy, guide, toy_envs(6), kind.config_type(**NUMBERS))
    before = weights(agent)
    history(agent, 1)
    assert bool((weights(agent) - before).abs().max() > 1e-6) == moves


WITH_OTHER_MODELS = ("rloo", "dpo", "rebel", "raft", "a-lol", "ppg", "gkd")


@pytest.mark.parametrize("kind", ["lora", "t5"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in WITH_OTHER_MODELS else pytest.mark.slow) for name in FAMILY]
)
def test_adapters_and_encoder_decoders_learn(name, kind):
    plain = toy_policy("gpt2" if kind == "lora" else kind, dtype=torch.float64)
    policy = plain.with_lora(2) if kind == "lora" else plain
    agent = agent_of(name, policy=policy)
    base = [tensor.clone() for tensor in plain.model.state_dict().values()]
    before = weights(agent)
    rows = history(agent, 2)
    assert not torch.equal(weights(agent), before)
    is_base_kept = all(torch.equal(*pair) for pair in zip(plain.model.state_dict().values(), base, strict=True))
    assert is_base_kept == (kind == "lora")
    assert all(abs(row.get("policy/ratio_error", 0.0)) < 1e-9 for row in rows)
    assert rows[0].get("kl", 0.0) == pytest.approx(0.0, abs=1e-9)  # the reference policy is the adapter's base
