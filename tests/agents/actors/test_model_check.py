"""The check of a model before it is used: right families pass, and each kind of mistake is noticed or avoided."""

import models_table
import pytest
import torch
from doubles import foreign_envs, language_model, policy_of
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from tril_gym.agents import PPO, LMPolicy, PPOConfig, TextLayout
from tril_gym.agents.actors import model_check
from tril_gym.agents.actors.model_check import LIMIT, Probe, check_model, examine
from tril_gym.models.decoders import ReadingMode
from tril_gym.models.noise import checkpoint_gradients
from tril_gym.models.texts import Texts

pytestmark = pytest.mark.whole_runs  # each model is checked, whatever was checked before

SIZES = {"max_prompt_length": 12, "max_new_tokens": 8}


def layout(**sizes) -> TextLayout:
    return TextLayout.of(foreign_envs(1, **SIZES | sizes))


@pytest.mark.parametrize("sizes", [{}, {"max_prompt_length": 1}, {"max_new_tokens": 1}], ids=["usual", "P=1", "T=1"])
def test_tested_families_are_read_as_fast_as_possible(family, sizes):
    model = policy_of(family, dtype=torch.float64).language_model
    report = examine(model, layout(**sizes), values=True)
    assert report.is_right
    assert report.mode == ReadingMode()
    assert len(report.readings) == (6 if family in ("t5", "bart") else 5)
    assert max(reading.error for reading in report.readings) < 1e-9 or family == "t5"  # which is partly float32


def test_a_check_changes_no_weight_and_no_random_number():
    model = policy_of("gpt2").language_model
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    check_model(model, layout())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_training_is_the_same_without_a_check(family):
    weights = []
    for checked in (True, False):
        policy, envs = policy_of(family), foreign_envs(6, **SIZES)
        PPO(policy, envs, PPOConfig(epochs=1, minibatch_size=3, learning_rate=1e-3, check_model=checked)).learn(2)
        weights.append(torch.cat([weight.detach().flatten() for weight in policy.parameters()]))
    assert torch.equal(*weights)


def test_a_model_is_checked_again_only_for_longer_texts_or_for_a_critic(monkeypatch):
    model, seen = policy_of("gpt2").language_model, []
    monkeypatch.setattr(model_check, "examine", lambda *of, **more: seen.append(of) or examine(*of, **more))
    for sizes, values, times in [
        ({"max_new_tokens": 3}, False, 1),
        ({}, False, 2),
        ({"max_new_tokens": 5}, False, 2),
        ({"max_prompt_length": 20}, False, 2),  # the texts of the check are as before
        ({}, True, 3),
        ({"max_prompt_length": 2}, False, 3),
    ]:
        check_model(model, layout(**sizes), values=values)
        check_model(model.frozen_copy(), layout(**sizes), values=values)
        assert len(seen) == times
    check_model(policy_of("gpt2").with_lora(2).language_model, layout())
    assert len(seen) == 4


def test_texts_of_the_check_share_rows():
    model = policy_of("gpt2").language_model
    probe = Probe(model, layout())
    probe.readings(values=False)
    from tril_gym.models.packing import pack

    packed = pack(probe.texts.without_last(), 32)
    assert packed is not None
    assert packed.ids.shape[0] >= 2


