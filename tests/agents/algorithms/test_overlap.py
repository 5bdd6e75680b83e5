"""The next batch is written while the policy learns from this one: the same numbers as one after the other."""

import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from doubles import generator, history, policy_of, toy_envs, toy_policy
from rich.console import Console

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    D2LOLS,
    GAIL,
    PPO,
    D2LOLSConfig,
    GAILConfig,
    Guide,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
    collect,
)
from tril_gym.agents.algorithms.overlapped import CollectAhead
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.experiment import RunConsole, configure, resume, train
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks

NUMBERS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "minibatch_size": 8,
    "epochs": 1,
    "kl_coef": 0.1,
    "check_model": False,
}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ppo": (PPO, PPOConfig, {}),
    "LoRA": (PPO, PPOConfig, {}),
    "shared critic": (PPO, PPOConfig, {"critic": "shared", "gradient_checkpointing": True}),
    "ppo-pp": (PPOPlusPlus, PPOPlusPlusConfig, {"rollin_prob": 0.6, "baseline": "rollin"}),
    "successes": (PPOPlusPlus, PPOPlusPlusConfig, {"rollin_prob": 0.9}),
    "d2lols": (D2LOLS, D2LOLSConfig, {"aggrevated_iterations": 1, "target_coef": 0.1}),
    "gail": (GAIL, GAILConfig, {"sampling_correction": "sequence"}),
}


def agent_of(name: str = "ppo", envs: Any = None, **numbers: Any) -> Any:
    agent, config, own = KINDS[name]
    policy = toy_policy().with_lora(2) if name == "LoRA" else toy_policy()
    guides = {"successes": Guide.successes()}
    guide = {"guide": guides.get(name) or Guide(toy_policy(seed=1), top_p=0.9)} if agent.takes_guide else {}
    settings = NUMBERS | {"overlap": True} | own | numbers
    return agent(policy=policy, envs=toy_envs() if envs is None else envs, config=config(**settings), seed=3, **guide)


def weights(policy: Any) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in policy.language_model.state_dict().values()]).clone()


def trained(agent: Any, iterations: int = 3) -> torch.Tensor:
    agent.learn(iterations, progress=False)
    return weights(agent.policy)


def rows_of(agent: Any, iterations: int) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in history(agent, iterations)]


class Watched(gym.vector.VectorWrapper):
    """The toy environment, after what the test wants of the n-th batch."""

    def __init__(self, before: Any = lambda batch: None) -> None:
        super().__init__(toy_envs())
        self.batches, self.before = 0, before

    def reset(self, **settings: Any) -> Any:
        self.batches += 1
        self.before(self.batches)
        return super().reset(**settings)


def one_after_the_other(correction: str = "token", *, is_stale: bool = True) -> torch.Tensor:
    """Return the weights of PPO whose texts are one update old, written and learned from in one thread."""
    envs, policy, own = toy_envs(), toy_policy(), generator(3)
    learner = ActorCritic(policy, PPOConfig(**NUMBERS, sampling_correction=correction), TextLayout.of(envs))

    def write(writer: Any, seed: int) -> Any:
        return collect(envs, Plan(rollout=writer), episodes=12, generator=generator(seed))

    texts = None
    for _ in range(3):
        if texts is None:
            texts = write(policy, int(torch.randint(2**62, (), generator=own)))
        snapshot, seed = policy.frozen_copy(), int(torch.randint(2**62, (), generator=own))
        learner.update(texts, Plan(rollout=policy), generator=own, timer=Timer())
        texts = write(snapshot if is_stale else policy, seed)
    return weights(policy)


