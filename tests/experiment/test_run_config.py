"""Settings of a run: bounds, what wins over what, values that follow from others, and help of every field."""

from dataclasses import asdict, fields
from functools import partial
from typing import get_args, get_type_hints

import pytest
import torch
from click.testing import CliRunner
from seven import SEVEN

from tril_gym.cli import main
from tril_gym.cli.options import GROUPS, help_text
from tril_gym.cli.training import train_command
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.experiment.config import GUIDE_OPTIONS, RunConfig
from tril_gym.experiment.resolution import configure, resolve
from tril_gym.reward_model.config import RewardModelConfig
from tril_gym.utils.config_fields import config_field

NOT_OPTIONS = {"algorithm", "hyperparameters"}
CONFIGS = {RunConfig, RewardModelConfig, *(agent_type(name).config_type for name in ALGORITHMS)}


def help_of(*words):
    result = CliRunner().invoke(main, [*words, "--help"], terminal_width=200)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("num_envs", -1),
        ("seed", -1),
        ("guide_top_p", 0.0),
        ("guide_top_p", float("nan")),
        ("lora_alpha", float("inf")),
        ("save_every", 0),
        ("threads", 0),
        ("eval_every", -1),
        ("kl_warning", 0.0),
    ],
)
def test_values_outside_the_bounds_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        RunConfig(algorithm="ppo", **{name: value})


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "much"])
def test_weights_of_rewards_are_finite(weight):
    with pytest.raises(ValueError, match=r"weight of reward 'rouge_l' must be a number in"):
        RunConfig(algorithm="ppo", reward={"rouge_l": weight})


@pytest.mark.parametrize("weight", [1e30, -1e7, True])
def test_absurd_weights_are_refused(weight):
    with pytest.raises(ValueError, match=r"weight of reward 'rouge_l' must be a number in \[-1000000, 1000000\], got"):
        RunConfig(algorithm="ppo", reward={"rouge_l": weight})


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("split", "test", "--eval-dataset"),
        ("dataset", "mine.jsonl", "--dataset"),
        ("num_envs", 3, "--num-envs"),
        ("autoreset_mode", "NextStep", "a run collects whole batches"),
        ("fitted_rewards", "folder", "a run saves"),
        ("copy", True, "keeps no observations"),
        ("render_mode", "ansi", "--per-example"),
    ],
)
def test_keywords_that_the_run_chooses_are_refused(name, value, way_out):
    """With --env-arg split=test a run would learn from its test examples."""
    with pytest.raises(ValueError, match=rf"--env-arg {name}={value} would override .*; use .*{way_out}"):
        configure("ppo", env_args={name: value})


def test_a_foreign_environment_may_have_a_split():
    assert RunConfig(algorithm="ppo", env="my:Env-v0", env_args={"split": "test"}).env_args == {"split": "test"}
    with pytest.raises(ValueError, match="num_envs=2"):
        RunConfig(algorithm="ppo", env="my:Env-v0", env_args={"num_envs": 2})


def test_two_rewards_are_refused():
    with pytest.raises(ValueError, match=r"--env-arg reward=rouge_l .*--reward"):
        RunConfig(algorithm="ppo", reward={"rouge_1": 1.0}, env_args={"reward": "rouge_l"})


def test_paths_are_settings(tmp_path):
    assert configure("ppo", dataset=tmp_path / "mine.jsonl").dataset == str(tmp_path / "mine.jsonl")


