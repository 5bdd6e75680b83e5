"""Collection writes the same texts for all autoreset modes, numbers of rows, and native or single environments."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from doubles import (
    EOS,
    MANY_EOS,
    Foreign,
    ForeignDense,
    G,
    OneToken,
    P,
    foreign_envs,
    generator,
    language_model,
    policy_of,
    ragged_texts,
    same,
    toy_plan,
)
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import TransformReward

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Guide, LMPolicy, Plan, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.envs.toy import ToyRules, toy_rewards
from tril_gym.rewards import Score
from tril_gym.wrappers import TextReward


def toy_envs(num_envs: int, mode: str, native: bool, **settings) -> VectorEnv:
    if native:
        return gym.make_vec("tril/Toy-v0", num_envs=num_envs, autoreset_mode=mode, **settings)
    make = [lambda: gym.make("tril/Toy-v0", disable_env_checker=True, **settings)] * num_envs
    return SyncVectorEnv(make, autoreset_mode=mode)


@pytest.fixture(scope="module", params=[False, True], ids=["terminal", "dense"])
def dense(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def expected(dense):
    """Return sixteen texts, one per row."""
    trajectories = collect(
        toy_envs(16, "NextStep", False, dense=dense), toy_plan(), episodes=16, generator=generator(5)
    )
    assert 4 < int((trajectories.switch > 0).sum()) < 16
    assert len(set(trajectories.lengths.tolist())) > 2
    return trajectories


@pytest.mark.parametrize("num_envs", [4, 16, 20])
@pytest.mark.parametrize("native", [False, True], ids=["single", "native"])
def test_same_texts_in_every_environment(num_envs, native, autoreset_mode, dense, expected):
    envs = toy_envs(num_envs, autoreset_mode, native, dense=dense)
    trajectories = collect(envs, toy_plan(), episodes=16, generator=generator(5))
    assert same(trajectories, expected)
    # Each row's info is its own.
    for info, tokens, length in zip(
        trajectories.infos, trajectories.tokens.tolist(), trajectories.lengths.tolist(), strict=True
    ):
        assert list(info["tokens"]) == tokens[:length]
        assert info["completion"] == " ".join(f"w{token}" for token in tokens[:length] if token > 1)
    assert [info["example"] for info in trajectories.infos] == trajectories.examples.tolist()


def test_control_another_seed_writes_other_texts(expected, dense):
    envs = toy_envs(16, "NextStep", True, dense=dense)
    assert not same(collect(envs, toy_plan(), episodes=16, generator=generator(6)), expected)


def test_second_collection_draws_on_from_the_generator():
    draws, envs = generator(5), toy_envs(8, "Disabled", True)
    one, two = (collect(envs, toy_plan(), episodes=8, generator=draws) for _ in range(2))
    assert not torch.equal(one.prompts, two.prompts)


def test_toy_rewards_follow_the_rule(expected, dense):
    rules = ToyRules("count", dense)
    completions = np.where(expected.is_token, expected.tokens, -1)
    totals = toy_rewards(ToyRules("count"), expected.prompts.numpy(), completions, expected.lengths.numpy(), np.True_)
    np.testing.assert_allclose(expected.rewards.sum(1), totals, atol=1e-12)
    assert totals.std() > 0
    if rules.dense:
        good = torch.isin(expected.tokens, torch.from_numpy(rules.good_words)) & expected.is_token
        assert torch.equal(expected.rewards > 0, good)
    else:
        columns = torch.arange(8) == expected.lengths.unsqueeze(1) - 1
        assert expected.rewards[~columns].eq(0).all()


class Recorder(VectorWrapper):
    """Adds up the rewards of an environment, and records its resets."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.paid, self.resets = 0.0, []

    def reset(self, *, seed=None, options=None):
        self.resets.append({name: value for name, value in (options or {}).items() if name != "defer"})
        return self.env.reset(seed=seed, options=options)

    def step(self, actions):
        result = self.env.step(actions)
        self.paid += float(result[1].sum())
        return result


