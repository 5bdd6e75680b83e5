"""Families of models with peculiarities: each is read right, or refused with one message."""

import models_table
import pytest
import torch
from doubles import foreign_envs, history, language_model, policy_of, ragged_texts
from transformers import AutoModelForCausalLM, LEDConfig, LlamaConfig, OPTConfig, OPTForCausalLM, Phi3Config

from tril_gym.agents import PPO, Guide, LMPolicy, PPOConfig, PPOPlusPlus, PPOPlusPlusConfig, TextLayout
from tril_gym.agents.actors.model_check import check_training_mode, examine
from tril_gym.agents.learners.critic import make_critic
from tril_gym.models.architecture import COUNT_FROM_PADDING, decoder_start, eos_ids_of, positions_of, rope_limit
from tril_gym.models.backbone import backbone_of, longest_completion
from tril_gym.models.decoders import ReadingMode
from tril_gym.models.memory import count_weights
from tril_gym.models.noise import checkpoint_gradients, evaluation_mode, uses_gradient_checkpointing
from tril_gym.models.pretrained import model_kind
from tril_gym.models.texts import Texts
from tril_gym.utils.seeding import seeded

# Some of each kind: relative and absolute positions, sliding windows, latent attention, experts, states, hybrids.
CHECKED = ("gpt2", "llama", "gemma2", "deepseek_v2", "mixtral", "falcon", "opt", "mamba", "qwen3_next", "gemma3n_text")
CHECKED += ("t5", "bart", "led")


@pytest.mark.parametrize("family", CHECKED)
def test_the_page_says_what_the_check_finds(family):
    row = models_table.try_family(family, models_table.families()[family])
    assert row.verdict.startswith("works")
    assert f"| `{family}` | {row.kind} | {row.verdict} | {row.reason} |" in models_table.DOCUMENT.read_text()


def test_blocks_of_columns_are_counted_from_the_first_one(monkeypatch):
    """The texts of the check are shorter than a block of 16, and these are not."""
    sparse = {"index_topk_blocks": 1, "index_block_size": 16, "index_local_blocks": 1, "index_head_dim": 8}
    settings = models_table.SETTINGS | {"minimax_m3_vl_text": sparse | {"layer_types": ["minimax_m3_sparse"] * 2}}
    monkeypatch.setattr(models_table, "SETTINGS", settings)
    model = models_table.tiny_model("minimax_m3_vl_text", models_table.families()["minimax_m3_vl_text"])
    policy = LMPolicy(model, None)
    ids = [[3 + (row + 7 * column) % 60 for column in range(30)] for row in range(2)]
    texts = Texts.from_ids([ids[0][:25], ids[1][:9]], [ids[0], ids[1]], max_new_tokens=30)

    def alone() -> torch.Tensor:
        return torch.cat([policy.plain_logprobs(texts[torch.tensor([row])].trimmed()) for row in range(2)])

    with torch.no_grad():
        examine(policy.language_model, models_table.LAYOUT)
        torch.testing.assert_close(policy.plain_logprobs(texts), alone(), atol=1e-4, rtol=0)
        policy.language_model.read_as(ReadingMode())  # the control
        assert (policy.plain_logprobs(texts) - alone()).abs().max() > 0.01


@pytest.mark.parametrize("family", ["prophetnet", "fsmt"])
def test_a_family_that_cannot_be_read_is_refused_with_one_message(family):
    kind = models_table.families()[family]
    policy = LMPolicy(models_table.tiny_model(family, kind), None)
    with pytest.raises(ValueError, match=f"^{family} models cannot be used: .*docs/models.md") as caught:
        PPO(policy, foreign_envs(2, vocab_size=policy.vocab_size, max_prompt_length=12))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["mixtral", "switch_transformers", "dbrx", "phimoe", "falcon"])
def test_noise_is_off_in_training_mode(family):
    """Their configurations here have dropout or jitter, which gradient checkpointing must not switch on."""
    model = models_table.tiny_model(family, models_table.families()[family])
    policy = LMPolicy(model, None)
    checkpoint_gradients(policy.model)
    assert uses_gradient_checkpointing(policy.model)
    check_training_mode(policy.language_model, models_table.LAYOUT)
    model.train()  # the control: all of it in training mode
    if family not in ("falcon", "mixtral"):  # whose rates of noise the policy has set to 0 for good
        with pytest.raises(ValueError, match="cannot be trained with gradient_checkpointing"):
            check_training_mode(policy.language_model, models_table.LAYOUT)


def test_layers_are_not_dropped_in_training_mode():
    policy = policy_of("bart", encoder_layerdrop=0.9, decoder_layerdrop=0.9)
    checkpoint_gradients(policy.model)
    with torch.no_grad(), seeded(0):
        training = policy.plain_logprobs(ragged_texts())
        with evaluation_mode(policy.model):
            torch.testing.assert_close(training, policy.plain_logprobs(ragged_texts()))


