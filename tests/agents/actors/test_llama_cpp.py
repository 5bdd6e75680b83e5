"""The protocol against llama.cpp's own server, with a tiny GPT-2 whose probabilities are known."""

import pytest
import torch
from doubles import generator, same
from text_doubles import ids_of

from tril_gym.agents import (
    BC,
    PPO,
    Guide,
    LMPolicy,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
    collect,
    tiny_policy,
)

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install tril-gym[dev]")
pytest.importorskip("gguf", reason="gguf is not installed; pip install tril-gym[dev]")
import gymnasium as gym
from llama_server import LlamaServer, llama_server

from tril_gym.agents.actors.inference_server import InferenceServer
from tril_gym.agents.actors.served_policy import ServedPolicy
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.servers import ServerAddress, ServerConfig


def make_envs(**settings):
    return gym.make_vec("tril/CommonGen-v0", num_envs=8, autoreset_mode="Disabled", **settings)


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(make_envs(), samples=64)


@pytest.fixture(scope="module")
def envs():
    return make_envs(max_new_tokens=16)  # of fewer tokens than the model has room for: llama.cpp needs one for itself


@pytest.fixture
def url(policy, tmp_path):
    with llama_server(policy, tmp_path) as found:
        yield found


def test_ids_are_exchanged_and_each_seed_gives_its_text(envs, url):
    guide = Guide.from_server(url, "tiny")
    plan = Plan(rollout=guide)
    found = collect(envs, plan, episodes=16, generator=generator(1))
    assert not guide.reads_text(TextLayout.of(envs))
    assert same(collect(envs, plan, episodes=16, generator=generator(1)), found)
    assert not same(collect(envs, plan, episodes=16, generator=generator(2)), found)
    assert len({tuple(ids) for ids in ids_of(found)}) == 16
    assert guide.metrics()["guide/failures"] == 0
    prompts = [envs.unwrapped.tokenizer.decode(found.texts.prompt_ids(row)) for row in range(16)]
    assert prompts == [info["prompt"] for info in found.infos]


def test_text_is_exchanged_on_request(envs, url):
    guide = Guide.from_server(url, "tiny", token_ids=False)
    found = collect(envs, Plan(rollout=guide), episodes=8, generator=generator(1))
    assert guide.reads_text(TextLayout.of(envs))
    assert max(found.lengths.tolist()) > 3


def test_training_with_a_guide(envs, policy, url):
    learner = tiny_policy(envs, samples=0)
    agent = PPOPlusPlus(learner, f"{url}#tiny", envs, PPOPlusPlusConfig(rollin_prob=0.7))
    history = agent.learn(2, progress=False)
    assert [row["iteration"] for row in history] == [1, 2]
    assert all(row["rollin/share"] > 0 for row in history)


class TestPolicy:
    """The policy's own texts, written by the server."""

    @pytest.fixture
    def served(self, policy, tmp_path):
        llama = LlamaServer(tmp_path)
        llama.start(policy)
        server = InferenceServer(ServerAddress.parse(llama.url, "tiny"), Decoding(), ServerConfig(retries=2, pause=0.1))
        copy = LMPolicy(policy.frozen_copy().model.requires_grad_(True), policy.tokenizer)
        yield ServedPolicy(copy, server, lambda policy, server, version: llama.start(policy))
        llama.stop()

    @torch.no_grad()
    def test_log_probabilities_are_those_of_the_policy(self, served, envs):
        served.check(TextLayout.of(envs))
        found = collect(envs, Plan(rollout=served), episodes=16, generator=generator(1))
        scored = served.policy.token_logprobs(found.texts, TextLayout.of(envs)).logprobs
        known = found.is_token & ~found.old_logprobs.isnan()
        assert float(known.sum() / found.is_token.sum()) > 0.8  # llama.cpp has none inside of characters
        assert float((scored - found.old_logprobs)[known].abs().max()) < 1e-3

    @torch.no_grad()
    def test_changed_weights_change_the_answers(self, served, envs):
        def written():
            return ids_of(collect(envs, Plan(rollout=served), episodes=8, generator=generator(1)))

        first = written()
        assert written() == first
        assert served.version == 1
        weights = served.policy.model.transformer.wte.weight
        weights.mul_(1.5)
        assert written() != first
        assert served.version == 2
        weights.div_(1.5)
        assert written() == first

    def test_training_with_a_server_that_writes(self, served, envs):
        policy = tiny_policy(envs, samples=64)
        config = PPOConfig(sampling_correction="token", learning_rate=1e-3)
        agent = PPO(policy, envs, config)
        agent.write_with(ServedPolicy(policy, served.server, served.hand_over))
        history = agent.learn(3, progress=False)
        assert agent.writer.version == 3  # one for each iteration
        assert all(row["policy/sampling_error_max"] < 1e-3 for row in history)
        assert all(row["policy/importance_share"] > 0.99 for row in history)
        assert all(row["server/requests"] == 8 for row in history)


def test_a_writer_must_fit_the_agent(envs, policy, url):
    def put(*parts):
        raise AssertionError("no weights are handed over")

    other, own = (ServedPolicy.from_server(it, f"{url}#tiny", put) for it in (policy, tiny_policy(envs, samples=0)))
    with pytest.raises(ValueError, match="weights of this agent's policy"):
        PPO(own.policy, envs, PPOConfig(sampling_correction="token")).write_with(other)
    with pytest.raises(ValueError, match=r"sampling_correction=.token.\); ppo has it"):
        PPO(own.policy, envs).write_with(own)
    with pytest.raises(ValueError, match="bc has none"):
        BC(own.policy, envs).write_with(own)
