"""Which texts an algorithm learns from, and what the other texts are that it compares them with."""

import math
from dataclasses import replace

import pytest
import torch
from doubles import generator
from one_update import (
    EPISODES,
    TEMPERATURE,
    certain,
    collected,
    greedy,
    logits_of,
    paid,
    small_agent,
    texts_of,
    updated,
)

from tril_gym.agents.learners.advantages import text_rewards


def with_rewards(trajectories, rewards):
    """Return texts that are paid at their first token."""
    wide = torch.zeros_like(trajectories.rewards)
    wide[:, 0] = torch.as_tensor(rewards, dtype=torch.float64)
    return replace(trajectories, rewards=wide)


def rewards_of(trajectories):
    return text_rewards(trajectories, trajectories.rewards).tolist()


@pytest.fixture(scope="module")
def groups_of_six():
    """Return four groups of texts, with an agent of RSO."""
    agent = small_agent("rso", texts_per_prompt=6, accepted_texts=2, rejection_beta=1e-3)
    return agent, with_rewards(collected(agent).trajectories, [1, 5, 2, 6, 3, 4] + [4, 3, 2, 1, 6, 5] * 3)


def test_rejection_sampling_at_a_low_temperature_accepts_the_best(groups_of_six):
    agent, texts = groups_of_six
    chosen = agent.config.select(texts, generator())
    assert rewards_of(chosen) == [6, 5] * 4
    assert chosen.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_rejection_sampling_at_a_high_temperature_accepts_all(groups_of_six):
    agent, texts = groups_of_six
    config = replace(agent.config, accepted_texts=6, rejection_beta=1e6)
    assert rewards_of(config.select(texts, generator())) == [5, 1, 6, 2, 4, 3] + [4, 3, 2, 1, 6, 5] * 3


def test_in_a_tournament_the_better_texts_of_pairs_are_paired_again(groups_of_six):
    agent, texts = groups_of_six
    config = replace(agent.config, accepted_texts=6, rejection_beta=1e6, pairing="tournament")
    assert rewards_of(config.select(texts[torch.arange(6)], generator())) == [5, 1, 6, 2, 4, 3, 6, 5, 6, 4]


def test_rejection_sampling_accepts_with_the_probabilities_of_rewards(groups_of_six):
    """After the best text, which always passes, comes the second one with a probability of 7/16.

    In the first round the second and the third one pass with ¼ and ½. If neither does, the third one is the best of
    the next round, in which the second one passes with ½, and is the first of the two to be accepted.
    """
    agent, texts = groups_of_six
    beta, draws = 2.0, generator()
    config = replace(agent.config, rejection_beta=beta)
    second, third = -beta * math.log(4), -beta * math.log(2)
    group = with_rewards(texts[torch.arange(6)], [0.0, second, third, -1e9, -1e9, -1e9])
    pairs = [rewards_of(config.select(group, draws)) for _ in range(600)]
    assert all(first == 0.0 and other in (second, third) for first, other in pairs)
    assert sum(other == second for _, other in pairs) / 600 == pytest.approx(7 / 16, abs=0.06)


def test_groups_without_signal_are_left_out():
    agent = small_agent("dapo", texts_per_prompt=4)
    texts = with_rewards(collected(agent).trajectories, [1, 1, 1, 1] + [1, 1, 1, 2] + [3, 3, 3, 3] * 3 + [4, 5, 6, 7])
    assert rewards_of(agent.config.select(texts, generator())) == [1, 1, 1, 2, 4, 5, 6, 7]
    config = replace(agent.config, drop_groups=False)
    assert len(config.select(texts, generator())) == EPISODES


@pytest.fixture(scope="module")
def references():
    """Return texts that references wrote, the first eight of them with advantages from −3 to 4."""
    agent = small_agent("a-lol")
    return with_rewards(collected(agent).trajectories, range(-3, EPISODES - 3))[torch.arange(8)]


