"""LoRA adapters: scores, gradients, copies, memory, saving and the command line."""

import json
import shutil

import gymnasium as gym
import peft
import pytest
import torch
from click.testing import CliRunner
from doubles import (
    alone,
    foreign_envs,
    generator,
    history,
    language_model,
    learned,
    policy_of,
    ragged_texts,
    toy_envs,
    toy_policy,
)
from seven import SEVEN
from test_identities import TOLERANCES, mixed_texts, ratio_error
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, LlamaForCausalLM

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import BC, PPO, BCConfig, Guide, LMPolicy, PPOConfig, PPOPlusPlus, PPOPlusPlusConfig, TextLayout
from tril_gym.agents.learners.critic import make_critic
from tril_gym.cli import main
from tril_gym.experiment.algorithms import agent_type
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.functional.kl import nats_per_text
from tril_gym.functional.sampling import Decoding
from tril_gym.models.lora import Lora
from tril_gym.models.noise import checkpoint_gradients, uses_gradient_checkpointing
from tril_gym.models.pretrained import fingerprint
from tril_gym.utils.quiet import without_peft_warnings

RANK = 4
NUMBERS = {"learning_rate": 1e-2, "episodes_per_iteration": 12, "minibatch_size": 8, "epochs": 2}
RL = NUMBERS | {"kl_coef": 0.1, "kl_controller": "adaptive", "kl_target": 1.0, "kl_horizon": 20.0}


def lora_policy(family="gpt2", **settings):
    return policy_of(family, **settings).with_lora(RANK)


@torch.no_grad()
def trained(policy, seed=0, size=0.3):
    """Return the policy after random changes of its adapter."""
    for weight in policy.lora.weights().values():
        weight.add_(torch.randn(weight.shape, generator=generator(seed), dtype=weight.dtype), alpha=size)
    return policy


def toy_agent(family="gpt2", policy=None, **numbers):
    return PPO(policy or toy_policy(family).with_lora(RANK), toy_envs(), PPOConfig(**RL | numbers))


def logprobs(policy, texts=None):
    with torch.no_grad():
        return policy.plain_logprobs(ragged_texts(vocab_size=16) if texts is None else texts)


def peft_model(model, config, **settings):
    with without_peft_warnings():
        return peft.get_peft_model(model, config, **settings)


def tensors(policy):
    return {name: tensor.clone() for name, tensor in policy.language_model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestNewAdapter:
    def test_scores_equal_those_of_the_base(self, family):
        base = policy_of(family)
        before = logprobs(base)
        policy = base.with_lora(RANK)
        assert torch.equal(logprobs(policy), before)
        assert torch.equal(logprobs(base), before)
        trained(policy)
        assert (logprobs(policy) - before).abs().max() > 0.1
        assert torch.equal(logprobs(base), before)  # the base computes without the adapter

    def test_only_the_adapter_trains(self, family):
        policy = lora_policy(family)
        names = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
        assert names == set(policy.language_model.state_dict())
        assert all("lora_" in name for name in names)
        assert {id(weight) for weight in policy.parameters()} == {id(w) for w in policy.lora.weights().values()}
        assert all(shape[0] == RANK or shape[1] == RANK for shape in (w.shape for w in policy.parameters()))

    def test_depends_on_its_seed_only(self):
        base = policy_of()
        before = torch.get_rng_state()
        one, same_seed, other = (base.with_lora(RANK, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), before)
        assert same(tensors(one), tensors(same_seed))
        assert not same(tensors(one), tensors(other))

    @pytest.mark.parametrize(("settings", "scale"), [({}, 2.0), ({"alpha": 6}, 1.5)])
    def test_scaling_by_alpha(self, settings, scale):
        policy = policy_of().with_lora(RANK, **settings)
        assert {value for layer in policy.lora._layers() for value in layer.scaling.values()} == {scale}

    def test_target_modules(self):
        def adapted(**settings):
            return {
                name.rsplit(".lora_")[0].split(".")[-1]
                for name in policy_of().with_lora(2, **settings).language_model.state_dict()
            }

        assert adapted() == {"c_attn"}
        assert adapted(target_modules=["c_fc", "attn.c_proj"]) == {"c_fc", "c_proj"}
        assert adapted(target_modules="all-linear") == {"c_attn", "c_fc", "c_proj"}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_weights_are_at_least_float32(self, dtype):
        policy = lora_policy(dtype=dtype)
        assert {weight.dtype for weight in policy.parameters()} == {torch.promote_types(dtype, torch.float32)}
        assert make_critic(policy).head.weight.dtype == torch.promote_types(dtype, torch.float32)


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rank": 0}, r"rank must be a whole number of at least 1, got 0; the usual value is 8"),
            ({"rank": 4, "alpha": 0}, r"alpha must be a number above 0, got 0"),
            ({"rank": 4, "target_modules": ["q_proj"]}, r"no layer 'q_proj'; its linear layers are c_attn, c_fc"),
            ({"rank": 4, "target_modules": ["ln_1"]}, r"LoRA cannot be added to \['ln_1'\]: .*not supported"),
            ({"rank": 4, "target_modules": "h.9.*"}, r"LoRA cannot be added to h\.9\.\*: .*not found"),
        ],
    )
    def test_invalid_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            policy_of().with_lora(**settings)

    def test_model_unknown_to_peft(self):
        policy = policy_of()
        policy.model.config.model_type = "unheard-of"
        with pytest.raises(
            ValueError, match=r"no usual layers for LoRA in a unheard-of model.*--lora-targets: all-lin"
        ):
            policy.with_lora(RANK)
        assert policy.with_lora(RANK, target_modules="all-linear").parameters()

    def test_tied_layer(self):
        policy = policy_of(tie_word_embeddings=True)
        with pytest.raises(ValueError, match=r"lm_head shares its weight .* tie_word_embeddings=False"):
            policy.with_lora(RANK, target_modules=["lm_head"])
        assert policy_of().with_lora(RANK, target_modules=["lm_head"]).parameters()

    def test_second_adapter(self):
        with pytest.raises(ValueError, match="has LoRA already"):
            lora_policy().with_lora(RANK)

    def test_adapter_critic_without_adapter_policy(self):
        with pytest.raises(ValueError, match=r"needs a LoRA policy; use LMPolicy\.with_lora or --lora-rank"):
            make_critic(policy_of(), "adapter")
        with pytest.raises(ValueError, match=r"needs a LoRA policy"):
            toy_agent(policy=toy_policy(), critic="adapter")

    def test_frozen_policy(self):
        policy = toy_policy().with_lora(RANK)
        for frozen in (policy.frozen_copy(), toy_policy().frozen_copy()):
            with pytest.raises(ValueError, match="the policy has no trainable parameters"):
                toy_agent(policy=frozen)