def test_a_file_of_pairs_needs_no_environment():
    assert configure("dpo", dataset="pairs.jsonl").env == "tril/Text-v0"
    assert configure("dpo").env == configure("ipo", dataset="hub:owner/name").env == "tril/HH-v0"
    assert configure("dpo", dataset="hh.jsonl", env="tril/HH-v0").env == "tril/HH-v0"


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="ppo has no setting 'rollin_prob'"):
        configure("ppo", rollin_prob=0.5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_names_of_settings_are_unique(algorithm):
    numbers = {entry.name for entry in fields(agent_type(algorithm).config_type)}
    assert numbers & {entry.name for entry in fields(RunConfig)} == set()


@pytest.mark.parametrize("algorithm", SEVEN)
def test_resolving_twice_changes_nothing(algorithm):
    once = configure(algorithm)
    assert resolve(once) == once
    assert set(once.hyperparameters) == {entry.name for entry in fields(agent_type(algorithm).config_type)}


def test_resolved_values_are_those_used():
    config = configure("ppo-pp", iterations=7, num_envs=5, lr_schedule="linear", lora_rank=4)
    assert (config.dataset, config.guide, config.guide_top_p, config.threads) == ("embedded", "tiny", 0.92, 1)
    assert config.reward == {"cider_d": 0.1, "concept_coverage": 1.0}
    assert (config.tiny_samples, config.lora_alpha) == (8000, 8.0)
    assert config.hyperparameters["episodes_per_iteration"] == 5
    assert config.hyperparameters["lr_iterations"] == 7
    assert config.hyperparameters["rollin_iterations"] is None
    scheduled = {"final_rollin_prob": 0.0, "iterations": 7}
    assert configure("ppo-pp", **scheduled).hyperparameters["rollin_iterations"] == 7
    assert configure("ppo-pp", **scheduled, rollin_iterations=3).hyperparameters["rollin_iterations"] == 3
    assert configure("ppo").guide is None
    assert configure("ppo", policy="gpt2", reward={"rouge_l": 1.0}).threads == torch.get_num_threads()
    assert configure("ppo", policy="gpt2", learning_rate=0.25).hyperparameters["critic_learning_rate"] == 0.25
    mixed = {"algorithm": "lols", "policy": "gpt2", "rollin_prob": 0.25}
    assert configure(**mixed).hyperparameters["aggrevated_rollin_prob"] == 0.25
    assert configure(**mixed, aggrevated_rollin_prob=0.0).hyperparameters["aggrevated_rollin_prob"] == 0.0
    # With a schedule, AggreVaTeD's probability follows that of PPO++, so it is no constant.
    assert configure(**mixed, final_rollin_prob=0.0).hyperparameters["aggrevated_rollin_prob"] is None
    assert configure("ppo", env="tril/Toy-v0").reward is None
    assert configure("ppo-pp", guide="references").guide_top_p is None


@pytest.mark.parametrize(
    ("algorithm", "name", "value", "needed"),
    [
        ("ppo-pp", "lr_iterations", 9, {"lr_schedule": "cosine"}),
        ("ppo-pp", "kl_target", 4.0, {"kl_controller": "pid"}),
        ("ppo-pp", "kl_gain", 0.01, {"kl_controller": "proportional", "kl_target": 4.0}),
        ("ppo-pp", "sampling_cap", 3.0, {"overlap": True}),
        ("ppo-pp", "apa_anchor", "reference", {"policy_loss": "apa", "kl_coef": 0.0}),
        ("ppo-pp", "rollin_iterations", 9, {"final_rollin_prob": 0.0}),
        ("ppo-pp", "cut_share", 0.25, {"cut": "share"}),
        ("d2lols", "best_of_by", "value", {"best_of": 2}),
        ("d2lols", "hand_over_margin", 0.5, {"hand_over": "quality"}),
        ("grpo", "given_shaping", 0.2, {"given_texts": 1}),
        ("grpo", "gamma", 0.9, {"advantage": "to_go"}),
        ("cispo", "clip_range", 0.1, {"ratio": "token"}),
        ("rebel", "clip_range", 0.1, {"loss": "p3o"}),
        ("p3o", "eta", 2.0, {"loss": "rebel"}),
        ("dagger", "jsd_mix", 0.1, {"loss": "jsd"}),
    ],
)
def test_hyperparameters_that_have_no_effect_are_refused(algorithm, name, value, needed):
    guide = "tiny" if agent_type(algorithm).takes_guide else None
    run_of = partial(configure, algorithm, preset="pretrained", guide=guide)
    assert run_of(**needed, **{name: value}).hyperparameters[name] == value
    usual = run_of().hyperparameters[name]
    assert run_of(**{name: usual}).hyperparameters[name] == usual  # as `config.yaml` has it
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value} has no effect here"):
        run_of(**{name: value})


