"""Completions of prompts that no environment gives are those that the environment would see."""

import gymnasium as gym
import pytest
import torch
from click.testing import CliRunner
from doubles import rwkv_policy
from text_doubles import byte_tokenizer, model_of

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.agents import Plan, TextLayout, collect, tiny_policy
from tril_gym.cli import main
from tril_gym.experiment import configure, train
from tril_gym.functional.sampling import Decoding

SMALL = {"samples": 0, "width": 16, "layers": 1, "heads": 2}


def toys(n=4):
    return gym.make_vec("tril/Toy-v0", num_envs=n, autoreset_mode="Disabled")


@pytest.fixture(params=["causal", "seq2seq"])
def policy(request):
    return tiny_policy(toys(), kind=request.param, **SMALL)


def test_greedy_completions_are_those_in_the_environment(policy):
    envs = toys()
    layout = TextLayout.of(envs)
    greedy = policy.with_decoding(Decoding(greedy=True))
    texts = collect(envs, Plan(rollout=greedy), episodes=4, generator=torch.Generator().manual_seed(0))
    prompts = [info["prompt"] for info in texts.infos]
    found = policy.generate(prompts, max_new_tokens=layout.max_new_tokens, greedy=True)
    assert found == [info["completion"] for info in texts.infos]
    assert policy.generate(prompts[0], max_new_tokens=layout.max_new_tokens, greedy=True) == found[0]


@pytest.mark.whole_runs
def test_a_family_that_is_read_otherwise_is_read_right():
    policy, prompts = rwkv_policy(), ["w2 w3 w4 w5", "w6"]
    alone = [policy.generate(prompt, max_new_tokens=6, greedy=True) for prompt in prompts]
    assert policy.language_model.backbone.mode.cache == "none"
    assert policy.generate(prompts, max_new_tokens=6, greedy=True) == alone
    assert rwkv_policy().generate(prompts, max_new_tokens=6, greedy=True, check_model=False) != alone  # the control


def test_the_seed_decides(policy):
    prompts = ["w2 w3", "w4"]
    one, again, other = (policy.generate(prompts, max_new_tokens=6, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_texts_end_at_eos_or_at_the_length(policy):
    short = policy.generate(["w2"] * 200, max_new_tokens=3)
    lengths = {len(text.split()) for text in short}
    assert max(lengths) == 3
    assert min(lengths) < 3  # EOS, one of 16 tokens
    assert all("<eos>" not in text for text in short)


def test_without_a_length_the_positions_suffice():
    policy = tiny_policy(toys(), **SMALL)  # of 12 positions
    assert isinstance(policy.generate("w2 w3"), str)
    with pytest.raises(ValueError, match="must be at most 10 after a prompt of 2 tokens"):
        policy.generate("w2 w3", max_new_tokens=40)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "got ''"),
        ([], r"got \[\]"),
        ([3], "got 3"),
        (["w2", ""], "got ''"),
        ("dog", "got 'dog', in which the tokenizer"),
    ],
)
def test_bad_prompts_are_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        tiny_policy(toys(), **SMALL).generate(prompts)


def test_texts_that_could_not_end_are_refused():
    policy = model_of(byte_tokenizer())
    policy.model.generation_config.eos_token_id = policy.tokenizer.eos_token_id = None
    with pytest.raises(ValueError, match="could not end: neither its generation config nor its tokenizer names an EOS"):
        policy.generate("the dog", max_new_tokens=4)


def test_a_length_below_one_is_refused():
    with pytest.raises(ValueError, match="max_new_tokens must be a whole number of at least 1, got 0"):
        tiny_policy(toys(), **SMALL).generate("w2", max_new_tokens=0)


def sample(*arguments):
    return CliRunner().invoke(main, ["sample", *map(str, arguments)])


def test_the_command_completes_prompts_with_a_run_or_a_model(tmp_path):
    run = tmp_path / "run"
    settings = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 2, "iterations": 1, "tiny_samples": 0}
    train(configure("ppo", **settings), run)
    done = sample(run, "w2 w3", "w4", "--samples", 2)
    assert done.exit_code == 0, done.output
    assert [line.split(" |")[0] for line in done.output.splitlines()] == ["w2 w3", "w2 w3", "w4", "w4"]
    (model,) = (run / "checkpoints").glob("*1/policy")
    assert sample(model, "w2", "--greedy").output == sample(run, "w2", "--greedy").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["no/such/folder", "w2"], "no language model could be loaded"), (["x", "w2", "--device", "tpu"], "tpu")],
)
def test_mistakes_are_explained(arguments, message):
    done = sample(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_length_beyond_the_positions_names_the_option(tmp_path):
    policy = tiny_policy(toys(), **SMALL)  # of 12 positions
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    command = ["sample", str(tmp_path), "w2 w3", "--max-new-tokens"]
    fits, too_long = (CliRunner().invoke(main, [*command, length]) for length in ("10", "500"))
    assert (fits.exit_code, too_long.exit_code) == (0, 2)
    assert "--max-new-tokens must be at most 10 after a prompt of 2 tokens" in " ".join(too_long.output.split())
