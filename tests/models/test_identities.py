"""Two identities that every family of models must keep, and `transformers`' own answers.

1. Before the first update, what sampling said of a token's log-probability is what scoring says.
2. A text scored alone, without padding, scores as it does in its batch.

The first alone would pass where sampling and scoring are wrong alike. Each has a control that shows that it can fail.
"""

import numpy as np
import pytest
import torch
from doubles import MANY_EOS, V, alone, foreign_envs, generator, language_model, policy_of, ragged_texts
from torch import nn

from tril_gym.agents import Guide, LMPolicy, Plan, TextLayout, Trajectories
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.learners.critic import Critic, value_after
from tril_gym.functional.kl import nats_per_text
from tril_gym.functional.sampling import Decoding
from tril_gym.models import backbone as backbones
from tril_gym.models import causal_decoder
from tril_gym.models.texts import Texts

# Nats. Float32 differs by rounding between a cached pass and a whole one.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}
DECODINGS = {
    "plain": Decoding(),
    "temperature": Decoding(temperature=0.6),
    "top-k": Decoding(top_k=5),
    "top-p": Decoding(temperature=1.5, top_p=0.8),
}
WRONG = 1e-2  # nats; a real mistake is far above rounding


@pytest.fixture(params=TOLERANCES, ids=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return request.param


def mixed_texts(policy: LMPolicy, min_new_tokens: int = 3, episodes: int = 24) -> tuple[Trajectories, TextLayout]:
    """Texts of ragged prompts, most of which another model began and the policy took up at different switches."""
    envs = foreign_envs(8, min_new_tokens=min_new_tokens, eos_token_ids=MANY_EOS)
    plan = Plan(rollout=policy, rollin=Guide(policy_of("t5", seed=7)), rollin_prob=0.7)
    trajectories = collect(envs, plan, episodes=episodes, generator=generator(3))
    assert len(set(trajectories.switch.tolist())) > 3
    assert len(set(trajectories.lengths.tolist())) > 2
    assert len(set(trajectories.is_prompt.sum(1).tolist())) > 2
    return trajectories, TextLayout.of(envs)


@torch.no_grad()
def ratio_error(policy: LMPolicy, trajectories: Trajectories, layout: TextLayout) -> float:
    """The largest |log ρ| on tokens that the policy wrote, in nats."""
    logprobs = policy.token_logprobs(trajectories.texts, layout).logprobs.double()
    return float((logprobs - trajectories.old_logprobs)[trajectories.wrote].abs().max())


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float32, "plain"), *((torch.float64, name) for name in DECODINGS)], ids=str
)
def test_sampling_and_scoring_agree(family, dtype, name):
    policy = policy_of(family, dtype=dtype).with_decoding(DECODINGS[name])
    trajectories, layout = mixed_texts(policy)
    assert ratio_error(policy, trajectories, layout) <= TOLERANCES[dtype]
    assert int(trajectories.lengths.min()) >= 4  # three tokens, then EOS


def test_sampling_and_scoring_agree_outside_an_environment(family):
    policy = policy_of(family, dtype=torch.float64)
    texts, layout = ragged_texts(9), TextLayout.of(foreign_envs(1))
    draws = torch.rand((9, 8), generator=generator(1), dtype=torch.float64)
    written = write_completions(policy, texts.with_completions([[]] * 9), [{}] * 9, layout, draws)
    with torch.no_grad():
        scored = policy.token_logprobs(written.texts(), layout).logprobs
    is_token = written.is_token
    np.testing.assert_allclose(written.logprobs[is_token], scored[torch.from_numpy(is_token)], atol=1e-9)
    assert (written.logprobs[~is_token] == 0).all()