class TestIdentities:
    """The identities of `test_identities`, with an adapter far from its initial weights."""

    @pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
    def test_sampling_and_scoring_agree(self, family, dtype):
        policy = trained(lora_policy(family, dtype=dtype))
        trajectories, layout = mixed_texts(policy)
        assert ratio_error(policy, trajectories, layout) <= TOLERANCES[dtype]
        # The control: the adapter changes the scores.
        assert ratio_error(LMPolicy(policy.lora.base(), None), trajectories, layout) > 0.1

    def test_scores_do_not_depend_on_the_batch(self, family):
        policy, texts = trained(lora_policy(family, dtype=torch.float64)), ragged_texts()
        together = logprobs(policy, texts)
        for row in range(len(texts)):
            single = alone(texts, row)
            torch.testing.assert_close(
                logprobs(policy, single)[0], together[row, : single.tokens.shape[1]], rtol=0, atol=1e-9
            )

    def test_ratio_is_one_before_the_first_update(self, family):
        for policy in (lora_policy(family), trained(lora_policy(family))):
            trajectories, layout = mixed_texts(policy)
            with torch.no_grad():
                ref = policy.frozen_copy().token_logprobs(trajectories.texts, layout).logprobs.double()
            assert abs(float(nats_per_text(trajectories.old_logprobs, ref, trajectories.wrote))) <= 1e-4


class TestCopies:
    def test_frozen_copy_does_not_follow_training(self, family):
        for policy in (lora_policy(family), trained(lora_policy(family))):
            frozen = policy.frozen_copy()
            before = logprobs(policy)
            assert torch.equal(logprobs(frozen), before)
            assert frozen.parameters() == []
            trained(policy, seed=1)
            assert torch.equal(logprobs(frozen), before)
            assert not torch.equal(logprobs(policy), before)

    def test_frozen_copy_of_an_adapter_with_other_weights_is_not_disabled(self):
        config = peft.LoraConfig(r=2, modules_to_save=["lm_head"])
        policy = LMPolicy(peft_model(language_model("llama"), config), None)
        policy.lora.weights()["lm_head.modules_to_save.default.weight"].data.mul_(2.0)
        assert torch.equal(logprobs(policy.frozen_copy()), logprobs(policy))

    def test_adapter_without_effect_is_disabled(self):
        def is_off(policy):
            return {layer.disable_adapters for layer in policy.lora._layers()} == {True}

        policy = lora_policy()
        frozen = policy.frozen_copy()
        assert is_off(frozen)
        assert not is_off(policy)
        assert not is_off(frozen.language_model.adapter_copy())
        assert not is_off(trained(policy).frozen_copy())
        # Loading weights updates the flag.
        initial = frozen.language_model.state_dict() | {}
        initial = {name: tensor.clone() for name, tensor in initial.items()}
        frozen.language_model.load_state_dict(policy.language_model.state_dict())
        assert not is_off(frozen)
        assert torch.equal(logprobs(frozen), logprobs(policy))
        assert frozen.parameters() == []
        frozen.language_model.load_state_dict(initial)
        assert is_off(frozen)

    def test_weights_of_other_layers_are_refused(self):
        with pytest.raises(ValueError, match="the saved adapter is for other layers"):
            lora_policy().language_model.load_state_dict(
                policy_of().with_lora(RANK, target_modules="all-linear").language_model.state_dict()
            )

    def test_full_copy_has_no_adapter_and_trains_fully(self, family):
        policy = trained(lora_policy(family))
        full = policy.with_language_model(policy.language_model.full_copy())
        assert full.lora is None
        torch.testing.assert_close(logprobs(full), logprobs(policy), rtol=0, atol=1e-4)
        assert len(full.parameters()) == len(list(full.model.parameters()))
        before = logprobs(policy)
        with torch.no_grad():
            for weight in full.parameters():
                weight.zero_()
        assert torch.equal(logprobs(policy), before)

    def test_other_sampling_settings_share_the_adapter(self):
        policy = lora_policy()
        assert policy.with_decoding(Decoding(temperature=0.5)).parameters() == policy.parameters()


