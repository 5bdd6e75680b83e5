"""What agents accept as policy, guide, environment and config, and what their messages say of anything else."""

import gymnasium as gym
import numpy as np
import pytest
import transformers
from doubles import EOS, Foreign, V, foreign_envs, language_model, policy_of
from doubles import toy_envs as envs_of

from tril_gym.agents import (
    BC,
    GRPO,
    PPO,
    AggreVaTeD,
    GRPOConfig,
    Guide,
    LMPolicy,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    References,
    TextLayout,
)
from tril_gym.functional.sampling import Decoding
from tril_gym.wrappers import ActionMasking, TextObservation

BERT = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def toy_envs(**settings):
    return envs_of(**{"vocab_size": V} | settings)


def tokenizer():
    return gym.make("tril/Toy-v0", vocab_size=V).unwrapped.tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    LMPolicy(language_model("gpt2"), tokenizer()).save(folder)
    return folder


class TestPolicies:
    @pytest.mark.parametrize("own", [None, 3, [3, 4], EOS])
    def test_its_texts_end_where_those_of_the_environment_do(self, own, tmp_path):
        """Training teaches these ends: a saved policy that stops at others would write on."""
        model = language_model("gpt2")
        model.generation_config.eos_token_id = own
        agent = PPO(LMPolicy(model, tokenizer()), toy_envs())
        assert agent.policy.eos_token_ids == (EOS,)
        agent.save(tmp_path / "agent")
        saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "agent" / "policy")
        assert saved.generation_config.eos_token_id in (EOS, [EOS])

    def test_a_folder_is_loaded(self, folder):
        for given in (folder, str(folder)):
            agent = PPO(given, toy_envs())
            assert isinstance(agent.policy, LMPolicy)
            agent.learn(1)
            assert agent.iteration == 1

    def test_a_model_has_the_tokenizer_of_the_environment(self):
        envs = toy_envs()
        agent = BC(language_model("gpt2"), envs)
        assert agent.policy.tokenizer is agent.layout.tokenizer
        agent.learn(1)
        assert agent.iteration == 1

    def test_a_peft_model_is_a_lora_policy(self):
        from peft import LoraConfig, get_peft_model

        from tril_gym.utils.quiet import without_peft_warnings

        config = LoraConfig(r=2, task_type="CAUSAL_LM", fan_in_fan_out=True)
        with without_peft_warnings():
            peft_model = get_peft_model(language_model("gpt2"), config)
        assert PPO(peft_model, toy_envs()).policy.lora is not None

    @pytest.mark.parametrize(
        ("given", "error", "words"),
        [
            ("no-such-folder/model", ValueError, "no language model could be loaded as 'no-such-folder/model'"),
            ("./no-such-folder", ValueError, r"as '\./no-such-folder'.*\(there is no such folder\)"),
            ("tiny", ValueError, r"'tiny' models are made for an environment: tiny_policy\(envs\)"),
            (3, TypeError, "a policy is an LMPolicy, a model of transformers, or the name or folder of one, got int"),
            (None, TypeError, r"got NoneType; write LMPolicy\.from_pretrained"),
        ],
    )
    def test_what_is_no_policy(self, given, error, words):
        with pytest.raises(error, match=words):
            PPO(given, toy_envs())

    def test_a_model_of_another_vocabulary_says_what_to_write(self, folder):
        with pytest.raises(ValueError, match=rf"tokenizer='{folder}', and vocab_size={V}"):
            PPO(str(folder), toy_envs(vocab_size=V - 2))