@pytest.mark.parametrize("dense", [False, True])
def test_every_reward_is_credited(dense):
    envs = Recorder(toy_envs(8, "Disabled", True, dense=dense))
    trajectories = collect(envs, toy_plan(), episodes=24, generator=generator(1))
    assert trajectories.rewards.sum().item() == pytest.approx(envs.paid)
    assert envs.paid > 0
    # Rows with a rollin are restarted at their switch, unless the rollin's own tokens are rewarded.
    masked = [options for options in envs.resets if "reset_mask" in options]
    assert len(masked) == (0 if dense else 3)
    if not dense:
        moved = np.concatenate([options["reset_mask"] for options in masked])
        assert moved.tolist() == (trajectories.switch > 0).tolist()


def test_foreign_wrapper_changes_nothing():
    plain, wrapped = toy_envs(8, "Disabled", True), toy_envs(8, "Disabled", True)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(wrapped)
    one, two = (collect(envs, toy_plan(), episodes=16, generator=generator(2)) for envs in (plain, wrapped))
    assert same(one, two)


@pytest.mark.parametrize("rollin_prob", [0.0, 0.7])
def test_dense_rewards_of_a_foreign_environment(autoreset_mode, rollin_prob):
    guide = Guide(policy_of("gpt2", seed=1))
    plan = Plan(rollout=policy_of("gpt2"), rollin=guide, rollin_prob=rollin_prob)
    envs = foreign_envs(8, env=ForeignDense, mode=autoreset_mode, eos_token_ids=MANY_EOS)
    trajectories = collect(envs, plan, episodes=20, generator=generator(3))
    expected = trajectories.tokens + torch.arange(8) / 100
    expected = torch.where(trajectories.is_token, expected.double(), 0.0)
    torch.testing.assert_close(trajectories.rewards, expected, rtol=0, atol=1e-6)
    assert trajectories.examples.eq(-1).all()  # the environment reports none
    assert trajectories.terminated.all()
    assert len(set(trajectories.lengths.tolist())) > 2


def test_same_texts_for_foreign_rows_and_modes():
    plan = Plan(rollout=policy_of("gpt2", dtype=torch.float64))
    batches = [
        collect(foreign_envs(rows, mode=mode, eos_token_ids=MANY_EOS), plan, episodes=12, generator=generator(3))
        for rows in (3, 12, 16)
        for mode in ("NextStep", "SameStep", "Disabled")
    ]
    assert all(same(batch, batches[0]) for batch in batches)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_dropped_rows_change_no_other_text(family):
    policy = policy_of(family, dtype=torch.float64)
    texts, layout = ragged_texts(9), TextLayout.of(foreign_envs(1, eos_token_ids=MANY_EOS))
    texts = texts.with_completions([[]] * 9)
    draws = torch.rand((9, 8), generator=generator(1), dtype=torch.float64)
    written = write_completions(policy, texts, [{}] * 9, layout, draws)
    assert len(set(written.written)) > 2
    for row in range(9):
        one = slice(row, row + 1)
        alone = write_completions(policy, texts[one], [{}], layout, draws[one])
        np.testing.assert_array_equal(alone.tokens, written.tokens[one])
        np.testing.assert_array_equal(alone.written, written.written[one])
        np.testing.assert_allclose(alone.logprobs, written.logprobs[one], atol=1e-9)
    # Control: other draws give other texts.
    other = write_completions(policy, texts, [{}] * 9, layout, draws.flip(0))
    assert not np.array_equal(other.tokens, written.tokens)