class TestCritics:
    def test_adapter_critic(self, family):
        policy, texts = trained(lora_policy(family)), ragged_texts()
        critic = make_critic(policy, "adapter")
        assert critic(texts).shape == (len(texts), texts.tokens.shape[1] + 1)
        assert not critic(texts).any()
        with torch.no_grad():
            critic.head.weight.normal_(generator=generator(1))
            adapter, separate = critic(texts), make_critic(policy, "separate")
            separate.head.load_state_dict(critic.head.state_dict())
            torch.testing.assert_close(separate(texts), adapter, rtol=1e-4, atol=1e-3)
        assert set(critic.state_dict()) == {f"model.{n}" for n in policy.language_model.state_dict()} | {
            "head.weight",
            "head.bias",
        }
        other = make_critic(lora_policy(family))
        other.load_state_dict(critic.state_dict())
        with torch.no_grad():
            assert torch.equal(other(texts), adapter)

    def test_default_follows_the_policy(self):
        assert make_critic(lora_policy()).body.lora is not None
        assert make_critic(policy_of()).body.lora is None

    def test_each_loss_has_gradients_in_its_own_adapter_only(self, family):
        policy, texts = trained(lora_policy(family)), ragged_texts()
        critic, guide_critic = make_critic(policy), make_critic(policy)
        critic.head.weight.data.fill_(1.0)
        layout = TextLayout.of(foreign_envs(1))

        def reached():
            own = {"policy": policy.parameters(), "critic": critic.parameters(), "guide": guide_critic.parameters()}
            found = {critic_owner: [w for w in weights if w.grad is not None] for critic_owner, weights in own.items()}
            for critic_owner, weights in found.items():
                assert len(weights) in (0, len(own[critic_owner]))
            for model in (policy.model, critic.model, guide_critic.model):
                assert all(w.grad is None for name, w in model.named_parameters() if "lora_" not in name)
            return {critic_owner for critic_owner, weights in found.items() if weights}

        policy.token_logprobs(texts, layout).logprobs.sum().backward()
        assert reached() == {"policy"}
        critic(texts).sum().backward()
        assert reached() == {"policy", "critic"}
        for weight in policy.parameters():
            weight.grad = None
        (policy.token_logprobs(texts, layout).logprobs.sum() + guide_critic(texts).sum()).backward()
        assert reached() == {"policy", "critic", "guide"}

    @pytest.mark.parametrize("switched", [False, True])
    def test_switching_adapters_in_one_network_loses_gradients(self, switched):
        """The control: the reason why each adapter has its own network."""
        model = peft_model(language_model("llama"), peft.LoraConfig(r=2), adapter_name="policy")
        model.add_adapter("critic", peft.LoraConfig(r=2))
        weights = Lora(model).weights().values()
        loss = model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.sum()
        if switched:
            model.set_adapter("critic")
        loss.backward()
        assert [weight.grad is None for weight in weights] == [switched] * len(weights)