def test_rates_of_noise_stay_in_the_configuration_and_modes_in_the_modules():
    model = policy_of("gpt2", resid_pdrop=0.3).model
    checkpoint_gradients(model)
    assert model.config.resid_pdrop == 0.3  # which is saved
    modes = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    assert set(modes) == {True, False}


def test_a_critic_has_the_width_of_the_states():
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2}
    config = OPTConfig(vocab_size=24, num_attention_heads=4, max_position_embeddings=64, **sizes)
    policy = LMPolicy(OPTForCausalLM(config), None)
    assert policy.language_model.width == 16  # the states are projected down to the embeddings
    assert make_critic(policy).head.in_features == 16
    PPO(policy, foreign_envs(4), PPOConfig(epochs=1)).learn(1)


def test_width_of_other_families(family):
    assert policy_of(family).language_model.width == 32


def test_values_narrower_than_keys():
    report = examine(
        LMPolicy(models_table.tiny_model("deepseek_v2", "causal"), None).language_model, models_table.LAYOUT
    )
    assert report.is_right
    assert report.mode.cache == "rows"


class TestLimits:
    def test_prompt_and_completion_may_fill_the_positions(self):
        backbone = backbone_of(language_model("gpt2", positions=32))
        backbone.check_positions(12, 20)
        with pytest.raises(
            ValueError, match=r"32 positions, .* need 12 \+ 21; make the environment with max_new_tokens=20"
        ):
            backbone.check_positions(12, 21)
        with pytest.raises(ValueError, match="make the environment with max_prompt_length=27 or less"):
            backbone.check_positions(32, 5)
        assert [longest_completion(backbone, length, 25) for length in (2, 12, 31, 32)] == [25, 20, 1, 0]

    def test_led_has_one_on_each_side(self):
        config = LEDConfig(max_encoder_position_embeddings=40, max_decoder_position_embeddings=20)
        assert [positions_of(config, side) for side in ("encoder", "decoder")] == [40, 20]
        backbone = backbone_of(models_table.tiny_model("led", "encoder-decoder"))
        backbone.model.config.max_decoder_position_embeddings = 20
        backbone.check_positions(40, 19)
        with pytest.raises(ValueError, match="decoder has 20 positions, the environment's completions need 21"):
            backbone.check_positions(40, 20)

    @pytest.mark.parametrize("family", sorted(COUNT_FROM_PADDING - {"xmod"}))
    def test_positions_of_roberta_start_after_those_of_padding(self, family):
        config = models_table.tiny_model(family, "causal").config
        config.pad_token_id = 1
        model = AutoModelForCausalLM.from_config(config)  # with 64 positions, of which two are unused
        language = LMPolicy(model, None).language_model
        language.backbone.check_positions(30, 32)
        language.read_as(ReadingMode(cache="none", packs=False, from_first_column=True))
        ids = [3 + column % 50 for column in range(63)]
        assert language.hidden(Texts.from_ids([ids[:30]], [ids[:32]], max_new_tokens=32)).shape[1] == 33
        with pytest.raises(ValueError, match=r"62 positions, .* need 31 \+ 32"):
            language.backbone.check_positions(31, 32)
        with pytest.raises((IndexError, RuntimeError)):  # the control
            language.hidden(Texts.from_ids([ids[:31]], [ids[:32]], max_new_tokens=32))

    @pytest.mark.parametrize(("family", "lengths"), [("big_bird", (6, 4)), ("bigbird_pegasus", (10, 8))])
    def test_block_sparse_attention_is_refused_where_it_would_be_used(self, family, lengths, monkeypatch):
        blocks = {"block_size": 1, "num_random_blocks": 2}  # dense up to 9 tokens
        monkeypatch.setitem(models_table.SETTINGS, family, models_table.SETTINGS.get(family, {}) | blocks)
        policy = LMPolicy(models_table.tiny_model(family, models_table.families()[family]), None)
        backbone = policy.language_model.backbone
        backbone.check_positions(lengths[0] - 1, lengths[1])
        with pytest.raises(ValueError, match=r"more than 9 tokens.* need 10; .*attention_type='original_full'"):
            backbone.check_positions(*lengths)
        policy.model.config.attention_type = "original_full"
        backbone.check_positions(*lengths)

    def test_completions_longer_than_the_capacity_of_experts_are_refused(self, monkeypatch, tmp_path):
        """Switch Transformers score a long text without the tokens that are too many for an expert."""
        family, settings = "switch_transformers", models_table.SETTINGS["switch_transformers"]
        monkeypatch.setitem(models_table.SETTINGS, family, settings | {"expert_capacity": 9})
        policy = LMPolicy(models_table.tiny_model(family, "encoder-decoder"), None)
        policy.language_model.backbone.check_positions(20, 8)
        with pytest.raises(ValueError, match=r"expert_capacity=9 .* need 10; .*expert_capacity=10.* max_new_tokens=8 "):
            policy.language_model.backbone.check_positions(20, 9)
        policy.save(tmp_path)
        LMPolicy.from_pretrained(
            tmp_path, with_tokenizer=False, expert_capacity=10
        ).language_model.backbone.check_positions(20, 9)

    def test_longrope_is_refused_where_it_switches(self):
        factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24} | factors
        config = Phi3Config(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=96,
            original_max_position_embeddings=24,
            pad_token_id=0,
            rope_parameters=rope,
        )
        assert rope_limit(config) == 24
        assert rope_limit(LlamaConfig()) is None
        from transformers import Phi3ForCausalLM

        backbone = backbone_of(Phi3ForCausalLM(config))
        backbone.check_positions(12, 12)
        with pytest.raises(ValueError, match=r"rotary positions of phi3 change .* longer than 24 tokens .* 13 \+ 12"):
            backbone.check_positions(13, 12)

    def test_longrope_of_single_types_of_layers_is_found(self):
        rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        kinds = {"full_attention": rope | {"original_max_position_embeddings": 32}, "sliding_attention": rope}
        config = LlamaConfig(max_position_embeddings=96)
        config.rope_parameters, config.original_max_position_embeddings = kinds, 24
        assert rope_limit(config) == 24
        del kinds["sliding_attention"]
        assert rope_limit(config) == 32
        kinds["full_attention"]["rope_type"] = "default"
        assert rope_limit(config) is None