class TestMistakesAreNoticed:
    """Each breaks one reading; the check names it."""

    def broken(self, monkeypatch, target, name, value, family="gpt2") -> dict[str, float]:
        monkeypatch.setattr(target, name, value)
        readings = Probe(policy_of(family).language_model, layout()).readings(values=True)
        return {reading.name: reading.error for reading in readings if not reading.error <= LIMIT}

    def test_positions_that_count_padding(self, monkeypatch):
        from tril_gym.models import backbone

        wrong = self.broken(
            monkeypatch, backbone, "position_ids", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
        )
        assert set(wrong) == {"scored in a batch"}

    def test_positions_that_count_padding_while_writing(self, monkeypatch):
        from tril_gym.models import causal_decoder

        wrong = self.broken(
            monkeypatch, causal_decoder, "position_ids", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
        )
        assert set(wrong) == {"written token by token"}

    def test_rows_of_the_cache_that_are_mixed_up(self, monkeypatch):
        from tril_gym.models import causal_decoder

        select = causal_decoder.select_rows
        wrong = self.broken(
            monkeypatch, causal_decoder, "select_rows", lambda cache, rows, lead: select(cache, rows.flip(0), lead)
        )
        assert set(wrong) == {"written token by token"}

    def test_packing_of_texts_that_read_each_other(self, monkeypatch):
        from tril_gym.models import backbone, packing

        pack = packing.pack

        def joined(texts, hidden_size):
            packed = pack(texts, hidden_size)
            if packed is not None:
                packed.positions[:] = torch.arange(packed.positions.shape[1])
            return packed

        wrong = self.broken(monkeypatch, backbone, "pack", joined, family="llama")
        assert "scored in shared rows" in wrong

    def test_attention_that_differs_from_the_original(self, monkeypatch):
        from tril_gym.models import kernels

        policy = policy_of("gpt2")
        attention = kernels.single_query_attention
        monkeypatch.setitem(
            ALL_ATTENTION_FUNCTIONS,
            kernels.ATTENTION,
            lambda module, query, *of, **more: attention(module, query.flip(1), *of, **more),
        )
        assert not examine(policy.language_model, layout()).is_right

    def test_nan_is_an_error(self):
        model = language_model("gpt2")
        model.transformer.wte.weight.data[:] = float("nan")
        assert not examine(LMPolicy(model, None).language_model, layout()).is_right

    def test_a_refusal_names_model_readings_and_way_out(self):
        model = language_model("gpt2")
        model.transformer.wpe.weight.data[3] = float("nan")
        with pytest.raises(ValueError, match=r"^gpt2 models cannot be used: .*token by token: inf nats.*0\.001"):
            PPO(LMPolicy(model, None), foreign_envs(2, **SIZES))
        PPO(LMPolicy(model, None), foreign_envs(2, **SIZES), PPOConfig(check_model=False))


def tiny(model_type, config_type, **settings):
    torch.manual_seed(0)
    model = model_type(config_type(vocab_size=24, pad_token_id=0, eos_token_id=1, bos_token_id=2, **settings))
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data.normal_(0.0, weight.shape[1] ** -0.5)
    return LMPolicy(model, None)


BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}


class TestFamiliesThatAreReadDifferently:
    def test_state_space_models_are_written_without_a_cache(self, caplog):
        policy = tiny(MambaForCausalLM, MambaConfig, hidden_size=32, num_hidden_layers=2, state_size=8)
        policy.check_readings(layout(), values=True)
        assert policy.language_model.backbone.mode.cache == "none"
        assert "mamba models are written without a cache" in caplog.text

    def test_a_decoder_without_position_ids_reads_from_the_first_column(self):
        settings = BART | {"is_decoder": True, "is_encoder_decoder": False, "max_position_embeddings": 32}
        policy = tiny(BartForCausalLM, BartConfig, **settings)
        policy.check_readings(layout())
        assert policy.language_model.backbone.mode.from_first_column
        assert policy.frozen_copy().language_model.backbone.mode == policy.language_model.backbone.mode

    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    def test_flash_attention_does_not_pack(self, family, flash_rule):
        model = language_model(family)
        model.set_attn_implementation(flash_rule)
        policy = LMPolicy(model, None)
        policy.check_readings(layout(), values=True)
        assert not policy.language_model.can_pack
        assert policy.language_model.backbone.mode.cache == "rows"
        policy.language_model.backbone.can_pack = True  # the control
        readings = Probe(policy.language_model, layout()).readings(values=False)
        assert [reading.name for reading in readings if reading.error > LIMIT] == ["scored in shared rows"]


@pytest.fixture
def flash_rule():
    """An attention that keeps packed texts apart in batches of one row only, as flash attention does."""

    def attention(module, query, key, value, attention_mask, **settings):
        if attention_mask is None and query.shape[0] > 1 and query.shape[2] > 1:
            settings.pop("is_causal", None)
            return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, is_causal=True, **settings)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **settings)

    def mask(batch_size, *of, **settings):
        packed = sdpa_mask(batch_size, *of, **settings)
        # Several rows: only padding is masked, which the emulation knows by the attention mask that it was given.
        return None if batch_size > 1 and settings.get("attention_mask") is None else packed

    AttentionInterface.register("one_row_packing", attention)
    AttentionMaskInterface.register("one_row_packing", mask)
    return "one_row_packing"


