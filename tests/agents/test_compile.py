"""Compiled learning learns the same. Traced by dynamo for real, but run without the minutes of a code generator."""

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, policy_of

from tril_gym.agents import PPO, PPOConfig, TextLayout
from tril_gym.agents.update import ActorCritic


@pytest.fixture
def compiled_parts(monkeypatch):
    """The modules that are compiled."""
    found, compile_module = [], torch.nn.Module.compile

    def traced(self, **settings):
        found.append(type(self).__name__)
        compile_module(self, **settings, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    yield found
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # dynamo's own, of what it traces
def test_it_learns_what_it_learns_without(compiled_parts):
    losses = []
    for compiles in (False, True):
        numbers = PPOConfig(minibatch_size=4, learning_rate=1e-3, epochs=2, critic="shared", compile=compiles)
        agent = PPO(policy_of("gpt2", dtype=torch.float64), foreign_envs(4, eos_token_ids=MANY_EOS), numbers)
        agent.learn(1, after=lambda report: losses.append(report.metrics["policy/loss"]))
    assert compiled_parts == ["GPT2Model"]
    assert losses[1] == pytest.approx(losses[0], abs=1e-8)


@pytest.mark.parametrize(("family", "parts"), [("llama", ["LlamaModel"]), ("t5", ["T5Stack", "T5Stack"])])
def test_what_is_compiled(family, parts, compiled_parts):
    policy_of(family).compile_for_learning()  # nothing is traced before it is called
    assert compiled_parts == parts


def test_a_head_that_is_more_than_a_layer_is_refused():
    policy = policy_of("bart")
    policy.model.final_logits_bias += 1.0
    with pytest.raises(ValueError, match="compile=True is for models whose logits"):
        ActorCritic(policy, PPOConfig(compile=True), TextLayout.of(foreign_envs(1)))
