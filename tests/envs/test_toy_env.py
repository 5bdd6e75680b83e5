"""The toy environment: optimum and values of guides, compared with enumeration and with episodes."""

import itertools

import numpy as np
import pytest

from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import (
    EOS,
    ToyRules,
    guide_tokens,
    guide_value,
    optimal_completions,
    optimal_value,
    toy_config,
    toy_rewards,
)

RULES = [("count", False), ("count", True), ("sparse", False), ("prefix", False), ("stop", False)]
PROMPTS = np.array([[-1, -1, 3, 2], [2, 4, 3, 3], [-1, 4, 4, 2]])


def all_prompts(config):
    return config.prompts.rows(np.arange(len(config.examples)))


def total_reward(rules, prompts, tokens):
    """Return the total reward of whole texts, token by token: (n, T) with -1 after the end -> (n,)."""
    total, ended = np.zeros(len(tokens)), np.zeros(len(tokens), bool)
    for t in range(tokens.shape[1]):
        now = ~ended
        is_end = (tokens[:, t] == EOS) | (t == tokens.shape[1] - 1)
        so_far = np.where(np.arange(tokens.shape[1]) <= t, tokens, -1)
        lengths = np.full(len(tokens), t + 1)
        total[now] += toy_rewards(rules, prompts[now], so_far[now], lengths[now], is_end[now])
        ended |= is_end
    return total


def write_texts(envs, choose, seed):
    """Write a batch of texts to their ends; return the total reward of each."""
    observations, _ = envs.reset(seed=seed)
    total = np.zeros(envs.num_envs)
    for t in range(envs.config.max_new_tokens):
        observations, rewards, *_ = envs.step(choose(observations, t))
        total += rewards
    return total


def noisy(rules, q, rng):
    def choose(observations, t):
        width = observations.shape[1] - rules.max_new_tokens
        completions = observations[:, width:].copy()
        completions[:, t:] = -1  # actions of ended rows are not read
        completions[:, :t] = np.maximum(completions[:, :t], 0)
        return guide_tokens(rules, observations[:, :width], completions, rng.random(len(observations)), q=q)

    return choose


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("rule", "dense"), RULES)
def test_guide_value_equals_enumeration(rule, dense, q):
    """Sum over all texts of a small environment, weighted with the noisy guide's probability."""
    V, T = 5, 4  # noqa: N806
    rules = ToyRules(rule, dense, vocab_size=V, max_new_tokens=T)
    texts = [
        text
        for length in range(1, T + 1)
        for text in itertools.product(range(V), repeat=length)
        if EOS not in text[:-1] and (length == T or text[-1] == EOS)
    ]
    tokens = np.array([text + (-1,) * (T - len(text)) for text in texts])
    for prompt in PROMPTS:
        prompts = np.repeat(prompt[None], len(tokens), axis=0)
        best = optimal_completions(rules, prompts)
        probs = np.where(tokens == -1, 1.0, (1 - q) / V + q * (tokens == best))
        # after the optimal end the guide's best token is EOS; such texts have reward 0 under "sparse" and "stop"
        is_past = (best == -1) & (tokens != -1)
        probs = np.where(is_past, (1 - q) / V + q * (tokens == EOS), probs).prod(axis=1)
        assert probs.sum() == pytest.approx(1.0)
        value = (probs * total_reward(rules, prompts, tokens)).sum()
        assert guide_value(rules, prompt[None], q)[0] == pytest.approx(value)
        assert total_reward(rules, prompts, tokens).max() == pytest.approx(optimal_value(rules))


@pytest.mark.parametrize("q", [0.0, 0.7])
@pytest.mark.parametrize(("rule", "dense"), RULES)
def test_guide_value_equals_the_mean_of_episodes(rule, dense, q):
    config = toy_config(rule=rule, dense=dense)
    rules = ToyRules(rule, dense)
    envs = TextVectorEnv(config, 4000, autoreset_mode="Disabled")
    total = write_texts(envs, noisy(rules, q, np.random.default_rng(0)), seed=0)
    expected = guide_value(rules, all_prompts(config), q).mean()
    error = 4 * max(total.std(), np.sqrt(expected)) / np.sqrt(len(total))  # (a rare success may not have occurred)
    assert total.mean() == pytest.approx(expected, abs=error)
    assert total.mean() != pytest.approx(guide_value(rules, all_prompts(config), 0.9).mean(), abs=error)