class TestNumbers:
    def test_each_batch_is_written_by_the_plan_of_its_own_iteration(self):
        schedule = {"rollin_prob": 1.0, "final_rollin_prob": 0.0, "rollin_iterations": 1, "cut": "uniform_from_prompt"}
        rows = rows_of(agent_of("ppo-pp", **schedule | {"baseline": "none"}), 3)
        assert ["rollin/share" in row for row in rows] == [True, False, False]

    def test_the_copy_writes_with_the_decoding_of_each_actor(self):
        agent = agent_of()
        greedy = agent.policy.with_decoding(Decoding(greedy=True))
        plan = agent.collection_plan(Plan(rollin=greedy, rollin_prob=1.0, rollout=agent.policy))
        assert [actor.decoding for actor in plan.actors] == [greedy.decoding, agent.policy.decoding]
        assert all(actor.model is agent.batches.snapshot.model for actor in plan.actors)

    def test_equal_one_after_the_other(self):
        found = trained(agent_of())
        assert torch.equal(found, one_after_the_other())
        assert torch.equal(trained(agent_of(sampling_correction="sequence")), one_after_the_other("sequence"))

    @pytest.mark.parametrize("control", [{"correction": "none"}, {"is_stale": False}])
    def test_differ_without_weights_or_with_new_texts(self, control):
        assert float((trained(agent_of()) - one_after_the_other(**control)).abs().max()) > 1e-5

    def test_do_not_depend_on_the_time_of_the_thread(self, monkeypatch):
        expected, update = trained(agent_of(), 2), ActorCritic.update
        assert torch.equal(trained(agent_of(envs=Watched(lambda batch: time.sleep(0.3))), 2), expected)

        def late(*arguments, **more):
            time.sleep(0.3)
            return update(*arguments, **more)

        monkeypatch.setattr(ActorCritic, "update", late)
        assert torch.equal(trained(agent_of(), 2), expected)

    def test_the_next_batch_is_written_during_the_update(self, monkeypatch):
        is_begun, update = threading.Event(), ActorCritic.update

        def waits(*arguments, **more):
            assert is_begun.wait(20), "the next batch was not begun"
            return update(*arguments, **more)

        monkeypatch.setattr(ActorCritic, "update", waits)
        envs = Watched(lambda batch: is_begun.set() if batch == 2 else None)
        agent_of(envs=envs).learn(1, progress=False)

    def test_sampling_error_is_that_of_the_snapshot(self):
        reports: list[Any] = []
        agent = agent_of(minibatch_size=5)
        agent.learn(3, callbacks=[reports.append], progress=False)
        last, texts = reports[-1].metrics, reports[-1].trajectories
        assert last["policy/sampling_error_max"] < 1e-5
        assert last["policy/importance_share"] < 0.99
        assert texts.writer_logprobs.isnan().any(1).tolist() == [False] * 5 + [True] * 7
        with torch.no_grad():  # control: the policy that has learned differs from the one that wrote
            now = agent.policy.token_logprobs(texts.texts, agent.layout).logprobs
        assert float((now - texts.old_logprobs).abs().max()) > 1e-2

    def test_times_add_up_without_those_of_the_thread(self):
        (row,) = agent_of(envs=Watched(lambda batch: time.sleep(0.2))).learn(1, progress=False)
        assert row["overlap/score_seconds"] > 0.2
        assert "time/score" not in row


class TestCheckpoint:
    @pytest.mark.parametrize("name", KINDS)
    def test_continues_exactly(self, name, tmp_path):
        straight, stopped = agent_of(name), agent_of(name)
        expected = rows_of(straight, 2)
        found = rows_of(stopped, 1)
        stopped.save(tmp_path)
        loaded = type(stopped).load(tmp_path, envs=toy_envs())
        assert found + rows_of(loaded, 1) == expected
        assert torch.equal(weights(loaded.policy), weights(straight.policy))

    def test_without_overlap_has_no_batch(self, tmp_path):
        agent = agent_of(overlap=False)
        agent.learn(1, progress=False)
        agent.save(tmp_path)
        assert torch.load(tmp_path / "learner.pt", weights_only=True).keys() == {"generator", "learner", "guide", "own"}

    def test_infos_that_no_file_holds_are_refused(self):
        class Odd(gym.vector.VectorWrapper):
            def reset(self, **settings):
                observations, infos = super().reset(**settings)
                return observations, infos | {"odd": [print] * 12, "_odd": [True] * 12}

        with pytest.raises(ValueError, match=r"info of a text has 'odd': builtin.*WithoutInfo\(envs, keep=…\)"):
            agent_of(envs=Odd(toy_envs())).learn(1, progress=False)