class TestTraining:
    def test_only_adapters_change(self, family):
        policy = toy_policy(family).with_lora(RANK)
        base, adapter = LMPolicy(policy.lora.base(), None), tensors(policy)
        before = tensors(base)
        agent = toy_agent(policy=policy)
        reference = tensors(agent.learner.ref_policy)
        first, *_ = history(agent, 2)
        assert abs(first["kl"]) < 1e-4
        assert first["policy/ratio_error"] < 1e-4
        assert same(tensors(base), before)
        assert same(tensors(agent.learner.ref_policy), reference)
        moved = [not torch.equal(tensor, adapter[name]) for name, tensor in policy.language_model.state_dict().items()]
        assert all(moved)
        critic, _ = agent.learner.critic("policy")
        assert critic.body.lora is not None
        assert critic.body.shares_base(policy.language_model)
        assert all(critic.state_dict()[f"model.{name}"].any() for name in adapter)  # including the second matrices

    @pytest.mark.parametrize("critic", ["separate", "adapter"])
    def test_reward_increases(self, critic):
        policy = toy_policy().with_lora(8, target_modules="all-linear")
        agent = toy_agent(policy=policy, critic=critic, episodes_per_iteration=64, minibatch_size=32, kl_coef=0.001)
        rewards = [row["reward/mean"] for row in history(agent, 12)]
        assert rewards[-1] > rewards[0] + 0.15

    # An adapter does not know which algorithm trains it; PPO++ has all networks that an encoder-decoder can be.
    @pytest.mark.parametrize(("name", "family"), [*((name, "gpt2") for name in SEVEN), ("ppo-pp", "t5")])
    def test_every_agent(self, name, family):
        kind, policy = agent_type(name), toy_policy(family).with_lora(RANK)
        base, adapter = LMPolicy(policy.lora.base(), None), tensors(policy)
        before = tensors(base)
        guide = {"guide": Guide(toy_policy(family, seed=1), top_p=0.9)} if kind.takes_guide else {}
        own = {"discriminator": "adapter"} if name == "gail" else {}
        agent = kind(policy=policy, envs=toy_envs(), config=kind.config_type(**NUMBERS, **own), **guide)
        assert all(row.get("policy/ratio_error", 0.0) < 1e-4 for row in history(agent, 2))
        assert same(tensors(base), before)
        assert not same(tensors(policy), adapter)

    def test_behaviour_cloning(self):
        policy = toy_policy().with_lora(RANK)
        base, before = LMPolicy(policy.lora.base(), None), tensors(policy)
        frozen = tensors(base)
        losses = [row["policy/loss"] for row in history(BC(policy, toy_envs(), BCConfig(**NUMBERS)), 5)]
        assert losses[-1] < losses[0]
        assert same(tensors(base), frozen)
        assert not same(tensors(policy), before)

    def test_guide_on_the_same_base(self):
        base = toy_policy()
        policy = trained(base.with_lora(RANK))
        for guide in (Guide(policy, top_p=0.9), Guide(base, top_p=0.9), Guide(base.with_lora(2))):
            agent = PPOPlusPlus(policy, guide, toy_envs(), PPOPlusPlusConfig(**RL, rollin_prob=0.6))
            assert agent.guide.policy.model is not policy.model
            assert agent.guide.policy.shares_base(policy)
            before = logprobs(agent.guide.policy)
            agent.learn(1)
            assert torch.equal(logprobs(agent.guide.policy), before)

    def test_guide_on_a_fully_trained_model(self):
        policy = toy_policy()
        agent = PPOPlusPlus(policy, Guide(policy.with_lora(2)), toy_envs(), PPOPlusPlusConfig(**RL))
        before = logprobs(agent.guide.policy)
        agent.learn(1)
        assert torch.equal(logprobs(agent.guide.policy), before)

    def test_gradient_checkpointing_changes_no_gradient(self, family):
        texts, layout = ragged_texts(), TextLayout.of(foreign_envs(1))

        def gradients(checkpointing):
            policy = trained(lora_policy(family, dtype=torch.float64))
            critic = make_critic(policy)
            critic.head.weight.data.fill_(1.0)
            if checkpointing:
                for model in (policy.model, critic.model):
                    checkpoint_gradients(model)
                    assert uses_gradient_checkpointing(model)
            (policy.token_logprobs(texts, layout).logprobs.sum() + critic(texts).square().sum()).backward()
            return [weight.grad for weight in [*policy.parameters(), *critic.parameters()]]

        for one, other in zip(gradients(True), gradients(False), strict=True):
            assert one is not None
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    def test_ppo_with_gradient_checkpointing(self):
        plain, checkpointed = toy_agent(), toy_agent(gradient_checkpointing=True)
        one, other = history(plain, 2), history(checkpointed, 2)
        assert one[-1]["critic/loss"] == pytest.approx(other[-1]["critic/loss"], rel=1e-4)
        assert one[-1]["policy/loss"] == pytest.approx(other[-1]["policy/loss"], rel=1e-3, abs=1e-5)

    def test_peft_model_as_policy(self):
        model = peft_model(
            language_model("llama", vocab_size=16, positions=20),
            peft.LoraConfig(r=2, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]),
            adapter_name="users",
        )
        policy = LMPolicy(model, toy_envs(1).unwrapped.tokenizer)
        assert any("modules_to_save" in name for name in policy.language_model.state_dict())
        before = tensors(policy)
        agent = toy_agent(policy=policy, critic="adapter")
        assert abs(history(agent, 1)[0]["kl"]) < 1e-4
        assert not same(tensors(policy), before)
        assert same(tensors(agent.learner.ref_policy), before)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (peft.IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj"], feedforward_modules=[]), r"got IA3"),
            (peft.LoraConfig(r=2, bias="lora_only"), r"LoRA with bias='none', got LORA with bias='lora_only'"),
            (
                peft.LoraConfig(r=2, alora_invocation_tokens=[5], task_type="CAUSAL_LM"),
                r"alora_invocation_tokens=\[5\]",
            ),
        ],
    )
    def test_unsupported_adapters_are_refused(self, config, message):
        with pytest.raises(ValueError, match=message):
            LMPolicy(peft_model(language_model("llama"), config), None)


