"""Beam search writes what `model.generate(num_beams=N)` writes for each prompt alone, and evaluations report it."""

import gymnasium as gym
import pytest
import torch

from tril_gym.agents import Plan, collect, tiny_policy
from tril_gym.agents.actors.beam_search import BeamSearch, best_texts
from tril_gym.agents.actors.whole_text_writer import up_to_end
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.experiment import evaluate
from tril_gym.functional.sampling import Decoding

SMALL = {"samples": 0, "width": 32, "heads": 2, "layers": 2}


def make(kind, **keywords):
    envs = gym.make_vec("tril/CommonGen-v0", 4, autoreset_mode="Disabled", prompt_eos=kind == "seq2seq", **keywords)
    policy = tiny_policy(envs, kind=kind, **SMALL)
    with torch.no_grad():  # the texts of small random weights are nearly ties
        if kind == "causal":
            policy.model.get_output_embeddings().weight.mul_(8.0)
        for weight in policy.model.parameters() if kind == "seq2seq" else ():
            weight.mul_(2.0)
    return envs, policy


def alone(policy, envs, prompt, beams):
    """Return what transformers writes after one prompt, which needs no padding."""
    spec = envs.metadata["text"]
    written = policy.model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=spec["max_new_tokens"],
        min_new_tokens=spec["min_new_tokens"],
        eos_token_id=list(spec["eos_token_ids"]),
        pad_token_id=0,
    )
    return written[0, 1 if policy.model.config.is_encoder_decoder else len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_texts_are_those_of_transformers(kind):
    envs, policy = make(kind, max_new_tokens=8, min_new_tokens=4)
    found = evaluate(policy, envs, seed=0, count=6, beams=3)
    by_example = {row["example"]: row["completion"] for row in found.texts if row["written"] == "beam_search"}
    greedy = {row["example"]: row["completion"] for row in found.texts if row["written"] == "greedy"}
    expected = {}
    for example in by_example:
        observations, _ = envs.reset(options={"example": [example] * 4})
        width = envs.metadata["text"]["max_prompt_length"]
        prompt = [int(token) for token in observations[0, :width] if token >= 0]
        ids = alone(policy, envs, prompt, 3)
        expected[example] = policy.tokenizer.decode(ids, skip_special_tokens=True)
    assert by_example == expected
    assert by_example != greedy  # the test can tell beams from one
    assert found.metrics["beam_search"]["examples"] == 6
    assert list(found.metrics) == ["greedy", "beam_search", "sampled"]


@pytest.mark.parametrize("settings", [{"num_beams": 2, "num_return_sequences": 2}, {"return_dict_in_generate": True}])
def test_one_text_is_written_on_each_prompt_whatever_the_generation_config_says(settings):
    envs, policy = make("causal", max_new_tokens=4)
    prompts, layout = [[5, 6, 7], [8], [9, 10]], TextLayout.of(envs)
    expected = best_texts(policy, prompts, layout, beams=3)
    for name, value in settings.items():
        setattr(policy.model.generation_config, name, value)
    assert best_texts(policy, prompts, layout, beams=3) == expected
    assert len({tuple(text) for text in expected}) > 1


def test_beams_find_likelier_texts_than_greedy_decoding():
    envs, policy = make("causal", max_new_tokens=6)
    layout = TextLayout.of(envs)

    def likelihood(actor):
        generator = torch.Generator().manual_seed(0)
        texts = collect(envs, Plan(rollout=actor), episodes=16, generator=generator, examples=list(range(16)))
        with torch.no_grad():
            logprobs = policy.token_logprobs(texts.texts, layout).logprobs[texts.is_token]
        return float(logprobs.mean())

    policy.check(layout)
    assert likelihood(BeamSearch(policy, 8)) > likelihood(policy.with_decoding(Decoding(greedy=True)))


def test_no_text_ends_before_the_minimum_length():
    for minimum in (0, 4):
        envs, policy = make("causal", max_new_tokens=6, min_new_tokens=minimum, eos_token_ids=list(range(0, 200)))
        texts = collect(envs, Plan(rollout=BeamSearch(policy, 2)), episodes=8, generator=torch.Generator())
        assert (int(texts.lengths.min()) > 4) == (minimum == 4)


def test_a_text_ends_at_the_first_end():
    assert up_to_end([5, 6, 2, 2, 0], [2, 3]) == [5, 6, 2]
    assert up_to_end([5, 3], [2, 3]) == [5, 3]
    assert up_to_end([5, 6], [2]) == [5, 6]


def test_begun_texts_and_one_beam_are_refused():
    envs, policy = make("causal", max_new_tokens=6)
    with pytest.raises(ValueError, match="beams must be at least 2, got 1"):
        BeamSearch(policy, 1)
    plan = Plan(rollout=BeamSearch(policy, 2), rollin=policy, rollin_prob=1.0)
    with pytest.raises(ValueError, match="can only begin"):
        collect(envs, plan, episodes=4, generator=torch.Generator().manual_seed(0))