class TestEOS:
    """A terminal reward is credited to EOS, and EOS is learned, even where its id is that of padding."""

    @staticmethod
    def terminal(eos: int):
        class Terminal(Foreign):
            def step(self, action):
                observation, _, terminated, truncated, info = super().step(action)
                return observation, float(terminated), terminated, truncated, info

        return foreign_envs(4, env=Terminal, eos_token_ids=[eos])

    @pytest.mark.parametrize("eos", [0, EOS])
    def test_last_token_is_rewarded(self, eos):
        policy = OneToken(P, lengths=(1, 2, 5, 99), logprob=-1.0, eos=eos)
        trajectories = collect(self.terminal(eos), Plan(rollout=policy), episodes=4, generator=generator())
        assert trajectories.lengths.tolist() == [1, 2, 5, 8]
        assert trajectories.rewards.tolist() == [[float(t == n - 1) for t in range(8)] for n in (1, 2, 5, 8)]
        assert trajectories.tokens[0].tolist() == [eos, 0, 0, 0, 0, 0, 0, 0]
        assert trajectories.old_logprobs[0].tolist() == [-1.0, 0, 0, 0, 0, 0, 0, 0]
        assert torch.equal(trajectories.learn, trajectories.is_token)

    def test_eos_is_scored_as_any_other_token(self, family):
        envs = self.terminal(0)
        model = language_model(family, eos_token_id=0, pad_token_id=0, dtype=torch.float64)
        model.get_output_embeddings().weight.data[0] *= 2.0
        policy, layout = LMPolicy(model, None), TextLayout.of(envs)
        trajectories = collect(envs, Plan(rollout=policy), episodes=64, generator=generator(1))
        ends = trajectories.tokens.eq(0) & trajectories.is_token
        assert ends.sum() > 3
        assert torch.equal(ends.any(1) | trajectories.lengths.eq(8), torch.ones(64, dtype=torch.bool))
        with torch.no_grad():
            scored = policy.token_logprobs(trajectories.texts, layout).logprobs
        torch.testing.assert_close(scored[ends], trajectories.old_logprobs[ends], rtol=0, atol=1e-9)
        assert trajectories.old_logprobs[ends].lt(0).all()


class TestChosenExamples:
    def test_texts_are_written_for_chosen_examples(self):
        names = [5, 5, 0, 63, 1, 2, 3]
        envs = toy_envs(4, "Disabled", True)
        trajectories = collect(envs, toy_plan(), episodes=7, generator=generator(), examples=names)
        assert trajectories.examples.tolist() == names
        assert torch.equal(trajectories.prompts[0], trajectories.prompts[1])

    def test_refused_where_rows_cannot_restart(self):
        with pytest.raises(ValueError, match=r'restart="rows"; got 2 and restart=None'):
            collect(foreign_envs(2), Plan(rollout=OneToken(P)), episodes=2, generator=generator(), examples=[0, 1])

    def test_refused_unless_one_per_text(self):
        with pytest.raises(ValueError, match="one example for each of the 3 episodes"):
            collect(toy_envs(2, "Disabled", True), toy_plan(), episodes=3, generator=generator(), examples=[0, 1])


class TestBrokenEnvironments:
    def test_continues_after_eos(self):
        envs = foreign_envs(4, ends_at_eos=False)
        with pytest.raises(
            ValueError, match=r"row 1 continues after EOS .* check eos_token_ids, stop and max_new_tokens"
        ):
            collect(envs, Plan(rollout=OneToken(P, lengths=(99, 3))), episodes=4, generator=generator())

    def test_continues_after_the_last_token(self):
        class Longer(Foreign):
            def step(self, action):
                observation, reward, terminated, truncated, info = super().step(action)
                return observation, reward, terminated and self.written < 8, truncated, info

        with pytest.raises(ValueError, match=r"continues after EOS or its token 8"):
            collect(SyncVectorEnv([Longer] * 2), Plan(rollout=OneToken(P)), episodes=2, generator=generator())

    def test_no_metadata(self):
        with pytest.raises(ValueError, match=r'no metadata\["text"\]'):
            TextLayout.of(gym.make_vec("CartPole-v1", num_envs=1, vectorization_mode="sync"))

    def test_metadata_that_lack_something(self):
        envs = foreign_envs(1)
        del envs.metadata["text"]["vocab_size"]
        with pytest.raises(ValueError, match=r'metadata\["text"\] lacks vocab_size; it must have max_prompt_length,'):
            TextLayout.of(envs)

    def test_a_single_environment(self):
        with pytest.raises(TypeError, match=r"agents step vector environments, got Foreign; use gym.make_vec"):
            TextLayout.of(Foreign())

    def test_zero_episodes(self):
        with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
            collect(foreign_envs(1), Plan(rollout=OneToken(P)), episodes=0, generator=generator())

    def test_empty_prompt(self):
        class Promptless(Foreign):
            def reset(self, *, seed=None, options=None):
                observation, info = super().reset(seed=seed)
                observation[:4] = -1
                return observation, info

        envs = foreign_envs(2, env=Promptless)
        with pytest.raises(ValueError, match="text 0 of the batch has an empty prompt"):
            collect(envs, Plan(rollout=policy_of("gpt2")), episodes=2, generator=generator())