class TestPaddingIds:
    """A policy may write the padding id within a text, as any other token."""

    def test_it_is_written(self):
        for family, pads in [("llama", 4), ("t5", 4)]:
            probe = Probe(policy_of(family).language_model, layout())
            assert not any(reading.error > LIMIT for reading in probe.readings(values=False))
            assert int((probe.texts.tokens[:, 1] == 0).sum()) == pads
        policy = policy_of("llama")
        policy.model.generation_config.eos_token_id = [0, 1]  # the padding id ends texts
        probe = Probe(policy.language_model, layout())
        probe.readings(values=False)
        assert int(((probe.texts.tokens == 0) & probe.texts.is_token)[:, 1].sum()) < 4

    def test_a_family_that_counts_positions_by_it_is_read_without_a_cache(self):
        policy = LMPolicy(models_table.tiny_model("m2m_100", "encoder-decoder"), None)
        examine(policy.language_model, models_table.LAYOUT)
        assert policy.language_model.backbone.mode.cache == "none"

    def test_a_family_that_infers_its_masks_from_it_is_given_them(self, monkeypatch):
        policy = LMPolicy(models_table.tiny_model("t5gemma", "encoder-decoder"), None)
        assert examine(policy.language_model, models_table.LAYOUT, values=True).mode == ReadingMode()
        prompts, completions = [[5, 0, 7, 8], [6, 5, 4, 3]], [[9, 0, 4, 5], [9, 8, 0, 3]]
        texts = Texts.from_ids(prompts, completions, max_new_tokens=4)
        with torch.no_grad():
            found = policy.plain_logprobs(texts)
            decoder = policy.language_model.decoder(texts.without_last(), 8)
            last = decoder.output.logits.log_softmax(-1).gather(1, texts.tokens[:, -1:])
            torch.testing.assert_close(last, found[:, -1:], atol=1e-5, rtol=0)
            for module in ("backbone", "encoder_decoder"):
                monkeypatch.setattr(f"tril_gym.models.{module}.infers_masks", lambda config: False)
            assert (policy.plain_logprobs(texts) - found).abs().max() > 0.01  # the control


class TestNoise:
    """Sources of noise are off in evaluation mode, and with gradient checkpointing, which needs training mode."""

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_dropout_and_jitter_are_off(self, checkpointing):
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        policy = tiny(
            PhimoeForCausalLM,
            PhimoeConfig,
            **sizes,
            num_key_value_heads=2,
            num_local_experts=4,
            router_jitter_noise=0.1,
            input_jitter_noise=0.1,
            max_position_embeddings=64,
        )
        envs = foreign_envs(2, **SIZES)
        PPO(policy, envs, PPOConfig(gradient_checkpointing=checkpointing))
        assert any(module.training for module in policy.model.modules()) == checkpointing

    def test_rates_that_layers_read_from_the_configuration(self):
        from transformers import FalconConfig, FalconForCausalLM

        policy = tiny(
            FalconForCausalLM,
            FalconConfig,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_dropout=0.3,
            attention_dropout=0.3,
        )
        checkpoint_gradients(policy.model)
        model_check.check_training_mode(policy.language_model, layout())
        assert policy.model.config.hidden_dropout == 0.3  # what is saved with the model
        policy.model.transformer.h[0].config.hidden_dropout = 0.3  # the control
        with pytest.raises(ValueError, match="falcon models cannot be trained with gradient_checkpointing"):
            model_check.check_training_mode(policy.language_model, layout())

    def test_a_model_without_checkpointing_is_never_in_training_mode(self):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=16, n_layer=1, n_head=2, n_positions=32))
        policy = LMPolicy(model.train(), None)
        assert not any(module.training for module in policy.model.modules())
        assert all(module.p == 0 for module in policy.model.modules() if isinstance(module, nn.Dropout))


def test_texts_of_equal_lengths_are_checked_where_they_are_written_otherwise(monkeypatch):
    """BART takes up texts of different lengths without a cache, so the cache is tried from the prompts."""
    from tril_gym.models import encoder_decoder

    select = encoder_decoder.select_rows
    monkeypatch.setattr(encoder_decoder, "select_rows", lambda cache, rows, lead: select(cache, rows.flip(0), lead))
    readings = Probe(policy_of("bart").language_model, layout()).readings(values=False)
    assert [reading.name for reading in readings if reading.error > LIMIT] == ["written from equal lengths"]