def bytes_of(*models):
    """Return the bytes of distinct memory."""
    storages = {}
    for model in models:
        for weight in [*model.parameters(), *model.buffers()]:
            storages[weight.untyped_storage().data_ptr()] = weight.untyped_storage().nbytes()
    return sum(storages.values())


class TestMemory:
    def test_one_base_in_memory(self, family):
        base = policy_of(family)
        alone = bytes_of(base.model)
        policy = base.with_lora(RANK)
        adapter = sum(weight.nbytes for weight in policy.parameters())
        ref_policy, guide = policy.frozen_copy(), Guide(policy.frozen_copy())
        critics = [make_critic(ref_policy), make_critic(ref_policy)]
        models = [base.model, policy.model, ref_policy.model, guide.policy.model, *(critic.model for critic in critics)]
        assert bytes_of(*models, *(critic.head for critic in critics)) == alone + 5 * adapter + 2 * (32 + 1) * 4
        # The control: a critic that is not an adapter.
        assert bytes_of(*models, make_critic(ref_policy, "separate").model) >= 2 * alone

    def test_one_base_in_memory_after_loading(self, tmp_path):
        agent = learned(
            PPOPlusPlus(*[trained(toy_policy().with_lora(RANK))] * 2, toy_envs(), PPOPlusPlusConfig(**RL)), 1
        )
        agent.save(tmp_path)
        loaded = PPOPlusPlus.load(tmp_path, envs=toy_envs())
        policies, critic = (loaded.learner.ref_policy, loaded.guide.policy), loaded.learner.critic("policy")[0]
        for other in (*(policy.language_model for policy in policies), critic.body):
            assert other.shares_base(loaded.policy.language_model)
        assert [policy.parameters() for policy in policies] == [[], []]


