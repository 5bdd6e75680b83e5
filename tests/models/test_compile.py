"""Compiled learning learns the same. Traced by dynamo for real, but run without the minutes of a code generator."""

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of

from tril_gym.agents import PPO, Guide, Plan, PPOConfig, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.models.compiled import CompiledDecoder
from tril_gym.models.texts import Texts


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
def test_compiled_training_equals_eager_training(compiled_parts):
    losses = []
    for compiles in (False, True):
        numbers = PPOConfig(minibatch_size=4, learning_rate=1e-3, epochs=2, critic="shared", compile=compiles)
        policy = policy_of("gpt2", n_layer=1, dtype=torch.float64)
        agent = PPO(policy, foreign_envs(4, eos_token_ids=MANY_EOS), numbers)
        agent.learn(1, callbacks=[lambda report: losses.append(report.metrics["policy/loss"])])
    assert compiled_parts == ["GPT2Model"]
    assert losses[1] == pytest.approx(losses[0], abs=1e-8)


@pytest.mark.parametrize(("family", "parts"), [("llama", ["LlamaModel"]), ("t5", ["T5Stack", "T5Stack"])])
def test_bodies_are_compiled(family, parts, compiled_parts):
    policy_of(family).language_model.compile()  # nothing is traced before it is called
    assert compiled_parts == parts


def test_a_head_that_is_more_than_a_layer_is_refused():
    policy = policy_of("bart")
    policy.model.final_logits_bias += 1.0
    with pytest.raises(ValueError, match="compile=True needs a model whose logits"):
        ActorCritic(policy, PPOConfig(compile=True), TextLayout.of(foreign_envs(1)))


@pytest.fixture
def traced(monkeypatch):
    """Sizes of the masks that are written with; nothing waits for a code generator."""
    compile_function, sizes = torch.compile, []

    def traced_and_counted(function, **settings):
        compiled = compile_function(function, dynamic=settings["dynamic"], backend="aot_eager")

        def call(embedded, mask, *more):
            sizes.append((mask.shape[0], mask.shape[3]))
            return compiled(embedded, mask, *more)

        return call

    monkeypatch.setattr(torch, "compile", traced_and_counted)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **settings: None)  # learning is not the matter here
    yield sizes
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "rollin_prob"), [pytest.param("gpt2", 0.0, marks=pytest.mark.slow), ("llama", 0.7)])
def test_compiled_writing_equals_eager_writing(family, rollin_prob, traced):
    """Prompts and rollins of any length, texts that end at any token."""
    texts = []
    for compiles in (False, True):
        policy = policy_of(family, dtype=torch.float64)  # so that rounding decides no token
        guide = Guide(policy_of(family, dtype=torch.float64, seed=1))
        if compiles:
            policy.language_model.compile()
        plan = Plan(rollout=policy, rollin=guide, rollin_prob=rollin_prob)
        envs = foreign_envs(12, eos_token_ids=MANY_EOS)
        for _ in range(2):  # again, in memory that was used before
            generator = torch.Generator().manual_seed(0)
            texts.append(collect(envs, plan, episodes=12, generator=generator))
    assert {12} <= {rows for rows, _ in traced} <= {12, 6, 3, 2, 1}
    assert len(traced) > 2 * 6  # passes
    assert len({columns for _, columns in traced}) == 1
    for found in texts[1:]:
        torch.testing.assert_close(found.tokens, texts[0].tokens, rtol=0, atol=0)
        torch.testing.assert_close(found.old_logprobs, texts[0].old_logprobs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("rows", "texts", "fit"), [(12, 12, 12), (12, 7, 12), (12, 6, 6), (12, 4, 6), (5, 3, 3), (5, 1, 1)]
)
def test_rows_are_halved(rows, texts, fit):
    decoder = object.__new__(CompiledDecoder)
    decoder._mask = torch.zeros(rows, 1)
    assert decoder.batch_size_for(texts) == fit


@pytest.mark.filterwarnings("ignore")
def test_memory_is_used_again(traced):
    policy, envs = policy_of("gpt2"), foreign_envs(4, eos_token_ids=MANY_EOS)
    policy.language_model.compile()
    places = []
    for _ in range(3):
        collect(envs, Plan(rollout=policy), episodes=4, generator=torch.Generator().manual_seed(0))
        compiled = policy.language_model.backbone.compiled
        pool = compiled._pool
        places.append({memory.layers[0].keys.data_ptr() for memories in pool.values() for memory in memories})
    assert places[0] == places[1] == places[2]
    # Two at a time do not write to the same place.
    first = compiled.acquire(next(iter(pool.values()))[0], 4, 64)
    assert first is not compiled.acquire(first, 4, 64)


@pytest.mark.filterwarnings("ignore")
def test_memory_grows_where_a_short_text_begins_beside_one_that_is_nearly_finished(traced, monkeypatch):
    monkeypatch.setattr("tril_gym.models.compiled.COLUMNS_MULTIPLE", 8)
    layout = TextLayout.of(foreign_envs(1, max_prompt_length=4, max_new_tokens=4))
    texts = Texts.from_ids([[5] * 4, [7]], [[6] * 3, []], max_new_tokens=4)  # 7 columns, and 4 tokens to write
    draws, written = torch.rand((2, 4), generator=generator(), dtype=torch.float64), []
    for compiles in (False, True):
        policy = policy_of("gpt2", n_layer=1, dtype=torch.float64)
        if compiles:
            policy.language_model.compile()
        written.append(write_completions(policy, texts, [{}] * 2, layout, draws))
    assert {columns for _, columns in traced} == {8, 16}
    assert written[0].tokens.tolist() == written[1].tokens.tolist()
    assert abs(written[0].logprobs - written[1].logprobs).max() < 1e-9


@pytest.mark.filterwarnings("ignore")
@torch.inference_mode()
def test_what_an_earlier_batch_left_in_memory_changes_nothing(traced):
    policy, envs = policy_of("gpt2", n_layer=1), foreign_envs(2)
    policy.language_model.compile()
    found = []
    for _ in range(2):
        found.append(collect(envs, Plan(rollout=policy), episodes=2, generator=generator()).old_logprobs)
        for memory in next(iter(policy.language_model.backbone.compiled._pool.values())):
            memory.layers[0].values.fill_(torch.nan)
    assert torch.equal(*found)


@pytest.mark.filterwarnings("ignore")
def test_predictions_use_memory_again(traced):
    policy, envs = policy_of("gpt2"), foreign_envs(4)
    agent = PPO(policy, envs, PPOConfig(check_model=False))
    policy.language_model.compile()
    observations, _ = envs.reset(seed=0)
    for _ in range(3):
        agent.predict(observations)
    (memories,) = policy.language_model.backbone.compiled._pool.values()
    assert len(memories) == 1


def test_sliding_windows_are_not_compiled(traced):
    policy = policy_of("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    policy.language_model.compile()
    collect(foreign_envs(2), Plan(rollout=policy), episodes=2, generator=torch.Generator().manual_seed(0))
    assert not traced