def test_there_is_no_drift_before_the_first_update(family, dtype):
    policy = policy_of(family, dtype=dtype).with_decoding(Decoding(temperature=0.7))
    ref_policy = policy.frozen_copy()
    trajectories, layout = mixed_texts(policy)
    with torch.no_grad():
        ref_logprobs = ref_policy.token_logprobs(trajectories.texts, layout).logprobs.double()
    kl = nats_per_text(trajectories.old_logprobs, ref_logprobs, trajectories.wrote)
    assert abs(float(kl)) <= TOLERANCES[dtype]


def test_a_policy_that_has_moved_has_drifted():
    policy = policy_of("gpt2")
    ref_policy = policy.frozen_copy()
    policy.model.get_output_embeddings().weight.data.mul_(1.5)
    moved, layout = mixed_texts(policy)
    with torch.no_grad():
        ref_logprobs = ref_policy.token_logprobs(moved.texts, layout).logprobs.double()
    assert float(nats_per_text(moved.old_logprobs, ref_logprobs, moved.wrote)) > WRONG


class TestSamplingAndScoringCanDisagree:
    """Controls of the first identity."""

    def test_a_temperature_in_sampling_alone(self, family):
        policy = policy_of(family)
        trajectories, layout = mixed_texts(policy.with_decoding(Decoding(temperature=0.8)))
        assert ratio_error(policy, trajectories, layout) > WRONG

    def test_a_minimum_length_in_sampling_alone(self, family):
        policy = policy_of(family)
        trajectories, _ = mixed_texts(policy, min_new_tokens=3)
        assert ratio_error(policy, trajectories, TextLayout.of(foreign_envs(1, eos_token_ids=MANY_EOS))) > WRONG

    def test_dropout(self, family):
        policy = policy_of(family, **({} if family not in ("llama", "qwen2") else {"attention_dropout": 0.1}))
        trajectories, layout = mixed_texts(policy)
        policy.model.train()
        for module in policy.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.1
            if family == "bart" and isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.1
        assert ratio_error(policy, trajectories, layout) > WRONG

    def test_a_prefix_packed_to_the_right_under_absolute_positions(self, monkeypatch):
        monkeypatch.setattr(backbones, "positions_of", lambda config: None)
        policy = policy_of("bart")
        trajectories, layout = mixed_texts(policy)
        assert ratio_error(policy, trajectories, layout) > WRONG

    def test_positions_that_count_padding_while_sampling(self, monkeypatch):
        policy = policy_of("gpt2")
        with monkeypatch.context() as patch:
            patch.setattr(causal_decoder, "position_ids", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))
            trajectories, layout = mixed_texts(policy)
        assert ratio_error(policy, trajectories, layout) > WRONG


@torch.no_grad()
def padding_error(policy: LMPolicy) -> float:
    """How far a text alone is from the same text in a batch, in nats."""
    texts, layout = ragged_texts(), TextLayout.of(foreign_envs(1, min_new_tokens=2))
    batch = policy.token_logprobs(texts, layout, entropies="gradient")
    errors = []
    for row, length in enumerate(texts.lengths.tolist()):
        single = policy.token_logprobs(alone(texts, row), layout, entropies="gradient")
        errors.append((single.logprobs[0] - batch.logprobs[row, :length]).abs().nan_to_num(0.0).max())
        errors.append((single.entropy[0] - batch.entropy[row, :length]).abs().max())
    return float(max(errors))


@pytest.fixture
def apart(monkeypatch):
    """Texts do not share rows, so that each is padded."""
    monkeypatch.setattr(backbones, "pack", lambda texts, hidden_size: None)


@pytest.mark.parametrize("decoding", [DECODINGS["plain"], DECODINGS["temperature"]], ids=["plain", "temperature"])
def test_a_text_alone_scores_as_in_its_batch(family, dtype, decoding):
    assert padding_error(policy_of(family, dtype=dtype).with_decoding(decoding)) <= TOLERANCES[dtype]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("decoding", [DECODINGS["plain"], DECODINGS["temperature"]], ids=["plain", "temperature"])
def test_a_text_alone_scores_as_padded_in_its_batch(family, dtype, decoding):
    assert padding_error(policy_of(family, dtype=dtype).with_decoding(decoding)) <= TOLERANCES[dtype]