class TestSaving:
    def test_merged_model_loads_in_transformers(self, family, tmp_path):
        policy, texts = trained(lora_policy(family)), ragged_texts()
        before, scores = tensors(policy), logprobs(policy)
        policy.save(tmp_path)
        assert same(tensors(policy), before)
        assert torch.equal(logprobs(policy), scores)
        assert not (tmp_path / "adapter_config.json").exists()
        kind = AutoModelForSeq2SeqLM if policy.model.config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(tmp_path)
        torch.testing.assert_close(logprobs(LMPolicy(model, None)), scores, rtol=1e-5, atol=1e-4)
        assert not any("lora" in name or "base_layer" in name for name, _ in model.named_parameters())
        written = model.generate(texts.prompts[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert written.numel() > 0

    def test_logits_of_the_merged_model(self, family, tmp_path):
        policy, texts = trained(lora_policy(family, dtype=torch.float64)), ragged_texts()
        policy.save(tmp_path)
        again = LMPolicy.from_pretrained(tmp_path, with_tokenizer=False, dtype="auto")
        with torch.no_grad():
            logits = [p.language_model.backbone.logits(texts) for p in (policy, again)]
        torch.testing.assert_close(*logits, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("family", "critic"), [("gpt2", "separate"), ("gpt2", "adapter"), ("t5", "adapter"), ("llama", "separate")]
    )
    def test_loaded_agent_continues_exactly(self, family, critic, tmp_path):
        straight = toy_agent(family, critic=critic)
        expected = history(straight, 3)
        stopped = toy_agent(family, critic=critic)
        reports = history(stopped, 2)
        stopped.save(tmp_path)
        stopped.learn(1)  # training after a save does not change the checkpoint
        loaded = PPO.load(tmp_path, envs=toy_envs())
        reports += history(loaded, 1)
        assert reports == expected
        assert same(tensors(loaded.policy), tensors(straight.policy))
        assert same(tensors(loaded.learner.ref_policy), tensors(straight.learner.ref_policy))
        assert same(loaded.learner.critic("policy")[0].state_dict(), straight.learner.critic("policy")[0].state_dict())

    def test_policy_with_a_trained_adapter(self, tmp_path):
        """The reference policy and the guide have adapters, too."""

        def agent():
            policy = trained(toy_policy().with_lora(RANK))
            return PPOPlusPlus(policy, Guide(policy, top_p=0.9), toy_envs(), PPOPlusPlusConfig(**RL, rollin_prob=0.6))

        expected = history(agent(), 3)
        stopped = agent()
        reports = history(stopped, 1)
        stopped.save(tmp_path)
        reports += history(PPOPlusPlus.load(tmp_path, envs=toy_envs()), 2)
        assert reports == expected
        assert not (tmp_path / "guide" / "base").exists()  # the guide shares the policy's base

    def test_base_as_guide_is_loaded(self, tmp_path):
        base = toy_policy()
        agent = learned(
            PPOPlusPlus(base.with_lora(RANK), Guide(base, top_p=0.9), toy_envs(), PPOPlusPlusConfig(**RL)), 1
        )
        agent.save(tmp_path)
        loaded = PPOPlusPlus.load(tmp_path, envs=toy_envs())
        assert torch.equal(logprobs(loaded.guide.policy), logprobs(base))
        assert loaded.guide.settings() == agent.guide.settings()
        assert history(loaded, 1) == history(agent, 1)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_precision_is_kept(self, dtype, tmp_path):
        agent = learned(toy_agent(policy=toy_policy(dtype=dtype).with_lora(RANK)), 1)
        agent.save(tmp_path)
        loaded = PPO.load(tmp_path, envs=toy_envs())
        assert next(loaded.policy.model.parameters()).dtype == dtype
        assert same(tensors(learned(loaded, 1).policy), tensors(learned(agent, 1).policy))

    @pytest.mark.parametrize("critic", ["separate", "adapter"])
    def test_adapter_of_any_name_continues_exactly(self, critic, tmp_path):
        model = language_model("llama", vocab_size=16, positions=20)
        policy = LMPolicy(
            peft_model(model, peft.LoraConfig(r=2), adapter_name="users"), toy_envs(1).unwrapped.tokenizer
        )
        agent = learned(toy_agent(policy=policy, critic=critic), 1)
        agent.save(tmp_path)
        assert history(PPO.load(tmp_path, envs=toy_envs()), 1) == history(agent, 1)

    @pytest.mark.parametrize("initial", ["pissa", "olora"])
    def test_adapter_that_took_a_part_of_its_base(self, initial, tmp_path):
        config = peft.LoraConfig(r=2, init_lora_weights=initial)  # the base is less by the adapter's first weights
        policy = trained(LMPolicy(peft_model(language_model("llama"), config), None))
        policy.language_model.save_adapter(tmp_path)
        again = LMPolicy.from_pretrained(tmp_path, with_tokenizer=False)
        assert torch.equal(logprobs(again), logprobs(policy))

    def test_global_generators_do_not_change(self, tmp_path):
        base = toy_policy()
        before = torch.get_rng_state()
        agent = learned(toy_agent(policy=base.with_lora(RANK)), 1)
        agent.save(tmp_path)
        PPO.load(tmp_path, envs=toy_envs()).learn(1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_adapter_saved_alone_has_its_tokenizer(self, tmp_path):
        toy_policy().with_lora(RANK).language_model.save_adapter(tmp_path)
        assert LMPolicy.from_pretrained(tmp_path).tokenizer.get_vocab() == toy_policy().tokenizer.get_vocab()

    def test_adapter_saved_alone(self, family, tmp_path):
        policy = trained(lora_policy(family))
        policy.language_model.save_adapter(tmp_path)
        again = LMPolicy.from_pretrained(tmp_path, with_tokenizer=False)
        assert same(tensors(again), tensors(policy))
        assert torch.equal(logprobs(again), logprobs(policy))
        assert [w.shape for w in again.parameters()] == [w.shape for w in policy.parameters()]
        task = "SEQ_2_SEQ_LM" if policy.model.config.is_encoder_decoder else "CAUSAL_LM"
        assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == task  # for peft's own classes


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


SMALL = ["--tiny-samples", "32", "--num-envs", "4", "--eval-examples", "4", "--epochs", "1"]


class TestCommandLine:
    def test_resumed_run_equals_an_uninterrupted_one(self, tmp_path):
        """Both with a base from a file and with one in memory."""
        lora = ["--lora-rank", 4, "--lora-alpha", 16, "--lora-targets", "all-linear", "--lr-schedule", "constant"]
        call("train", "ppo", *SMALL, *lora, "--iterations", 2, "--output-dir", tmp_path / "whole")
        call("train", "ppo", *SMALL, *lora, "--iterations", 1, "--output-dir", tmp_path / "parts")
        call("train", "ppo", "--resume", "--iterations", 2, "--output-dir", tmp_path / "parts", "--lora-rank", 4)

        def rows(run):
            found = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
            return [{k: v for k, v in row.items() if not k.startswith(("time/", "tokens_per"))} for row in found]

        assert rows("parts") == rows("whole")
        config = RunFolder(tmp_path / "whole").read_config()
        assert (config["lora_targets"], config["hyperparameters"]["critic"]) == ("all-linear", "adapter")
        checkpoint = sorted((tmp_path / "whole" / "checkpoints").iterdir())[-1]
        model = AutoModelForCausalLM.from_pretrained(checkpoint / "policy")
        assert not any("lora" in name for name, _ in model.named_parameters())
        agent = PPO.load(checkpoint, envs=gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode="Disabled"))
        assert {layer.scaling["default"] for layer in agent.policy.lora._layers()} == {4.0}
        call("evaluate", tmp_path / "whole", "--examples", 4)
        call("evaluate", checkpoint / "lora", "--env", "tril/CommonGen-v0", "--examples", 4)

    def test_policy_from_a_folder(self, tmp_path):
        call("train", "bc", *SMALL, "--iterations", 1, "--output-dir", tmp_path / "bc", "--policy", "tiny-seq2seq")
        policy = sorted((tmp_path / "bc" / "checkpoints").iterdir())[-1] / "policy"
        run = ["train", "ppo-pp", "--policy", policy, "--guide", policy, *SMALL, "--lora-rank", 4]
        call(*run, "--iterations", 1, "--output-dir", tmp_path / "run")
        checkpoint = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
        assert json.loads((checkpoint / "lora" / "base.json").read_text())["name"] == str(policy)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--lora-alpha", "3"], ["--lora-alpha", "--lora-rank", "8"]),
            (["--lora-targets", "all-linear"], ["--lora-targets", "--lora-rank"]),
            (["--load-in-4bit"], ["--load-in-4bit", "--lora-rank"]),
            (["--load-in-8bit", "--lora-rank", "8"], ["tiny", "leave --load-in-4bit and --load-in-8bit out"]),
            (["--lora-rank", "-1"], ["--lora-rank must be in [0, 65536], got -1"]),
            (["--lora-rank", "4", "--lora-targets", "q_proj"], ["q_proj", "c_attn"]),
            (["--critic", "adapter"], ["adapter", "--lora-rank"]),
        ],
    )
    def test_wrong_options_write_nothing(self, arguments, words, tmp_path):
        text = call("train", "ppo", *SMALL, *arguments, "--output-dir", tmp_path / "run", code=2)
        assert all(word in text for word in words), text
        assert list(tmp_path.iterdir()) == []