def test_what_a_field_is_read_with_is_another_one_and_its_values():
    for kind in (agent_type(name).config_type for name in ALGORITHMS):
        entries = {entry.name: entry for entry in fields(kind)}
        for name, entry in entries.items():
            other, *values = entry.metadata["only_with"] or (name,)
            assert other in entries, (kind, name)
            if values:
                hint = get_type_hints(kind)[other]
                choices = {choice for part in (hint, *get_args(hint)) for choice in get_args(part)}
                assert set(values) < choices, (kind, name)


def test_every_field_has_an_option_with_help():
    for kind in CONFIGS:
        for entry in fields(kind):
            if entry.name not in NOT_OPTIONS:
                assert entry.metadata["help"], entry.name
                assert entry.metadata["group"] in GROUPS, entry.name


@pytest.mark.parametrize("algorithm", SEVEN)
def test_help_shows_what_a_run_without_options_uses(algorithm):
    config = configure(algorithm)
    used = asdict(config) | config.hyperparameters
    shown = {option.name: option.help for option in train_command(algorithm).params}
    for name in ("iterations", "num_envs", "learning_rate", "epochs", "minibatch_size", "tiny_samples"):
        assert f"default: {used[name]}]" in shown[name]
    if algorithm != "bc":
        assert "default: 0.02]" in shown["kl_coef"]  # the preset's; the default of the dataclass is 0.001


@pytest.mark.parametrize("algorithm", SEVEN)
def test_help_shows_no_option_that_is_refused(algorithm):
    text = help_of("train", algorithm)
    takes_guide = agent_type(algorithm).takes_guide
    for name in GUIDE_OPTIONS:
        assert (f"--{name.replace('_', '-')} " in text) == takes_guide
    assert ("Guide options:" in text) == takes_guide
    assert ("KL options:" in text) == (algorithm != "bc")


def test_help_groups_options_in_order():
    text = help_of("train", "ppo-pp")
    headings = [line.removesuffix(" options:") for line in text.splitlines() if line.endswith(" options:")]
    assert headings == ["Run", "Data", "Policy", "Guide", "Reward", "Optimisation", "KL", "Output"]
    for option, heading in (("--seed", "Run"), ("--reward-arg", "Reward"), ("--output-dir", "Output")):
        section = text.split(f"{heading} options:")[1].split(" options:")[0]
        assert option in section


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        (config_field(None, "step; default: the policy's", above=0), None, "Step  [above 0; default: the policy's]"),
        (config_field(None, "step; default: the policy's", above=0), 0.1, "Step  [above 0; default: 0.1]"),
        (config_field(None, "λ of it"), None, "λ of it"),
        (config_field(False, "whiten"), True, "Whiten  [default: yes]"),
        (config_field((0.9, 0.99), "rates"), (0.9, 0.99), "Rates  [default: 0.9 0.99]"),
        (config_field(None, "terms"), {"rouge_l": 1.0, "cider_d": 0.5}, "Terms  [default: rouge_l:1 cider_d:0.5]"),
    ],
)  # fmt: skip
def test_help_of_a_field(field, value, shown):
    assert help_text(field.metadata, value) == shown


def test_seconds_of_pretraining_where_nothing_is_pretrained_are_refused():
    for algorithm, settings in (("bc", {}), ("ppo", {"policy": "some-model"}), ("ppo", {"tiny_samples": 0})):
        with pytest.raises(ValueError, match="--pretrain-seconds 5 has no effect here: no tiny model is pretrained"):
            configure(algorithm, **settings, pretrain_seconds=5.0)
    assert configure("ppo", pretrain_seconds=5.0).pretrain_seconds == 5.0
    assert configure("ppo-pp", policy="some-model", guide="tiny", pretrain_seconds=5.0).pretrain_seconds == 5.0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"adam_betas": 0.9}, "adam_betas must be two numbers, got 0.9"),
        ({"env_args": 3}, "env_args must be values by name"),
    ],
)
def test_settings_of_another_type_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        configure("ppo", env="tril/Toy-v0", **setting)
