"""Packing: texts neither overlap nor overflow, and a model scores each as if it were alone."""

import pytest
import torch
import transformers
from doubles import V, alone, foreign_envs, generator, language_model, policy_of, ragged_texts
from hypothesis import given
from hypothesis import strategies as st

from tril_gym.agents import LMPolicy, Plan, PPOConfig, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.models import backbone as backbones
from tril_gym.models.packing import MIN_SAVING, cost, first_fit, pack, supports_packing
from tril_gym.models.texts import Texts

CAUSAL = ("gpt2", "llama", "qwen2")


def test_first_fit_by_hand():
    # Rows of 10. In order 7, 6, 4, 3, 3: 7 opens row 0, 6 row 1; 4 fits behind 6, the first 3 behind 7, the last opens
    # row 2.
    placement = first_fit([3, 6, 4, 7, 3], 10)
    assert placement.shape == (3, 10)
    assert placement.rows == (0, 1, 1, 0, 2)
    assert placement.columns == (7, 0, 6, 0, 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(40, 90))
def test_no_text_overlaps_another_or_leaves_its_row(lengths, width):
    placement = first_fit(lengths, width)
    cells = [
        (row, column + i)
        for row, column, length in zip(placement.rows, placement.columns, lengths, strict=True)
        for i in range(length)
    ]
    assert len(set(cells)) == len(cells) == sum(lengths)
    assert {row for row, _ in cells} == set(range(placement.shape[0]))
    assert max(column for _, column in cells) < width
    # first fit: all rows but one are more than half full
    filled = [sum(length for at, length in zip(placement.rows, lengths, strict=True) if at == row) for row, _ in cells]
    assert sum(2 * full <= width for full in dict(zip((row for row, _ in cells), filled, strict=True)).values()) <= 1


def test_cost_by_hand():
    # 24 D² + 4 W D operations a column, as a multiple of 4 D: at D = 2, W = 5 a column costs 17.
    assert cost((3, 5), 2) == 3 * 5 * 17


def test_states_are_those_before_their_tokens():
    texts = ragged_texts(12)
    packed = pack(texts, 32)
    assert packed is not None
    ids, positions = packed.ids.flatten(), packed.positions.flatten()
    for row in range(12):
        whole = [*texts.prompts[row][texts.is_prompt[row]].tolist(), *texts.tokens[row][texts.is_token[row]].tolist()]
        prompt, length = int(texts.prompt_lengths[row]), int(texts.lengths[row])
        first = int(packed.states[row, 0]) - prompt + 1
        assert ids[first : first + len(whole)].tolist() == whole
        assert positions[first : first + len(whole)].tolist() == list(range(len(whole)))
        # before token t stand the prompt and t tokens, after the end all of them
        before = [first + prompt - 1 + min(t, length) for t in range(texts.tokens.shape[1] + 1)]
        assert packed.states[row].tolist() == before


def test_texts_are_not_packed_for_a_small_saving():
    equal = ragged_texts(1)
    texts = Texts(*(part.expand(8, -1) for part in (equal.prompts, equal.is_prompt, equal.tokens, equal.is_token)))
    assert pack(texts.trimmed(), 32) is None
    ragged = ragged_texts(12)
    packed = pack(ragged, 32)
    assert packed is not None
    assert cost(packed.ids.shape, 32) < (1 - MIN_SAVING) * cost((12, 4 + 8), 32)


def test_texts_without_a_prompt_are_not_packed():
    texts = ragged_texts(12)
    texts.is_prompt[3] = False
    assert pack(texts, 32) is None