@pytest.mark.usefixtures("apart")
class TestPaddingCanMatter:
    """Controls of the second identity: each family with the mistake that it is prone to."""

    def test_positions_that_count_padding(self, monkeypatch):
        monkeypatch.setattr(backbones, "position_ids", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))
        assert padding_error(policy_of("gpt2")) > WRONG
        # Rotary positions are relative: a row that is shifted as a whole scores the same.
        assert padding_error(policy_of("llama")) <= 1e-4

    @pytest.mark.parametrize("family", ["t5", "bart"])
    def test_prompts_that_are_attended_to_where_they_are_padded(self, family, monkeypatch):
        left_aligned = backbones.left_aligned

        def packed_but_unmasked(ids, mask):
            ids, mask = left_aligned(ids, mask)
            return ids, torch.ones_like(mask)

        monkeypatch.setattr(backbones, "left_aligned", packed_but_unmasked)
        assert padding_error(policy_of(family)) > WRONG

    @pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
    def test_a_sequence_without_an_attention_mask(self, family, monkeypatch):
        policy = policy_of(family)
        body = policy.model.base_model
        forward = body.forward

        def unmasked(*ids, **inputs):
            if inputs.get("attention_mask") is not None:
                inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
            return forward(*ids, **inputs)

        monkeypatch.setattr(body, "forward", unmasked)
        assert padding_error(policy) > WRONG

    def test_prompts_padded_on_the_left_of_an_encoder_with_absolute_positions(self, monkeypatch):
        monkeypatch.setattr(backbones, "left_aligned", backbones.right_aligned)
        assert padding_error(policy_of("bart")) > WRONG
        assert padding_error(policy_of("t5")) <= 1e-4  # relative positions: either side will do


@torch.no_grad()
def critic_of(family: str, dtype: torch.dtype) -> Critic:
    """A critic whose last layer is not zero."""
    critic = Critic(policy_of(family, dtype=dtype).language_model)
    critic.head.weight.normal_(0.0, 1.0, generator=generator(5))
    critic.head.bias.fill_(0.3)
    return critic


@torch.no_grad()
def test_a_text_alone_is_valued_as_in_its_batch(family, dtype):
    critic, texts = critic_of(family, dtype), ragged_texts()
    values = critic(texts)
    assert values.shape == (7, 9)
    assert float(values.std()) > 0.1
    for row, length in enumerate(texts.lengths.tolist()):
        single = critic(alone(texts, row))[0]
        # The last one is the value of the whole text, from which a truncated one is bootstrapped.
        assert single.shape == (length + 1,)
        torch.testing.assert_close(single, values[row, : length + 1], rtol=0, atol=10 * TOLERANCES[dtype])
        assert float(value_after(values, texts.lengths)[row]) == float(values[row, length])


@torch.no_grad()
def test_a_value_knows_the_text_so_far_and_nothing_after_it(family):
    critic, texts = critic_of(family, torch.float64), ragged_texts(2)
    before = critic(texts)
    texts.tokens[0, 4] = (texts.tokens[0, 4] + 1) % V
    after = critic(texts)
    assert torch.equal(before[0, :5], after[0, :5])  # V(s_0) … V(s_4) are read before token 4 is written
    assert float((before[0, 5:] - after[0, 5:]).abs().min()) > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_logprobs_equal_the_plain_model(family):
    model = language_model(family)
    texts, layout = alone(ragged_texts(), 0), TextLayout.of(foreign_envs(1))
    ids = torch.cat([texts.prompts, texts.tokens], dim=1)
    expected = model.eval()(input_ids=ids).logits.log_softmax(-1)[0, texts.prompts.shape[1] - 1 : -1]
    expected = expected.gather(1, texts.tokens[0].unsqueeze(1)).squeeze(1)
    found = LMPolicy(model, None).token_logprobs(texts, layout).logprobs[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("family", "start"), [("t5", [0]), ("bart", [1, 0]), ("bart-plain", [1])])