class TestRuns:
    def test_resumed_run_is_exact(self, tmp_path):
        small = {"env": "tril/Toy-v0", "tiny_samples": 0, "num_envs": 8, "eval_examples": 2, "eval_every": 0}
        config = configure("ppo", **small, overlap=True, iterations=2, lr_schedule="constant")
        assert config.hyperparameters["sampling_correction"] == "token"
        quiet = {"console": RunConsole(Console(quiet=True))}
        train(config, tmp_path / "straight", **quiet)
        train(replace(config, iterations=1), tmp_path / "longer", **quiet)
        resume(tmp_path / "longer", iterations=2, **quiet)
        one, other = (
            [
                {name: value for name, value in row.items() if "second" not in name and "time/" not in name}
                for row in rows
            ]
            for rows in (RunFolder(tmp_path / name).rows("metrics.jsonl") for name in ("straight", "longer"))
        )
        assert one == other
        assert len(one) == 2
        assert one[1]["policy/importance_share"] < 1


class TestFailures:
    @pytest.mark.parametrize("overlap", [False, True])
    @pytest.mark.parametrize("broken", [1, 2])
    def test_an_error_of_a_reward_comes_where_it_does_without(self, overlap, broken, tmp_path):
        def breaks(batch: int) -> None:
            if batch == broken:
                raise RuntimeError("the reward is down")

        agent, reports = agent_of(envs=Watched(breaks), overlap=overlap), []
        with pytest.raises(RuntimeError, match=r"^the reward is down$"):
            agent.learn(3, callbacks=[lambda report: reports.append(report.iteration)], progress=False)
        assert reports == list(range(1, broken))
        assert (agent.iteration, agent.is_whole) == (broken - 1, True)
        agent.save(tmp_path)
        loaded = PPO.load(tmp_path, envs=toy_envs())
        expected = trained(agent_of(overlap=overlap), 2)
        assert torch.equal(trained(agent, 3 - broken), expected)
        assert torch.equal(trained(loaded, 3 - broken), expected)

    def test_an_error_of_the_update_stops_the_thread(self, monkeypatch):
        def fails(*arguments, **more):
            raise RuntimeError("out of memory")

        agent = agent_of()
        monkeypatch.setattr(ActorCritic, "update", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            agent.learn(1, progress=False)
        assert not agent.is_whole
        assert not [thread for thread in threading.enumerate() if thread.name == "the next batch"]

    def test_a_first_interrupt_keeps_the_iteration(self):
        agent = agent_of()
        stopped = agent.learn(9, callbacks=[lambda report: os.kill(os.getpid(), signal.SIGINT)], progress=False)
        assert (len(stopped), stopped.stopped) == (1, "interrupted")
        assert torch.equal(trained(agent, 2), trained(agent_of()))

    def test_a_second_interrupt_does_not_wait_for_a_reward(self):
        is_over = threading.Event()

        def hangs(batch: int) -> None:
            if batch == 3:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)  # until the first one is handled: two at once would be one
                os.kill(os.getpid(), signal.SIGINT)
                is_over.wait(20)

        agent, begin = agent_of(envs=Watched(hangs)), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            agent.learn(9, progress=False)
        assert time.monotonic() - begin < 10
        is_over.set()
        if agent.is_whole:  # it came while the loop waited; else in the update
            assert torch.equal(trained(agent, 3 - agent.iteration), trained(agent_of()))


class TestRefusals:
    def test_texts_of_older_weights_need_a_correction(self):
        with pytest.raises(ValueError, match="sampling_correction must be token or sequence, got none; leave it out"):
            PPOConfig(overlap=True, sampling_correction="none")
        assert PPOConfig(overlap=True).sampling_correction == "token"
        assert PPOConfig().sampling_correction == "none"

    def test_compiled_passes(self):
        with pytest.raises(ValueError, match="leave compile or overlap out"):
            PPOConfig(overlap=True, compile=True)

    def test_a_critic_that_learns_meanwhile(self):
        D2LOLSConfig(overlap=True, best_of=2, aggrevated_iterations=1)
        with pytest.raises(ValueError, match="best_of_by must be reward, got value"):
            D2LOLSConfig(overlap=True, best_of=2, best_of_by="value", aggrevated_iterations=1)

    def test_baselines_of_sharded_models(self):
        class Shards(Ranks):
            shards = True

        agent = agent_of(overlap=False, baseline="prompt")
        agent.ranks = Shards()
        config = replace(agent.config, overlap=True, sampling_correction="token")
        with pytest.raises(
            ValueError, match="for the baseline 'prompt'; leave the baseline, the shards or overlap out"
        ):
            CollectAhead(policy_of(), agent.learner, config, agent.layout, agent.ranks)
