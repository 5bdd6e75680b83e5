"""A language model with another tokenizer as a guide."""

import pytest
import torch
from doubles import language_model, learned, same
from text_doubles import (
    EXAMPLES,
    Dictates,
    byte_tokenizer,
    completions,
    encoded,
    ids_of,
    metaspace_tokenizer,
    model_of,
    text_envs,
    write,
)

from tril_gym.agents import (
    AggreVaTeD,
    AggreVaTeDConfig,
    Guide,
    LMPolicy,
    Plan,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
)
from tril_gym.agents.collection.cuts import ShareCut
from tril_gym.utils.text_codec import TextCodec


def greedy(guide: LMPolicy, prompt: str, begun: str = "") -> str:
    """Return the model's text by `generate` of transformers."""
    prompt_ids = guide.tokenizer(prompt)["input_ids"]
    begun_ids = encoded(guide.tokenizer, begun) if begun else []
    settings = {"do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
    if guide.model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.tensor([prompt_ids]), "decoder_input_ids": torch.tensor([[0, *begun_ids]])}
        skip = 1
    else:
        prompt_ids = prompt_ids[:-1] if prompt_ids[-1] == guide.tokenizer.eos_token_id else prompt_ids
        inputs = {"input_ids": torch.tensor([prompt_ids + begun_ids])}
        skip = len(prompt_ids)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    [ids] = guide.model.generate(**inputs, **settings, max_new_tokens=60 - len(begun_ids))
    codec = TextCodec(guide.tokenizer)
    return codec.text(ids[skip:].tolist()).removeprefix(codec.text(begun_ids))