def test_logprobs_equal_the_plain_model_with_decoder_start(family, start):
    settings = {"forced_bos_token_id": None} if family == "bart-plain" else {}
    model = language_model(family.removesuffix("-plain"), **settings)
    texts, layout = alone(ragged_texts(), 0), TextLayout.of(foreign_envs(1))
    decoder_ids = torch.cat([torch.tensor([start]), texts.tokens], dim=1)
    logits = model.eval()(input_ids=texts.prompts, decoder_input_ids=decoder_ids).logits
    expected = logits.log_softmax(-1)[0, len(start) - 1 : -1].gather(1, texts.tokens[0].unsqueeze(1)).squeeze(1)
    found = LMPolicy(model, None).token_logprobs(texts, layout).logprobs[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("min_new_tokens", [0, 4])
def test_greedy_writing_is_generate(family, min_new_tokens):
    policy = policy_of(family, dtype=torch.float64)
    texts = ragged_texts(9, seed=2)
    layout = TextLayout.of(foreign_envs(1, min_new_tokens=min_new_tokens, eos_token_ids=MANY_EOS))
    draws = torch.rand((9, 8), generator=generator(), dtype=torch.float64)  # greedy, so they do not matter
    greedy = policy.with_decoding(Decoding(greedy=True))
    found = write_completions(greedy, texts.with_completions([[]] * 9), [{}] * 9, layout, draws)
    assert (found.logprobs == 0).all()
    start = len(backbones.decoder_start(policy.model)) if policy.model.config.is_encoder_decoder else 0
    policy.model.eval()
    for row in range(9):
        prompt = alone(texts, row).prompts
        forced = max(0, start - 1)  # generate counts the forced BOS as a new token
        settings = {"max_new_tokens": 8 + forced, "min_new_tokens": min_new_tokens + forced, "eos_token_id": MANY_EOS}
        written = policy.model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **settings)
        new = written[0, start:] if start else written[0, prompt.shape[1] :]
        assert found.texts().completion_ids(row) == new.tolist()
    assert len({tuple(row) for row in found.tokens.tolist()}) > 3  # the prompts matter


def test_written_tensors_may_take_part_in_a_gradient(family):
    policy, layout = policy_of(family), TextLayout.of(foreign_envs(1, eos_token_ids=MANY_EOS))
    texts = Texts.from_ids([[5] * 3] * 2, [[], []], max_new_tokens=8)
    writer = policy.start(texts, [{}] * 2, layout)
    tokens, logprobs = writer.next(torch.full((2,), 0.5, dtype=torch.float64))
    embedded = torch.nn.Embedding(layout.vocab_size, 4)(tokens)
    (embedded.sum(1) * logprobs).sum().backward()
    assert [tokens.is_inference(), logprobs.is_inference(), logprobs.requires_grad] == [False] * 3


@torch.no_grad()
def test_a_text_taken_up_in_the_middle_goes_on_as_if_written_from_its_start(family):
    policy, layout = policy_of(family, dtype=torch.float64), TextLayout.of(foreign_envs(1, eos_token_ids=MANY_EOS))
    texts = ragged_texts(9, seed=2)
    draws = torch.rand((9, 8), generator=generator(1), dtype=torch.float64)
    written = write_completions(policy, texts.with_completions([[]] * 9), [{}] * 9, layout, draws)
    lengths = torch.tensor([min(row % 5, int(n) - 1) for row, n in enumerate(written.written)])
    begun = texts.with_completions([written.texts().completion_ids(row)[: lengths[row]] for row in range(9)])
    writer = policy.start(begun, [{}] * 9, layout)
    following, said = writer.next(draws[torch.arange(9), lengths])
    assert following.tolist() == written.tokens[np.arange(9), lengths].tolist()
    np.testing.assert_allclose(said, written.logprobs[np.arange(9), lengths], atol=1e-9)