@pytest.mark.parametrize("variant", ["ratio", "ref_free", "token_ratio", "kl"])
def test_texts_that_are_no_better_are_left_out_in_every_variant(references, variant):
    config = small_agent("a-lol", variant=variant).config
    assert rewards_of(config.select(references, generator())) == [1, 2, 3, 4]
    assert len(config.select(with_rewards(references, [-1] * 7 + [0]), generator())) == 0


def test_texts_are_drawn_in_proportion_to_their_advantages(references):
    config, draws = small_agent("a-lol", draw_by_advantage=True).config, generator()
    drawn = [reward for _ in range(500) for reward in rewards_of(config.select(references, draws))]
    assert len(drawn) == 2000  # as many as there are above 0
    shares = [drawn.count(reward) / 2000 for reward in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.04)


def test_the_values_of_vineppo_are_those_of_the_policy():
    """Where the policy is certain of its text, its value is what the rest of the text is paid."""
    agent = small_agent("vineppo", rollout_every=2, rollout_texts=3)
    with certain(agent.policy):
        batch = collected(agent)
    others = 0
    for row, (prompt, tokens) in enumerate(texts_of(batch.trajectories.texts)):
        rewards = paid(prompt, tokens)
        for t in range(0, len(tokens), 2):
            assert float(batch.learned.values[row, t]) == pytest.approx(sum(rewards[t:]), abs=1e-9)
        others += tokens != greedy(agent.learner.ref_policy.model, prompt)
    assert others  # the reference policy would have written something else


def test_optimal_values_are_kept_for_each_example():
    """V* = β log mean e^{r/β} of the texts of an example, which are written once."""
    agent, asked = small_agent("a-star-po", value_beta=0.5), []

    def rewards_of_rows(rows):
        asked.extend(rows.tolist())
        return torch.stack([examples[rows].double(), examples[rows].double() + 1], 1)

    examples = torch.tensor([4, 5, 4, 12, 68])
    spread = 0.5 * math.log((1 + math.exp(1 / 0.5)) / 2)
    found = agent.learner.baseline_values(examples, rewards_of_rows)
    assert found.tolist() == pytest.approx([name + spread for name in examples.tolist()])
    assert asked == [0, 1, 3, 4]
    examples = torch.arange(200)
    found = agent.learner.baseline_values(examples, rewards_of_rows)
    assert found.tolist() == pytest.approx([name + spread for name in examples.tolist()])
    assert len(asked) == 4 + 200 - 4


def test_log_probabilities_under_the_reference_policy_are_kept_for_each_prompt_and_text():
    agent = small_agent("dpo")
    trajectories, credit = collected(agent).trajectories, agent.learner.credit
    texts = texts_of(trajectories.texts)
    by_completion = {tuple(tokens) for _, tokens in texts}
    assert len(by_completion) < len({(tuple(prompt), tuple(tokens)) for prompt, tokens in texts})
    for _ in range(2):  # scored, then kept
        scored = credit.add_reference_and_values(trajectories, None).ref_logprobs
        for row, (prompt, tokens) in enumerate(texts):
            logits = logits_of(agent.learner.ref_policy.model, prompt, tokens) / TEMPERATURE
            right = logits.log_softmax(-1)[range(len(tokens)), tokens]
            assert float((scored[row, : len(tokens)] - right).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["dpo", "ipo", "a-lol"])
def test_the_kl_is_that_of_texts_which_the_policy_samples(name):
    """A policy that is certain of its text has the KL −log π_ref of that text."""
    agent = small_agent(name)
    batch = collected(agent)
    size = batch.trajectories.group_size
    with certain(agent.policy):
        right = [
            kl_of_text(agent, prompt, greedy(agent.policy.model, prompt))
            for prompt, _ in texts_of(batch.trajectories.texts)[::size][:16]
        ]
        kl = updated(agent, batch, noise=0.0).metrics["kl"]
    assert kl == pytest.approx(sum(right) / len(right), abs=1e-9)


def kl_of_text(agent, prompt, tokens):
    logits = logits_of(agent.learner.ref_policy.model, prompt, tokens) / TEMPERATURE
    return -float(logits.log_softmax(-1).detach()[range(len(tokens)), tokens].sum())