class TestEncoders:
    """BERT loads as a causal model, and reads the token that it is to predict."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("models") / "bert"
        transformers.BertForMaskedLM(transformers.BertConfig(**BERT)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    def test_a_folder_is_refused(self, folder):
        for load in (LMPolicy.from_pretrained, lambda name: PPO(name, toy_envs())):
            with pytest.raises(
                ValueError, match=r"is a bert model: an encoder.* choose a decoder-only model such as gpt2"
            ):
                load(folder)

    @pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertLMHeadModel", "BertModel"])
    def test_a_model_is_refused(self, kind):
        model = getattr(transformers, kind)(transformers.BertConfig(**BERT))
        with pytest.raises(ValueError, match=f"{kind} is a bert model: an encoder"):
            LMPolicy(model, tokenizer())

    def test_one_without_a_causal_class_is_refused(self, tmp_path):
        sizes = {"vocab_size": V, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
        transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**sizes)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="is a distilbert model: an encoder"):
            LMPolicy.from_pretrained(tmp_path)

    def test_one_that_is_a_decoder_is_not(self):
        model = transformers.BertLMHeadModel(transformers.BertConfig(is_decoder=True, **BERT))
        assert LMPolicy(model, tokenizer()).vocab_size == V

    def test_on_the_command_line(self, folder, tmp_path):
        from click.testing import CliRunner

        from tril_gym.cli import main

        for words in (
            ["train", "ppo", "--policy", str(folder), "--output-dir", str(tmp_path / "run")],
            ["train", "ppo-pp", "--guide", str(folder), "--output-dir", str(tmp_path / "run"), "--tiny-samples", "0"],
            ["evaluate", str(folder), "--env", "tril/CommonGen-v0"],
            ["sample", str(folder), "a prompt"],
        ):
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 2, result.output
            assert "is a bert model: an encoder" in " ".join(result.output.split())
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: "gpt2", r"got 'gpt2'; LMPolicy\.from_pretrained\(name\) loads one"),
        (tokenizer, "must be a causal or an encoder-decoder model of transformers, got "),
        (lambda: language_model("gpt2").transformer, "GPT2Model has no language-modelling head"),
        (
            lambda: transformers.GPT2ForSequenceClassification(language_model("gpt2").config),
            "no language-modelling head",
        ),
    ],
)
def test_a_policy_of_what_writes_no_text(model, words):
    with pytest.raises(TypeError, match=words):
        LMPolicy(model(), None)


class TestGuides:
    def test_a_model_is_a_guide(self, folder):
        for guide in (folder, str(folder), language_model("gpt2", seed=3), policy_of("gpt2", seed=4)):
            agent = PPOPlusPlus(policy_of(), guide, toy_envs())
            assert isinstance(agent.guide, Guide)
            agent.learn(1)
            assert agent.iteration == 1

    def test_references_by_name(self):
        assert isinstance(PPOPlusPlus(policy_of(), "references", toy_envs()).guide, References)

    @pytest.mark.parametrize(
        ("guide", "error", "words"),
        [
            ("tiny", ValueError, r"tiny_guide\(envs\)"),
            ("my_guides:best", ValueError, r"Guide\.from_callable\(f\)"),
            (print, TypeError, r"Guide\.from_callable\(f\)"),
            (None, TypeError, "needs a guide, got None"),
            (5, TypeError, "an actor has a start method, got 5"),
        ],
    )
    def test_what_is_no_guide(self, guide, error, words):
        with pytest.raises(error, match=words):
            AggreVaTeD(policy_of(), guide, toy_envs())


class TestEnvironments:
    @pytest.mark.parametrize(
        ("envs", "words"),
        [
            (
                "tril/Toy-v0",
                r"got 'tril/Toy-v0'; use gym\.make_vec\('tril/Toy-v0', num_envs=\.\.\.\).*PPO\(policy, envs\)",
            ),
            (None, "got NoneType; use"),
            (Foreign(), "got Foreign; use"),
        ],
    )
    def test_what_is_no_vector_environment(self, envs, words):
        with pytest.raises(TypeError, match=words):
            PPO(policy_of(), envs)

    def test_arguments_in_another_order(self):
        with pytest.raises(TypeError, match=r"got LMPolicy; .* the arguments are PPO\(policy, envs\)"):
            PPO(toy_envs(), policy_of())
        with pytest.raises(TypeError, match=r"got Guide; .* PPOPlusPlus\(policy, guide, envs\)"):
            PPOPlusPlus(policy_of(), toy_envs(), Guide(policy_of()))

    @pytest.mark.parametrize(
        ("metadata", "words"),
        [
            ({"eos_token_ids": "0"}, r"eos_token_ids must be a list of ids such as \[0\], got '0'"),
            ({"eos_token_ids": None}, "eos_token_ids must be a list"),
            ({"eos_token_ids": [True]}, "eos_token_ids must be a list"),
            ({"stop": "##"}, "stop must be a list of strings that are not empty, got '##'"),
            ({"stop": [""]}, "stop must be a list"),
            ({"eos_token_ids": [V]}, rf"ids of 0 to {V - 1}, one at least, got \[{V}\]"),
            ({"eos_token_ids": []}, r"one at least, got \[\]"),
            ({"max_new_tokens": "8"}, r"max_new_tokens must be a whole number of at least 1, got '8'"),
            ({"max_prompt_length": 0}, "max_prompt_length must be a whole number of at least 1, got 0"),
            ({"vocab_size": 24.0}, "vocab_size must be a whole number"),
            ({"min_new_tokens": -1}, "min_new_tokens must be a whole number of at least 0"),
            ({"num_examples": "many"}, "num_examples must be a whole number"),
            ({"restart": "all"}, "restart must be None"),
        ],
    )
    def test_metadata_of_another_type(self, metadata, words):
        envs = foreign_envs(2)
        envs.metadata = envs.metadata | {"text": envs.metadata["text"] | metadata}
        with pytest.raises(ValueError, match=words):
            TextLayout.of(envs)

    @pytest.mark.parametrize("wrapper", [ActionMasking, TextObservation])
    def test_observations_that_a_wrapper_changed(self, wrapper):
        with pytest.raises(
            ValueError, match=r"agents read observations of \(\d+,\) token ids, and those of .*leave out"
        ):
            PPO(policy_of(), wrapper(toy_envs()))

    def test_a_completion_that_is_padded_with_zeros(self):
        class PadsWithZero(Foreign):
            def reset(self, **settings):
                observation, info = super().reset(**settings)
                return np.maximum(observation, 0), info

        with pytest.raises(
            ValueError, match=r"begins texts with a full completion of 8 tokens; columns without a token"
        ):
            PPO(policy_of(), foreign_envs(2, env=PadsWithZero)).learn(1)

    def test_one_eos_may_be_a_number(self):
        envs = foreign_envs(2)
        envs.metadata = envs.metadata | {"text": envs.metadata["text"] | {"eos_token_ids": EOS}}
        assert TextLayout.of(envs).eos_token_ids == (EOS,)

    def test_an_unknown_autoreset_mode(self):
        envs = foreign_envs(2)
        envs.metadata = envs.metadata | {"autoreset_mode": "sometimes"}
        with pytest.raises(ValueError, match="'NextStep', 'SameStep', 'Disabled', got 'sometimes'"):
            TextLayout.of(envs)


@pytest.mark.parametrize("eos", [0, [0]])
def test_one_eos_of_an_environment_may_be_a_number(eos):
    assert gym.make("tril/CommonGen-v0", eos_token_ids=eos).metadata["text"]["eos_token_ids"] == [0]


@pytest.mark.parametrize("eos", ["0", -1, 10**6, True, 1.0, [], ["a"]])
def test_what_is_no_eos_of_an_environment(eos):
    with pytest.raises(ValueError, match=r"eos_token_ids must be ids of 0 to \d+, one at least, got .*; write a list"):
        gym.make("tril/CommonGen-v0", eos_token_ids=eos)


class TestConfigsAndNumbers:
    @pytest.mark.parametrize("config", [{"learning_rate": 1e-4}, PPOConfig, "small"])
    def test_what_is_no_config(self, config):
        with pytest.raises(TypeError, match=r"ppo takes a PPOConfig, got .*; write PPOConfig\(learning_rate=1e-5\)"):
            PPO(policy_of(), toy_envs(), config)

    def test_a_text_for_a_number_says_what_to_write(self):
        with pytest.raises(ValueError, match=r"learning_rate must be a number, got '3e-4'; write 0\.0003"):
            PPOConfig(learning_rate="3e-4")
        with pytest.raises(ValueError, match="gradient_checkpointing must be True or False, got 'yes'; write True"):
            PPOConfig(gradient_checkpointing="yes")

    @pytest.mark.parametrize("seed", ["0", 1.5, -1, None])
    def test_what_is_no_seed(self, seed):
        with pytest.raises(ValueError, match="seed must be a whole number of at least 0, got"):
            PPO(policy_of(), toy_envs(), seed=seed)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"temperature": "0.3"}, "temperature must be a number, got '0.3'"),
            ({"top_p": "0.9"}, "top_p must be a number, got '0.9'"),
            ({"top_k": "5"}, "top_k must be a whole number of at least 1, got '5'"),
            ({"temperature": True}, "temperature must be a number, got True"),
        ],
    )
    def test_decoding_of_another_type(self, settings, words):
        with pytest.raises(ValueError, match=words):
            Decoding(**settings)

    @pytest.mark.parametrize("least", [-1, 2.5, "2"])
    def test_a_minimum_length_of_a_guide(self, least):
        with pytest.raises(ValueError, match="min_new_tokens must be a whole number of at least 0, got "):
            Guide(policy_of(), min_new_tokens=least)

    def test_generation_of_another_type(self, folder):
        policy = LMPolicy.from_pretrained(folder)
        for settings, words in (
            ({"max_new_tokens": "5"}, "max_new_tokens must be a whole"),
            ({"seed": "0"}, "seed must"),
        ):
            with pytest.raises(ValueError, match=words):
                policy.generate("ab", **settings)

    def test_lora_of_another_type(self):
        with pytest.raises(ValueError, match="rank must be a whole number"):
            policy_of().with_lora("8")


def test_a_model_without_its_head_is_refused(tmp_path):
    """A classifier loads as a language model whose head has random weights."""
    config = language_model("llama").config
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no language model: it lacks the weights lm_head\.weight"):
        LMPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_its_head_is_loaded(tmp_path, family, tied):
    model = language_model(family, **({} if family == "bart" else {"tie_word_embeddings": tied}))
    LMPolicy(model, tokenizer()).save(tmp_path)
    assert LMPolicy.from_pretrained(tmp_path).vocab_size == V


class TestHyperparameters:
    def test_one_that_has_no_effect_warns(self):
        with pytest.warns(UserWarning, match="gamma=0.9 has no effect: advantage is standardised, and it is for to_go"):
            GRPO(policy_of("gpt2"), toy_envs(), GRPOConfig(gamma=0.9))
        with pytest.warns(UserWarning, match="rollin_iterations=5 has no effect: final_rollin_prob is not given"):
            PPOPlusPlus(policy_of("gpt2"), References(), toy_envs(), PPOPlusPlusConfig(rollin_iterations=5))

    def test_one_that_has_an_effect_does_not(self):
        GRPO(policy_of("gpt2"), toy_envs(), GRPOConfig(gamma=0.9, advantage="to_go"))