def test_filler_is_eos_for_idle_rows_only():
    """Where a row that has ended is reset at once, EOS would end a short text at every other step."""

    class Watched(VectorWrapper):
        actions: list

        def step(self, actions):
            self.actions = [*getattr(self, "actions", []), np.array(actions)]
            return self.env.step(actions)

    plan = Plan(rollout=OneToken(G, lengths=(2, 8)))
    idle, busy = Watched(toy_envs(2, "Disabled", True)), Watched(toy_envs(2, "NextStep", True))
    for envs in (idle, busy):
        collect(envs, plan, episodes=2, generator=generator())
    assert [int(actions[0]) for actions in idle.actions] == [G] + [EOS] * 7
    assert [int(actions[0]) for actions in busy.actions][:2] == [G, EOS]
    assert EOS not in [int(actions[0]) for actions in busy.actions][2:]


@pytest.mark.parametrize("native", [False, True], ids=["single", "native"])
def test_a_wrapper_of_all_rewards_pays_each_token_once(native, autoreset_mode, expected, dense):
    # A constant reaches idle rows too, and is missing where a rollin is not stepped: neither may change a text's pay.
    plain = toy_envs(16, autoreset_mode, native, dense=dense)
    envs = TransformReward(plain, lambda rewards: rewards - 0.1)
    found = collect(envs, toy_plan(), episodes=16, generator=generator(5))
    assert torch.allclose(found.rewards, torch.where(expected.is_token, expected.rewards - 0.1, 0.0))


def test_a_wrapper_of_all_rewards_around_late_ones(autoreset_mode):
    def collected(**settings):
        envs = gym.make_vec("tril/CommonGen-v0", num_envs=4, autoreset_mode=autoreset_mode, **settings)
        writer = OneToken(7, lengths=(3, 5, 99), eos=TextLayout.of(envs).eos_token_ids[0])
        envs = TransformReward(envs, lambda rewards: rewards - 0.1)
        return collect(envs, Plan(rollout=writer), episodes=8, generator=generator(5))

    quick, slow = collected(reward=lengths_of), collected(reward=SlowLengths())
    assert len(set(quick.lengths.tolist())) > 2
    assert torch.allclose(slow.rewards, quick.rewards)


def test_rewards_that_are_paid_late_come_through_a_wrapper():
    def collected(wrapped):
        envs = gym.make_vec("tril/CommonGen-v0", num_envs=4, autoreset_mode="Disabled", reward=None)
        envs = TextReward(envs, SlowLengths(), defer=True)
        writer = OneToken(7, lengths=(3, 5, 99), eos=TextLayout.of(envs).eos_token_ids[0])
        envs = TransformReward(envs, lambda rewards: 2 * rewards) if wrapped else envs
        return collect(envs, Plan(rollout=writer), episodes=8, generator=generator(5)).rewards

    assert (collected(False).sum(1) > 0).all()
    assert torch.allclose(collected(True), 2 * collected(False))


def lengths_of(prompts, completions, references, extras):
    return [len(completion) / 100 for completion in completions]


class SlowLengths(Score):
    name, slow = "slow_lengths", True

    def __call__(self, prompts, completions, references, extras):
        return lengths_of(prompts, completions, references, extras)


def test_a_limit_counts_the_tokens_of_a_rollin(autoreset_mode):
    native = gym.make_vec("tril/Toy-v0", num_envs=16, autoreset_mode=autoreset_mode, max_episode_steps=4)
    make = [lambda: gym.make("tril/Toy-v0", disable_env_checker=True, max_episode_steps=4)] * 16
    single = SyncVectorEnv(make, autoreset_mode=autoreset_mode)
    one, other = (collect(envs, toy_plan(), episodes=16, generator=generator(5)) for envs in (native, single))
    assert int(one.lengths.max()) == 4
    assert ((one.switch > 0) & (one.lengths == 4)).any()
    assert same(one, other)