@torch.no_grad()
@pytest.mark.parametrize("family", CAUSAL)
def test_packed_states_equal_those_of_single_texts(family):
    model, texts = policy_of(family, dtype=torch.float64).model, ragged_texts(12)
    backbone = backbones.backbone_of(model)
    states = backbone.hidden(texts)
    assert backbone.can_pack  # so they did share rows
    for row, length in enumerate(texts.lengths.tolist()):
        single = alone(texts, row)
        ids = torch.cat([single.prompts, single.tokens], dim=1)
        expected = model.base_model(input_ids=ids).last_hidden_state[0, single.prompts.shape[1] - 1 :]
        torch.testing.assert_close(states[row, : length + 1], expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_content_of_padding_changes_nothing():
    model, texts = policy_of("gpt2").model, ragged_texts(12)
    before = backbones.backbone_of(model).hidden(texts)
    texts.tokens[~texts.is_token], texts.prompts[~texts.is_prompt] = V - 1, V - 1
    assert torch.equal(backbones.backbone_of(model).hidden(texts), before)


@pytest.mark.parametrize("family", CAUSAL)
def test_supported_families_support_packing(family):
    assert supports_packing(policy_of(family).model)


@torch.no_grad()
def test_models_without_support_are_not_packed(monkeypatch):
    """A model that builds its mask from the columns alone lets a text attend to the one before it."""
    policy, texts = policy_of("gpt2", dtype=torch.float64), ragged_texts(12)
    layout = TextLayout.of(foreign_envs(1))
    expected = policy.token_logprobs(texts, layout).logprobs
    body = policy.model.base_model
    forward = body.forward

    def attending_to_all(*ids, **inputs):
        if inputs.get("attention_mask") is None:
            rows, columns = inputs["input_ids"].shape
            inputs["attention_mask"] = torch.ones(columns, columns, dtype=torch.bool).tril().expand(rows, 1, -1, -1)
        return forward(*ids, **inputs)

    monkeypatch.setattr(body, "forward", attending_to_all)
    assert not supports_packing(policy.model)
    another = LMPolicy(policy.model, None)
    torch.testing.assert_close(another.token_logprobs(texts, layout).logprobs, expected, rtol=0, atol=1e-10)
    # The control: packed all the same, its scores differ.
    another.language_model.backbone.can_pack = True
    assert (another.token_logprobs(texts, layout).logprobs - expected).abs().max() > 1e-2


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_packed_gradients_equal_separate_ones(critic, monkeypatch):
    envs = foreign_envs(12, eos_token_ids=[1, 4, 9, 14, 20])
    gradients = []
    packed = []
    for packs in (True, False):
        monkeypatch.setattr(backbones, "pack", lambda *of: packed.append(pack(*of)) or (packed[-1] if packs else None))  # noqa: B023
        policy = policy_of("gpt2", dtype=torch.float64)
        learner = ActorCritic(policy, PPOConfig(critic=critic), TextLayout.of(envs))
        written = collect(envs, Plan(rollout=policy), episodes=12, generator=torch.Generator().manual_seed(0))
        valued, _ = learner.critic("policy")
        learner.epochs.gradients(
            learner.credit.experience(
                learner.credit.add_reference_and_values(written, valued), kl_coef=learner.kl_controller.coef
            ),
            valued,
        )
        assert any(found is not None for found in packed)
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_gpt2_takes_no_id_for_padding(monkeypatch):
    """GPT-2 without a mask warns of ids that might be padding; packed and full rows have no mask."""
    warnings: list[str] = []
    monkeypatch.setattr(transformers.modeling_utils.logger, "warning_once", warnings.append)
    policy, layout = policy_of("gpt2"), TextLayout.of(foreign_envs(1))
    policy.model.config.pad_token_id = 0
    texts = ragged_texts(12)
    policy.token_logprobs(texts, layout)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    begun = Texts.from_ids(ids.tolist(), [[], []], max_new_tokens=layout.max_new_tokens)
    write_completions(policy, begun, [{}, {}], layout, torch.rand(2, layout.max_new_tokens, generator=generator(0)))
    assert not warnings
    model = language_model("gpt2")  # the control
    model.config.pad_token_id = 0
    model(input_ids=ids)
    assert warnings