class TestWriting:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
    def test_texts_are_those_of_generate(self, family):
        """The same as by `generate` of transformers on the prompt in the guide's own tokens."""
        guide = model_of(metaspace_tokenizer(), family, seed=3)
        envs = text_envs(byte_tokenizer())
        trajectories = write(envs, Plan(rollout=Guide(guide, top_k=1)))
        texts = completions(trajectories)
        assert len(set(texts)) > 1
        for info, text in zip(trajectories.infos, texts, strict=True):
            said = greedy(guide, info["prompt"])
            said = said if not said or said.startswith(" ") else f" {said}"
            # Texts that are too long are truncated, possibly within a character.
            assert text == said if info["finish_reason"] == "stop" else said.startswith(text.rstrip("\ufffd"))

    def test_rollouts_continue_at_the_switch(self):
        guide, tokenizer = model_of(metaspace_tokenizer(), seed=3), byte_tokenizer()
        rollin = Dictates([[*encoded(tokenizer, " the dog runs"), 1]])
        plan = Plan(rollout=Guide(guide, top_k=1), rollin=rollin, rollin_prob=1.0, learn_on="rollin")
        trajectories = write(text_envs(tokenizer), plan, episodes=16)
        assert len(trajectories.switch.unique()) > 3
        for info, ids, h in zip(trajectories.infos, ids_of(trajectories), trajectories.switch.tolist(), strict=True):
            begun = tokenizer.decode(ids[:h])
            said = begun + greedy(guide, info["prompt"], begun)
            text = info["completion"].rstrip("\ufffd")
            assert text == said if info["finish_reason"] == "stop" else said.startswith(text)

    def test_a_text_that_fills_its_room_already_is_ended(self):
        tokenizer = byte_tokenizer()
        begun = encoded(tokenizer, "concepts")[:1] * 7
        assert len(tokenizer.decode(begun)) > 2 * 8  # of its own tokens, which are bytes
        guide, rollin = Guide(model_of(byte_tokenizer(merges=0), seed=3)), Dictates([[*begun, 5]])
        plan = Plan(rollout=guide, rollin=rollin, rollin_prob=1.0, learn_on="rollin", cut=ShareCut(1.0))
        trajectories = write(text_envs(tokenizer, max_new_tokens=8), plan)
        assert ids_of(trajectories) == [[*begun, 1]] * 8

    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    def test_the_same_texts_for_any_number_of_rows(self, family):
        tokenizer = byte_tokenizer()
        guide = Guide(model_of(metaspace_tokenizer(), family, seed=3), temperature=1.5, top_p=0.95)
        policy = model_of(tokenizer)
        for plan in (
            Plan(rollout=policy, rollin=guide, rollin_prob=0.7),
            Plan(rollout=guide, rollin=policy, rollin_prob=0.7, learn_on="rollin"),
        ):
            wide, narrow = (write(text_envs(tokenizer, rows), plan, episodes=8) for rows in (8, 3))
            assert same(wide, narrow)
        other = write(text_envs(tokenizer, 8), plan, episodes=8, seed=2)
        assert completions(other) != completions(wide)  # the control: texts are sampled

    def test_global_generators_do_not_change(self):
        guide = Guide(model_of(metaspace_tokenizer(), seed=3))
        before = torch.get_rng_state()
        write(text_envs(byte_tokenizer()), Plan(rollout=guide))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("owner", ["the environment's", "its own"])
    def test_min_new_tokens_counts_its_own_tokens(self, owner):
        model = model_of(metaspace_tokenizer(), seed=3)
        shortest = []
        for least in (0, 9):
            guide = Guide(model, temperature=3.0, min_new_tokens=least if owner == "its own" else None)
            settings = {"min_new_tokens": least} if owner == "the environment's" else {}
            texts = completions(write(text_envs(byte_tokenizer(), 32, **settings), Plan(rollout=guide), episodes=64))
            shortest.append(min(len(encoded(model.tokenizer, text)) for text in texts))
        # (Encoding a text again may take fewer tokens, so nine may become eight.)
        assert shortest[0] < 8 <= shortest[1]

    def test_every_eos_of_the_model_ends_a_text(self):
        """A model may have several EOS ids, some of them words of its tokenizer; none is part of a text."""
        model = model_of(byte_tokenizer(merges=0), seed=3)
        [s] = encoded(model.tokenizer, "s")
        seen = []
        for eos in (1, [1, s]):
            model.model.generation_config.eos_token_id = eos
            texts = completions(write(text_envs(byte_tokenizer(), 32), Plan(rollout=Guide(model, temperature=3.0)), 64))
            seen.append(any("s" in text for text in texts))
        assert seen == [True, False]

    @pytest.mark.parametrize("kind", ["ppo-pp", "aggrevated"])
    def test_training_leaves_the_guide_unchanged(self, kind):
        tokenizer = byte_tokenizer()
        policy, guide = model_of(tokenizer, dtype=torch.float32), model_of(metaspace_tokenizer(), "t5", seed=3)
        weights = [tensor.clone() for tensor in guide.model.state_dict().values()]
        numbers = {"learning_rate": 1e-3, "minibatch_size": 4, "rollin_prob": 0.7}
        envs = text_envs(tokenizer, reward="rouge_l")
        if kind == "ppo-pp":
            agent = PPOPlusPlus(policy, Guide(guide), envs, PPOPlusPlusConfig(**numbers), seed=0)
        else:
            agent = AggreVaTeD(policy, Guide(guide), envs, AggreVaTeDConfig(**numbers), seed=0)
        before = [tensor.clone() for tensor in policy.model.state_dict().values()]
        agent.learn(2)
        assert all(map(torch.equal, weights, guide.model.state_dict().values()))
        assert not all(map(torch.equal, before, policy.model.state_dict().values()))

    def test_a_t5_policy_with_a_gpt2_guide(self):
        """Different kinds of models and vocabularies."""
        tokenizer = metaspace_tokenizer()
        policy, guide = model_of(tokenizer, "t5"), model_of(byte_tokenizer(), seed=3)
        envs = text_envs(tokenizer)
        plan = Plan(rollout=policy, rollin=Guide(guide, top_k=1), rollin_prob=1.0)
        trajectories = write(envs, plan, episodes=16)
        assert len(trajectories.switch.unique()) > 2
        for info, ids, h in zip(trajectories.infos, ids_of(trajectories), trajectories.switch.tolist(), strict=True):
            said = greedy(guide, info["prompt"])
            whole = encoded(tokenizer, said if said.startswith(" ") else f" {said}")
            assert ids[:h] == whole[:h]
        PPOPlusPlus(policy, Guide(guide), text_envs(tokenizer, reward="rouge_l"), PPOPlusPlusConfig()).learn(1)

    def test_equal_vocabulary_needs_no_text(self):
        layout = TextLayout.of(text_envs(byte_tokenizer()))
        assert not Guide(model_of(byte_tokenizer())).reads_text(layout)  # an equal tokenizer, not the same one
        assert Guide(model_of(byte_tokenizer(merges=39))).reads_text(layout)
        assert not Guide(LMPolicy(language_model("gpt2"), None)).reads_text(layout)

    def test_more_logits_than_tokens_are_refused(self):
        tokenizer = byte_tokenizer()
        wide = LMPolicy(language_model("gpt2", vocab_size=len(tokenizer) + 5, positions=200), tokenizer)
        with pytest.raises(ValueError, match=r"the guide does not fit .* logits, the environment"):
            PPOPlusPlus(model_of(tokenizer), Guide(wide), text_envs(tokenizer), PPOPlusPlusConfig())

    def test_positions_for_prompt_and_completion(self):
        tokenizer = byte_tokenizer()
        settings = {"max_prompt_length": 60, "max_new_tokens": 30}
        for positions, fits in ((89, False), (90, True)):
            guide = Guide(model_of(metaspace_tokenizer(), positions=positions))
            layout = TextLayout.of(text_envs(tokenizer, **settings))
            if fits:
                guide.check(layout)
            else:
                with pytest.raises(ValueError, match=r"the guide does not fit .* 89 positions"):
                    guide.check(layout)

    def test_long_prompts_are_cut_to_its_positions(self):
        """With 50 positions and 20 new tokens, prompts are truncated to 30 tokens."""
        tokenizer = metaspace_tokenizer()
        guide = model_of(byte_tokenizer(merges=0), positions=50, seed=3)
        envs = text_envs(tokenizer, max_prompt_length=20, max_new_tokens=10)
        assert max(len(encoded(guide.tokenizer, example.prompt)) for example in EXAMPLES) > 30
        rollin = Dictates([[*encoded(tokenizer, " the dog runs"), 1]])
        for plan in (Plan(rollout=Guide(guide)), Plan(rollout=Guide(guide), rollin=rollin, rollin_prob=1.0)):
            assert len(write(envs, plan)) == 8

    def test_eos_is_required(self):
        guide = model_of(metaspace_tokenizer())
        guide.model.generation_config.eos_token_id = None
        Guide(guide).check(TextLayout.of(text_envs(byte_tokenizer())))  # its tokenizer has one
        guide.model.generation_config.eos_token_id = 50_256
        with pytest.raises(ValueError, match=r"names no EOS among its \d+ tokens, got 50256"):
            Guide(guide).check(TextLayout.of(text_envs(byte_tokenizer())))


class TestSaving:
    def test_saved_guide_keeps_its_tokenizer(self, tmp_path):
        tokenizer = byte_tokenizer()
        guide = Guide(model_of(metaspace_tokenizer(), "t5", seed=3), top_p=0.9, min_new_tokens=2)
        numbers = PPOPlusPlusConfig(rollin_prob=0.7, minibatch_size=4)
        envs = text_envs(tokenizer, reward="rouge_l")
        straight = learned(PPOPlusPlus(model_of(tokenizer), guide, envs, numbers, seed=0), 2)
        stopped = learned(PPOPlusPlus(model_of(tokenizer), guide, envs, numbers, seed=0), 1)
        stopped.save(tmp_path)
        again = PPOPlusPlus.load(tmp_path, envs=envs)
        assert again.guide.reads_text(again.layout)
        assert again.guide.policy.tokenizer.get_vocab() == guide.policy.tokenizer.get_vocab()
        assert again.guide.settings() == guide.settings()
        again.learn(1)
        pairs = zip(straight.policy.model.state_dict().values(), again.policy.model.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