@pytest.mark.parametrize("family", ["emu3", "mllama", "gpt2"])
def test_a_saved_model_is_loaded_also_where_only_its_own_class_does(family, tmp_path):
    model = models_table.tiny_model(family, models_table.families()[family])
    LMPolicy(model, None).save(tmp_path)
    found = LMPolicy.from_pretrained(tmp_path, with_tokenizer=False).model
    assert type(found) is type(model)
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in found.state_dict().items())
    assert count_weights(*model_kind(tmp_path, {})) == sum(weight.numel() for weight in model.parameters())


def test_a_reformer_is_a_guide_but_does_not_train():
    reformer = LMPolicy(models_table.tiny_model("reformer", "causal"), None)
    envs = foreign_envs(2, vocab_size=64, max_prompt_length=12)
    with pytest.raises(ValueError, match="reformer models train only in training mode"):
        PPO(reformer, envs)
    PPOPlusPlus(policy_of("gpt2", vocab_size=64), Guide(reformer), envs, PPOPlusPlusConfig(epochs=1)).learn(1)


def test_ids_reach_models_that_read_more_than_embeddings():
    """Gemma 3n has embeddings of its own in each layer, which inputs_embeds alone does not reach."""
    model = LMPolicy(models_table.tiny_model("gemma3n_text", "causal"), None).language_model
    report = examine(model, models_table.LAYOUT, values=True)
    assert report.is_right
    assert report.mode.cache == "rows"


def test_eos_ids_of_a_generation_config():
    model = language_model("gpt2")
    for named, expected in ((None, ()), (7, (7,)), ([7, 9], (7, 9))):
        model.generation_config.eos_token_id = named
        assert eos_ids_of(model) == expected


def test_the_generation_config_names_the_start():
    model = language_model("t5")
    model.config.decoder_start_token_id, model.generation_config.decoder_start_token_id = 0, 3
    assert decoder_start(model) == [3]
    model.generation_config.decoder_start_token_id = None
    assert decoder_start(model) == [0]
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match=r"has no decoder_start_token_id.*; set model\.generation_config"):
        decoder_start(model)


def test_batches_stay_whole_where_rows_cannot_leave():
    model = policy_of("gpt2").language_model
    model.read_as(ReadingMode(cache="batch", packs=False))
    layout = TextLayout.of(foreign_envs(1, max_prompt_length=12))
    report = examine(model, layout, values=True)
    assert report.is_right
    assert report.mode.cache == "batch"


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_decoders_keep_the_rows_that_cannot_leave(family):
    model, texts = policy_of(family).language_model, ragged_texts(7)
    assert model.decoder(texts, 12).batch_size_for(2) == 2
    model.read_as(ReadingMode(cache="batch", packs=False))
    assert model.decoder(texts, 12).batch_size_for(2) == 7


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "llama4_text", "gemma3n_text", "led", "t5gemma", "rwkv"])
def test_a_family_trains_with_a_guide(family):
    """Texts that the guide began have different lengths where the policy takes them up."""
    model = models_table.tiny_model(family, models_table.families()[family])
    policy = LMPolicy(model, None)
    eos = list(range(1, policy.vocab_size, 6))  # texts end at different times
    envs = foreign_envs(6, vocab_size=policy.vocab_size, max_prompt_length=12, eos_token_ids=eos)
    config = PPOPlusPlusConfig(epochs=1, minibatch_size=6, learning_rate=1e-4, rollin_prob=0.7)
    agent = PPOPlusPlus(policy, Guide(policy.frozen_copy(), temperature=2.0), envs, config)
    before = [weight.detach().clone() for weight in policy.parameters()]
    metrics = history(agent, 1)[0]
    assert metrics["policy/sampling_error_max"] < 1e-3
    assert abs(metrics["kl"]) < 1e-3
    assert metrics["text/ended"] > 0
    assert any(not torch.equal(now, then) for now, then in zip(policy.parameters(), before, strict=True))