@pytest.mark.parametrize("sizes", [{}, {"vocab_size": 4, "max_new_tokens": 2}, {"max_prompt_length": 9}])
@pytest.mark.parametrize(("rule", "dense"), RULES)
def test_references_are_optimal(rule, dense, sizes):
    """A reference, tokenised as by agents (text, then EOS, cut to T), has the optimal reward."""
    config = toy_config(rule=rule, dense=dense, **sizes)
    rules = ToyRules(rule, dense, config.vocab_size, config.max_new_tokens)
    envs = TextVectorEnv(config, len(config.examples), autoreset_mode="Disabled")
    everything = {"example": np.arange(len(config.examples))}
    _, infos = envs.reset(options=everything)
    ids = [config.tokenizer(" " + references[0])["input_ids"] + [EOS] for references in infos["references"]]
    tokens = np.array([(row + [0] * config.max_new_tokens)[: config.max_new_tokens] for row in ids])
    total = np.zeros(envs.num_envs)
    for t in range(config.max_new_tokens):
        total += envs.step(tokens[:, t])[1]
    assert total == pytest.approx(optimal_value(rules))
    assert guide_value(rules, all_prompts(config), 1.0) == pytest.approx(1.0)


def test_count_rewards_only_good_words():
    rules = ToyRules("count", dense=True)
    good, bad = rules.good_words[0], rules.good_words[0] + 1
    for token, reward in ((good, 1 / 8), (bad, 0.0), (EOS, 0.0), (0, 0.0)):
        tokens = np.full((1, 8), -1)
        tokens[0, 0] = token
        assert toy_rewards(rules, PROMPTS[:1], tokens, np.array([1]), np.array([token == EOS])) == [reward]


def test_good_every_sets_the_share_of_good_words():
    config, rules = toy_config(vocab_size=2_000, good_every=8), ToyRules("count", vocab_size=2_000, good_every=8)
    assert len(rules.good_words) == 250
    envs = TextVectorEnv(config, 4_000, autoreset_mode="Disabled")
    total = write_texts(envs, noisy(rules, 0.0, np.random.default_rng(0)), seed=0)
    # 32,000 words, each good with probability 1/8
    assert total.mean() == pytest.approx(0.125, abs=4 * np.sqrt(0.125 * 0.875 / 32_000))


def test_dense_and_final_rewards_have_the_same_sum():
    actions = np.random.default_rng(0).integers(16, size=(8, 50))
    totals = []
    for dense in (True, False):
        envs = TextVectorEnv(toy_config(dense=dense), 50, autoreset_mode="Disabled")
        assert envs.metadata["text"]["dense_reward"] is dense
        totals.append(write_texts(envs, lambda _, t: actions[t], seed=0))
    assert totals[0] == pytest.approx(totals[1])
    assert totals[0].std() > 0


def test_prompts_differ_in_length():
    assert {(row >= 0).sum() for row in all_prompts(toy_config())} == {2, 3, 4}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rule": "win"}, "'win'"),
        ({"rule": "sparse", "dense": True}, 'rule="count"'),
        ({"vocab_size": 3}, "vocab_size"),
        ({"max_new_tokens": 1}, "max_new_tokens"),
        ({"num_examples": 0}, "num_examples"),
        ({"good_every": 0}, "good_every"),
    ],
)
def test_invalid_keywords_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        toy_config(**keywords)


def test_tokens_of_a_noisy_guide():
    # V = 16, q = 1/2: draws in [0, 1/2) are the right token, [1/2, 1) is divided among all sixteen.
    rules, prompts = ToyRules("sparse"), np.repeat(PROMPTS[:1], 5, axis=0)
    draws = np.array([0.0, 0.49, 0.5, 0.5 + 1.01 / 32, np.nextafter(1.0, 0.0)])
    empty = np.full((5, 8), -1)
    assert guide_tokens(rules, prompts, empty, draws, q=0.5).tolist() == [2, 2, 0, 1, 15]
    begun = empty.copy()
    begun[:, 0] = 9  # earlier tokens do not matter, only their number
    assert guide_tokens(rules, prompts, begun, draws, q=1.0).tolist() == [3] * 5
    begun[:, :3] = 9
    assert guide_tokens(rules, prompts, begun, draws, q=1.0).tolist() == [EOS] * 5  # after the end of the optimal text
    assert guide_tokens(rules, prompts, empty, draws, q=0.0).tolist() == [0, 7, 8, 8, 15]
