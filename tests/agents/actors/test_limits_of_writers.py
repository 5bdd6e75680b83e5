"""Guides and beam search where tokens are forced, cannot be written, or the guide is given as a name."""

import gymnasium as gym
import pytest
import torch
from fake_server import said, serving
from text_doubles import ids_of, metaspace_tokenizer, text_envs, write
from transformers import BartConfig, BartForConditionalGeneration

from tril_gym.agents import Guide, LMPolicy, Plan, collect
from tril_gym.agents.actors.beam_search import BeamSearch


def bart(tokenizer, *, forced_eos=None):
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 1}
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=16, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes, **ids)
    model = BartForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=3, forced_eos_token_id=forced_eos)  # as facebook/bart-base has
    return LMPolicy(model, tokenizer)


@pytest.mark.parametrize("forced_eos", [None, 1])
@pytest.mark.parametrize("minimum", [0, 8])
def test_a_forced_bos_is_no_token_of_the_text(forced_eos, minimum):
    envs = gym.make_vec("tril/Toy-v0", 4, autoreset_mode="Disabled", min_new_tokens=minimum)
    policy = bart(envs.unwrapped.tokenizer, forced_eos=forced_eos)
    policy.model.final_logits_bias[0, 1] = -50.0  # no EOS but a forced one
    texts = collect(envs, Plan(rollout=BeamSearch(policy, 3)), episodes=4, generator=torch.Generator().manual_seed(0))
    assert texts.lengths.tolist() == [8] * 4


def test_a_forced_bos_does_not_count_for_the_minimum():
    envs = gym.make_vec("tril/Toy-v0", 4, autoreset_mode="Disabled", min_new_tokens=4)
    policy = bart(envs.unwrapped.tokenizer)
    policy.model.final_logits_bias[0, 1] = 50.0  # EOS wherever it may stand
    texts = collect(envs, Plan(rollout=BeamSearch(policy, 3)), episodes=4, generator=torch.Generator().manual_seed(0))
    assert texts.lengths.tolist() == [5] * 4


@pytest.mark.parametrize("written", ["\n", "   "])
def test_text_without_a_token_of_the_environment_is_not_asked_for_on_and_on(written):
    def answer(asked):
        assert len(server.asked) < 100, "asked on and on"
        return said(written * asked.body["max_tokens"], reason="length")

    envs = gym.make_vec("tril/Toy-v0", num_envs=4, autoreset_mode="Disabled")
    with serving(answer) as server:
        guide = Guide.from_server(server.url, "m", pause=0.0, retries=0, token_ids=False)
        found = write(envs, Plan(rollout=guide), episodes=4, seed=1)
        assert len(server.texts()) < 20
    assert ids_of(found) == [[1]] * 4  # EOS alone


def test_a_server_whose_tokens_are_single_spaces_and_letters_still_fills_the_room():
    text = " the dog runs" * 20

    def answer(asked):  # one character is one token of the server
        place = next((end for end in range(len(text), 0, -1) if asked.body["prompt"].endswith(text[:end])), 0)
        return said(text[place : place + asked.body["max_tokens"]], reason="length")

    with serving(answer) as server:
        guide = Guide.from_server(server.url, "m", pause=0.0, retries=0, token_ids=False)
        found = write(text_envs(metaspace_tokenizer()), Plan(rollout=guide), episodes=2, seed=1)
    assert (found.lengths == found.tokens.shape[1]).all()


def test_a_guide_is_made_of_a_model_or_its_folder(tmp_path):
    envs = gym.make_vec("tril/Toy-v0", num_envs=2, autoreset_mode="Disabled")
    policy = bart(envs.unwrapped.tokenizer)
    policy.save(tmp_path)
    for found in (policy.model, tmp_path, str(tmp_path)):
        guide = Guide(found, top_p=0.5)
        assert guide.policy.decoding.top_p == 0.5
        assert guide.policy.vocab_size == 16
    with pytest.raises(ValueError, match="tiny_guide"):
        Guide("tiny")
