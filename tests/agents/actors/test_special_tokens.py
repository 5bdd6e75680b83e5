"""Ends of texts, and tokens with a meaning: several EOS, EOS after prompts, their names in data, prepended spaces."""

import gymnasium as gym
import pytest
import torch
from doubles import foreign_envs, generator, language_model
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import BC, PPO, LMPolicy, Plan, TextLayout, collect
from tril_gym.agents.actors.free_prompts import prompt_ids
from tril_gym.agents.actors.references import ReferenceTokens
from tril_gym.data import Example
from tril_gym.utils.text_codec import TextCodec

WORDS = ["<unk>", "<s>", "</s>", "<eot>", *"▁dogcat<>/s", "▁dog", "▁cat", "▁a"]
VOCABULARY = {word: number for number, word in enumerate(dict.fromkeys(WORDS))}
UNK, BOS, EOS, EOT = range(4)
DOG, CAT, SPACE = (VOCABULARY[word] for word in ("▁dog", "▁cat", "▁"))


def tokenizer(template: str | None = "<s> $A") -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama 2 has: it puts "▁" before every text."""
    pieces = {word: -1.0 if len(word) > 1 else -5.0 for word in VOCABULARY}
    inner = Tokenizer(models.Unigram(list(pieces.items()), unk_id=UNK))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = None
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    names = [("<s>", BOS), ("</s>", EOS)]
    if template:
        inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=names)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def envs(own: PreTrainedTokenizerFast | None = None, examples=None, **settings):
    examples = examples or [Example("a cat", references=("dog",))]
    return gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=2,
        dataset=examples,
        tokenizer=own or tokenizer(),
        reward="rouge_l",
        max_prompt_length=12,
        max_new_tokens=8,
        **settings,
    )


def policy(eos: int | list[int] = EOS, family: str = "llama", **settings) -> LMPolicy:
    model = language_model(family, vocab_size=len(VOCABULARY), **settings)
    model.generation_config.eos_token_id = eos
    return LMPolicy(model, tokenizer())


class TestSeveralEnds:
    def test_any_of_the_ids_ends_a_text(self):
        found = envs(eos_token_ids=[EOT, EOS])
        assert found.metadata["text"]["eos_token_ids"] == [EOS, EOT]  # references end in the tokenizer's
        texts = collect(found, Plan(rollout=policy([EOS, EOT])), episodes=40, generator=generator())
        lasts = {int(texts.tokens[row, length - 1]) for row, length in enumerate(texts.lengths) if length < 8}
        assert lasts == {EOS, EOT}
        whole = texts.tokens[texts.is_token & (torch.arange(8) < texts.lengths.unsqueeze(1) - 1)]
        assert not torch.isin(whole, torch.tensor([EOS, EOT])).any()

    def test_by_default_it_is_the_tokenizers(self):
        assert envs().metadata["text"]["eos_token_ids"] == [EOS]

    def test_a_policy_that_knows_more_is_refused_with_what_to_write(self):
        with pytest.raises(ValueError, match=r"any of the ids \[2, 3\].*environment at \[2\].*eos_token_ids=\[2, 3\]"):
            PPO(policy([EOS, EOT]), envs())
        PPO(policy([EOS, EOT]), envs(eos_token_ids=[EOS, EOT]))
        PPO(policy(EOS), envs(eos_token_ids=[EOS, EOT]))  # one that knows less writes on, and is stopped

    @pytest.mark.parametrize("ids", [[], [-1], [99], ["</s>"]])
    def test_ids_that_are_no_actions_are_refused(self, ids):
        with pytest.raises(ValueError, match="eos_token_ids must be ids of 0 to"):
            envs(eos_token_ids=ids)


class TestEOSAfterPrompts:
    ADDS_EOS = "<s> $A </s>"

    def test_causal_prompts_do_not_end_in_eos(self):
        own = tokenizer(self.ADDS_EOS)
        with pytest.raises(ValueError, match=r"prompts end in EOS.*prompt_eos=False"):
            PPO(policy(), envs(own))
        plain = envs(own, prompt_eos=False)
        PPO(policy(), plain)
        observation, _ = plain.reset()
        assert observation[0, :12].tolist()[-3:] == [BOS, VOCABULARY["▁a"], CAT]

    def test_free_prompts_do_not_end_in_eos_either(self):
        own = tokenizer(self.ADDS_EOS)
        writer = LMPolicy(policy().model, own)
        found = collect(envs(own, prompt_eos=False), Plan(rollout=writer), episodes=2, generator=generator())
        expected = [found.texts.prompt_ids(row) for row in range(2)]
        assert prompt_ids(writer, [info["prompt"] for info in found.infos]) == expected

    def test_encoders_keep_it(self):
        own = tokenizer("$A </s>")
        PPO(policy(family="t5"), envs(own))
        observation, _ = envs(own).reset()
        assert observation[0, :12].tolist()[-2:] == [CAT, EOS]


class TestNamesOfSpecialTokens:
    """In data they are text."""

    def test_in_a_prompt(self):
        observation, _ = envs(examples=[Example("a </s> cat", references=("dog",))]).reset()
        assert EOS not in observation[0].tolist()
        assert observation[0, :12].tolist()[-1] == CAT

    def test_in_a_reference(self):
        found = envs(examples=[Example("a cat", references=("a </s> dog",))])
        ids = ReferenceTokens(TextLayout.of(found))("a </s> dog")
        assert ids.count(EOS) == 1
        assert ids[-2:] == [DOG, EOS]
        agent = BC(policy(), found)
        texts = collect(found, agent.plan(0), episodes=2, generator=generator())
        assert texts.lengths.tolist() == [len(ids)] * 2  # all of it is learned


class TestPrependedSpaces:
    def test_a_reference_has_one_space(self):
        layout = TextLayout.of(envs())
        assert layout.tokenizer(" dog", add_special_tokens=False)["input_ids"] == [SPACE, DOG]  # the control
        assert ReferenceTokens(layout)("dog") == [DOG, EOS]
        assert TextCodec(layout.tokenizer).text([DOG]) == " dog"

    def test_embedded_references_are_as_the_tokenizer_spells_them(self):
        found = gym.make_vec("tril/CommonGen-v0", num_envs=1)
        layout = TextLayout.of(found)
        for example in found.unwrapped.examples[:50]:
            for text in example.references:
                plain = layout.tokenizer(" " + text, add_special_tokens=False)["input_ids"]
                assert ReferenceTokens(layout)(text) == [*plain, layout.eos_token_ids[0]][: layout.max_new_tokens]


class TestTokenizersLongerThanTheModel:
    """One message, whichever end the user comes from."""

    def test_in_an_environment_of_the_tokenizers_size(self):
        small = LMPolicy(language_model("gpt2", vocab_size=5), tokenizer())
        with pytest.raises(ValueError, match=r"has 18 tokens, the model 5 logits.*resize_token_embeddings\(18\)"):
            PPO(small, envs())

    def test_in_an_environment_of_the_models_size(self):
        with pytest.raises(ValueError, match=r"of 18 tokens, got 5.*resize_token_embeddings\(18\)"):
            envs(vocab_size=5)

    def test_a_model_with_more_logits_is_told_of_vocab_size(self):
        large = LMPolicy(language_model("gpt2", vocab_size=20), tokenizer())
        with pytest.raises(ValueError, match="vocab_size=20"):
            PPO(large, envs())

    def test_a_foreign_environment_without_tokenizer(self):
        with pytest.raises(ValueError, match="the model has 5 logits, the environment 24 actions"):
            PPO(LMPolicy(language_model("gpt2", vocab_size=5), None), foreign_envs(1))