class TestBaseByName:
    @pytest.fixture
    def base(self, tmp_path):
        toy_policy().save(tmp_path / "base")
        return tmp_path / "base"

    def agent(self, base, **settings):
        return learned(toy_agent(policy=LMPolicy.from_pretrained(base, **settings).with_lora(RANK)), 1)

    def test_base_is_not_saved_again(self, base, tmp_path):
        agent = self.agent(base)
        agent.save(tmp_path / "run")
        assert not (tmp_path / "run" / "lora" / "base").exists()
        assert json.loads((tmp_path / "run" / "lora" / "base.json").read_text())["name"] == str(base)
        loaded = PPO.load(tmp_path / "run", envs=toy_envs())
        assert history(loaded, 1) == history(agent, 1)
        loaded.save(tmp_path / "again")
        assert not (tmp_path / "again" / "lora" / "base").exists()

    def test_base_by_a_relative_name_is_found_from_anywhere(self, base, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        policy = trained(LMPolicy.from_pretrained("base").with_lora(RANK))
        policy.language_model.save_adapter(tmp_path / "adapter")
        monkeypatch.chdir("/")
        assert torch.equal(logprobs(LMPolicy.from_pretrained(tmp_path / "adapter")), logprobs(policy))

    def test_settings_of_the_base_are_kept(self, base, tmp_path):
        agent = self.agent(base, dtype=torch.float64)
        agent.save(tmp_path / "run")
        loaded = PPO.load(tmp_path / "run", envs=toy_envs())
        assert next(loaded.policy.model.parameters()).dtype == torch.float64
        assert history(loaded, 1) == history(agent, 1)

    def test_missing_base_is_refused(self, base, tmp_path):
        self.agent(base).save(tmp_path / "run")
        moved = base.rename(tmp_path / "elsewhere")
        with pytest.raises(
            ValueError, match=r"the base .*base of the adapter .* cannot be loaded; put it back.*base\.json"
        ):
            PPO.load(tmp_path / "run", envs=toy_envs())
        # The remedy of the message works.
        file = tmp_path / "run" / "lora" / "base.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"name": str(moved)}))
        PPO.load(tmp_path / "run", envs=toy_envs())

    def test_changed_base_is_refused(self, base, tmp_path):
        self.agent(base).save(tmp_path / "run")
        shutil.rmtree(base)
        toy_policy(seed=1).save(base)
        with pytest.raises(ValueError, match="is no longer the model that the adapter"):
            PPO.load(tmp_path / "run", envs=toy_envs())

    @pytest.mark.parametrize("settings", [{"dtype": torch.float64}, {"attn_implementation": "eager"}])
    def test_changed_base_is_refused_whatever_else_is_set(self, base, settings, tmp_path):
        folder = tmp_path / "adapter"
        LMPolicy.from_pretrained(base, dtype=torch.float64).with_lora(RANK).language_model.save_adapter(folder)
        toy_policy(seed=1).save(base)
        with pytest.raises(ValueError, match="is no longer the model that the adapter"):
            LMPolicy.from_pretrained(folder, **settings)
        LMPolicy.from_pretrained(folder, dtype=torch.float32)  # control: other weights are asked for

    @pytest.mark.parametrize("settings", [{"trust_remote_code": True}, {}])
    def test_tokenizer_of_the_base_is_loaded_like_the_base(self, base, settings, tmp_path, monkeypatch):
        adapted = LMPolicy.from_pretrained(base, revision="v2").with_lora(RANK).language_model
        adapted.tokenizer = None
        adapted.save_adapter(tmp_path / "adapter")
        monkeypatch.setattr("tril_gym.models.language_model.load_tokenizer", lambda *name, **found: (*name, found))
        name, found = LMPolicy.from_pretrained(tmp_path / "adapter", **settings).tokenizer
        assert (name, found) == (str(base), {"revision": "v2"} | settings)

    def test_base_in_the_folder_is_loaded_as_it_is_told(self, tmp_path):
        toy_policy().with_lora(RANK).language_model.save_adapter(tmp_path)
        assert LMPolicy.from_pretrained(tmp_path).model.dtype == torch.float32
        assert LMPolicy.from_pretrained(tmp_path, dtype=torch.float64).model.dtype == torch.float64

    def test_every_weight_counts_in_the_fingerprint(self):
        layer = torch.nn.Linear(3, 3)  # 36 and 12 bytes, which are not whole numbers of 8
        known = fingerprint(layer)
        for weight in (layer.weight.data.view(-1), layer.bias.data):
            for place, number in enumerate(weight.tolist()):
                weight[place] = 9.0
                assert fingerprint(layer) != known
                weight[place] = number
                assert fingerprint(layer) == known

    def test_trained_base_is_saved(self, base, tmp_path):
        policy = LMPolicy.from_pretrained(base)
        BC(policy, toy_envs(), BCConfig(**NUMBERS)).learn(1)
        agent = learned(toy_agent(policy=policy.with_lora(RANK)), 1)
        agent.save(tmp_path / "run")
        assert (tmp_path / "run" / "lora" / "base").is_dir()
        loaded = PPO.load(tmp_path / "run", envs=toy_envs())
        assert history(loaded, 1) == history(agent, 1)

    def test_adapter_saved_by_peft_loads(self, base, tmp_path):
        model = peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, fan_in_fan_out=True))
        policy = trained(LMPolicy(model, None))
        model.save_pretrained(tmp_path / "adapter")
        again = LMPolicy.from_pretrained(tmp_path / "adapter")
        assert same(tensors(again), tensors(policy))
        assert again.tokenizer is not None  # that of the base
        assert again.parameters()
        again.language_model.save_adapter(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "base.json").read_text())["name"] == str(base)

    def test_adapter_without_base_is_refused(self, tmp_path):
        peft_model(language_model("llama"), peft.LoraConfig(r=2)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"does not name its base; write it into adapter_config\.json"):
            LMPolicy.from_pretrained(tmp_path)


class TestQuantised:
    @pytest.fixture(params=[4, 8])
    def base(self, request, tmp_path):
        pytest.importorskip("bitsandbytes")
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=16, max_position_embeddings=20, **sizes))
        LMPolicy(model, toy_envs(1).unwrapped.tokenizer).save(tmp_path / "base")
        return LMPolicy.from_pretrained(tmp_path / "base", **{f"load_in_{request.param}bit": True})

    @pytest.mark.parametrize("by_name", [True, False])
    def test_training_and_checkpoint(self, base, by_name, tmp_path):
        assert base.language_model.is_quantised
        with pytest.raises(ValueError, match="quantised weights cannot be trained; add an adapter"):
            toy_agent(policy=base)
        if not by_name:
            base.language_model.base_ref = None
        policy = base.with_lora(RANK)
        with pytest.raises(ValueError, match="cannot train quantised weights"):
            toy_agent(policy=policy, critic="separate")
        assert torch.equal(logprobs(policy), logprobs(base))
        weights = {type(weight).__name__: weight for weight in base.model.parameters()}
        assert weights.keys() & {"Params4bit", "Int8Params"}
        agent = toy_agent(policy=policy)
        first, *_ = history(agent, 2)
        assert abs(first["kl"]) < 1e-4
        assert first["policy/ratio_error"] < 1e-4
        networks = [base, policy, agent.learner.ref_policy, agent.learner.critic("policy")[0].body]
        quantised = [[w.data_ptr() for w in p.model.parameters() if not w.is_floating_point()] for p in networks]
        assert quantised == [quantised[0]] * 4  # one base in memory
        agent.save(tmp_path / "run")
        assert (
            tmp_path / "run" / "policy" / "adapter_config.json"
        ).is_file()  # not merged, as that would round the weights
        loaded = PPO.load(tmp_path / "run", envs=toy_envs())
        assert history(loaded, 1) == history(agent, 1)
        if by_name:
            model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy")
            assert model.generate(torch.ones(1, 2, dtype=torch.long), max_new_tokens=2, pad_token_id=0).numel() > 2

    def test_4_and_8_bits_exclude_each_other(self, tmp_path):
        with pytest.raises(ValueError, match="load_in_4bit and load_in_8bit exclude each other"):
            LMPolicy.from_pretrained(tmp_path, load_in_4bit=True, load_in_8bit=True)

    def test_without_bitsandbytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"pip install tril-gym\[quant\]"):
            LMPolicy.from_pretrained(tmp_path, load_in_4bit=True)

    def test_training_quantised_weights_is_refused(self):
        policy = policy_of()
        policy.model.quantization_method = "some"
        with pytest.raises(
            ValueError, match=r"quantised weights cannot be trained; add an adapter with policy\.with_lora"
        ):
            policy.language_model.check_trainable()
        with pytest.raises(ValueError, match=r"cannot train quantised weights; use critic=.adapter"):
            make_critic(policy.with_lora(RANK), "separate")
        policy.with_lora(RANK).language_model.check_trainable()
