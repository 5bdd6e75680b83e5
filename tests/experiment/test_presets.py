"""Presets: every key is a setting, every cell builds with small stand-ins for its models, some train.

A cell is an algorithm in an environment. The stand-ins are random models of the same kinds, in folders; nothing is
quantised, because that needs a GPU.
"""

from dataclasses import asdict, fields
from typing import Any

import pytest
import transformers
from click.testing import CliRunner
from doubles import learned
from seven import SEVEN
from spacy_pipeline import save_pipeline

from tril_gym.agents.tiny import TinySettings
from tril_gym.cli import main
from tril_gym.cli.training import train_command
from tril_gym.data.tokenizers import EMBEDDED
from tril_gym.experiment import presets
from tril_gym.experiment.algorithms import ALGORITHMS, AlgorithmSpec, agent_type
from tril_gym.experiment.build import build_run, restore_run
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.resolution import configure
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.utils.seeding import seeded

TASKS = {"tril/IMDB-v0": "imdb", "tril/CommonGen-v0": "common_gen", "tril/TLDR-v0": "tldr"}
ENVS = (*TASKS, "tril/HH-v0", "tril/Toy-v0")
CELLS = [
    (preset, algorithm, env)
    for preset in presets.names()
    for algorithm in (SEVEN if preset == "tril" else ALGORITHMS)
    for env in (TASKS if preset == "tril" else ENVS)
]
BUILT = [cell for cell in CELLS if cell[1] in SEVEN and cell[2] != "tril/HH-v0"]
BUILT.append(("embedded", "ppo-pp", "tril/HH-v0"))
SMALL = {"episodes_per_iteration": 4, "minibatch_size": 2, "gradient_accumulation": 1, "epochs": 1}

pytestmark = pytest.mark.filterwarnings("ignore:top_k=50")


def tables(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the general settings of a preset, and those of each environment and policy."""
    envs = list(content.get("envs", {}).values())
    return [content, *envs, *(own for table in (content, *envs) for own in table.get("policies", {}).values())]


def unknown(content: dict[str, Any]) -> list[str]:
    """Return keys of a preset that are no settings."""
    sections = {"run", "tiny", "guide", "algorithms"}
    found = [key for key in content if key not in sections | {"help", "envs", "policies"}]
    found += [key for own in tables(content)[1:] for key in own if key not in sections | {"policies"}]
    found += [env for env in content.get("envs", {}) if env not in ENVS]
    for table in tables(content):
        found += unknown_sizes(table)
        found += [key for key in table.get("run", {}) if key not in options("ppo")]
        for algorithm, numbers in table.get("algorithms", {}).items():
            found += unknown_hyperparameters(algorithm, numbers)
    return found


def unknown_hyperparameters(algorithm: str, numbers: dict[str, Any]) -> list[str]:
    if algorithm not in ALGORITHMS:
        return [algorithm]
    hyperparameters = {field.name for field in fields(agent_type(algorithm).config_type)}
    return (
        [key for key in numbers if key not in hyperparameters | {"run", "tiny", "guide"}]
        + [key for key in numbers.get("run", {}) if key not in options(algorithm)]
        + unknown_sizes(numbers)
    )


def unknown_sizes(table: dict[str, Any]) -> list[str]:
    sizes = [*table.get("tiny", {}), *table.get("guide", {})]
    return [key for key in sizes if key not in TinySettings.__dataclass_fields__]


def options(algorithm: str) -> set[str]:
    """Return the options of a run that a preset may set."""
    named = {option.name for option in train_command(algorithm).params}
    return named & {field.name for field in fields(RunConfig)} - {"preset"}


@pytest.mark.parametrize("name", presets.names())
def test_every_key_is_a_setting(name):
    assert unknown(presets.read(name)) == []


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"algorithms": {"ppo": {"learnig_rate": 1e-5}}}, "learnig_rate"),
        ({"envs": {"tril/TLDR-v0": {"algorithms": {"bc": {"clip_range": 0.2}}}}}, "clip_range"),
        ({"algorithms": {"ppo": {"run": {"polciy": "gpt2"}}}}, "polciy"),
        ({"algorithms": {"ppo": {"tiny": {"sampels": 3}}}}, "sampels"),
        ({"algorithms": {"gkd": {"guide": {"epohcs": 3}}}}, "epohcs"),
        ({"algorithms": {"ppo++": {}}}, "ppo++"),
        ({"run": {"learning_rate": 1e-5}}, "learning_rate"),
        ({"envs": {"tril/IMDB": {}}}, "tril/IMDB"),
        ({"envs": {"tril/IMDB-v0": {"hyperparameters": {}}}}, "hyperparameters"),
        ({"tiny": {"size": 3}}, "size"),
    ],
)
def test_misspelt_keys_are_found(content, key):
    assert unknown(content) == [key]


@pytest.mark.parametrize(("preset", "algorithm", "env"), CELLS)
def test_hyperparameters_are_valid_in_every_cell(preset, algorithm, env):
    config = configure(algorithm, preset=preset, env=env)
    agent_type(algorithm).config_type(**config.hyperparameters)


@pytest.mark.parametrize("name", ["embedded", "small"])
def test_small_models_have_settings_for_every_algorithm(name):
    """The defaults of algorithms are those of large pretrained models."""
    assert set(presets.read(name)["algorithms"]) == set(ALGORITHMS)


def test_a_new_algorithm_has_its_own_defaults_until_the_usual_preset_has_others(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "new", AlgorithmSpec("ppo:PPO", "A row without settings in any preset."))
    config = configure("new")
    assert config.hyperparameters["learning_rate"] == agent_type("ppo").config_type.learning_rate
    assert config.iterations == configure("gail").iterations  # of the preset: PPO has its own on CommonGen
    assert train_command("new").params
    with pytest.raises(ValueError, match=r"the preset small has settings for .* only, got new"):
        configure("new", preset="small")


# Every number of TRIL's files, by hand; see the head of tril.yaml for their names and commits.
ALL = {
    "gae_lambda": 0.95, "clip_range": 0.2, "value_clip_range": 0.2, "ent_coef": 0.0, "target_coef": 0.1,
    "max_grad_norm": 1.0, "joint_grad_norm": True, "weight_decay": 1e-6, "adam_betas": [0.9, 0.999],
    "kl_controller": "fixed",
}  # fmt: skip
OF_TASK = {
    "tril/IMDB-v0": {
        "gamma": 0.99, "vf_coef": 0.5, "kl_coef": 0.001, "top_k": 50, "learning_rate": 1e-5, "lr_schedule": "linear",
        "epochs": 5, "episodes_per_iteration": 112, "minibatch_size": 28,
    },
    "tril/CommonGen-v0": {
        "gamma": 0.99, "vf_coef": 30.0, "kl_coef": 0.0, "learning_rate": 5e-6, "lr_schedule": "linear",
        "epochs": 4, "episodes_per_iteration": 128, "minibatch_size": 32,
    },
    "tril/TLDR-v0": {
        "gamma": 1.0, "vf_coef": 0.1, "kl_coef": 0.002, "top_k": 50, "learning_rate": 5e-6, "lr_schedule": "constant",
        "epochs": 4, "episodes_per_iteration": 128, "minibatch_size": 32,
        "gradient_accumulation": 4, "gradient_checkpointing": True,
    },
}  # fmt: skip
OF_ALGORITHM = {
    "ppo": {}, "ppo-pp": {}, "aggrevated": {}, "lols": {"ppo_pp_prob": 0.8, "rollin_prob": 0.8},
    "d2lols": {"rollin_prob": 0.8, "warm_start_critic": False}, "gail": {"discriminator_epochs": 1},
}  # fmt: skip
OF_CELL = {
    ("tril/IMDB-v0", "ppo-pp"): {"rollin_prob": 0.6},
    ("tril/CommonGen-v0", "ppo-pp"): {"rollin_prob": 0.8},
    ("tril/TLDR-v0", "ppo-pp"): {"rollin_prob": 0.8},
    ("tril/IMDB-v0", "aggrevated"): {"rollin_prob": 0.8},
    ("tril/CommonGen-v0", "aggrevated"): {"rollin_prob": 0.8},
    ("tril/TLDR-v0", "aggrevated"): {"rollin_prob": 1.0},
    ("tril/IMDB-v0", "d2lols"): {"aggrevated_iterations": 20},
    ("tril/CommonGen-v0", "d2lols"): {"aggrevated_iterations": 100},
    ("tril/TLDR-v0", "d2lols"): {"aggrevated_iterations": 200},
    ("tril/IMDB-v0", "gail"): {
        "discriminator": "lvwerra/distilbert-imdb", "discriminator_learning_rate": 1e-5, "reward_form": "probability",
        "positive_only": False,
    },
    ("tril/CommonGen-v0", "gail"): {
        "discriminator": "distilbert-base-uncased", "discriminator_learning_rate": 5e-6, "reward_form": "probability",
    },
    ("tril/TLDR-v0", "gail"): {
        "discriminator": "adapter", "discriminator_learning_rate": 5e-6, "reward_form": "logit",
    },
}  # fmt: skip
BC = {
    "learning_rate": 1e-5, "weight_decay": 1e-6, "adam_betas": [0.9, 0.999], "lr_schedule": "constant", "epochs": 1,
}  # fmt: skip
BC_OF_TASK = {
    "tril/IMDB-v0": {"minibatch_size": 15},
    "tril/CommonGen-v0": {"minibatch_size": 30},
    "tril/TLDR-v0": {
        "episodes_per_iteration": 160, "minibatch_size": 16, "gradient_accumulation": 2, "gradient_checkpointing": True,
    },
}  # fmt: skip
RUN = {
    "tril/IMDB-v0": {
        "dataset": "hub", "policy": "rajkumarrrk/gpt2-fine-tuned-on-imdb-positive-reviews",
        "tokenizer": "lvwerra/gpt2-imdb", "guide": "rajkumarrrk/gpt2-fine-tuned-on-imdb-positive-reviews",
        "guide_top_p": 0.92, "guide_top_k": 50, "iterations": 50, "num_envs": 112, "eval_examples": 5000,
        "env_args": {
            "max_prompt_length": 64, "max_new_tokens": 48, "min_new_tokens": 48,
            "reward_settings": {"sentiment": {"model": "lvwerra/distilbert-imdb", "label": 1}},
        },
    },
    "tril/CommonGen-v0": {
        "dataset": "hub", "policy": "rajkumarrrk/t5-common-gen", "tokenizer": "t5-base",
        "guide": "rajkumarrrk/t5-common-gen", "guide_top_p": 0.92, "iterations": 500, "num_envs": 128,
        "eval_examples": 1000, "save_every": 100, "reward": {"spider": 1.0},
        "env_args": {
            "prompt_template": "generate a sentence with: {concepts}.",
            "max_prompt_length": 15, "max_new_tokens": 20, "min_new_tokens": 5,
        },
    },
    "tril/TLDR-v0": {
        "dataset": "hub", "policy": "CarperAI/openai_summarize_tldr_sft", "tokenizer": "gpt2",
        "guide": "CarperAI/openai_summarize_tldr_sft", "guide_top_p": 0.92, "lora_rank": 8, "lora_alpha": 64,
        "load_in_4bit": True, "iterations": 1000, "num_envs": 32, "eval_examples": 100, "save_every": 100,
        "reward": {"preference": 1.0},
        "env_args": {
            "prompt_template": "SUBREDDIT: r/{subreddit}\nTITLE: {title}\nPOST: {post}\nTL;DR:",
            "max_prompt_length": 500, "max_new_tokens": 50,
            "reward_settings": {
                "preference": {
                    "model": "jdchang/tldr_rm_adapter", "tokenizer": "EleutherAI/gpt-j-6b", "max_length": 550,
                    "template": "<|startoftext|>{prompt}{completion}<|endoftext|>", "minus_reference": True,
                },
            },
        },
    },
}  # fmt: skip
BC_RUN = {  # the base models, and as many iterations as make the passes over the data
    "tril/IMDB-v0": {"policy": "lvwerra/gpt2-imdb", "iterations": 1500, "num_envs": 150, "save_every": 50},
    "tril/CommonGen-v0": {"policy": "t5-base", "iterations": 2250, "num_envs": 300},
    "tril/TLDR-v0": {"policy": "EleutherAI/gpt-j-6b", "iterations": 3650},
}


@pytest.mark.parametrize("env", TASKS)
@pytest.mark.parametrize("algorithm", [*OF_ALGORITHM, "bc"])
def test_published_settings(env, algorithm):
    """Every number and every model is that of the paper's repository, and there are no others."""
    cell = presets.load("tril", env, algorithm)
    if algorithm == "bc":
        expected, run = BC | BC_OF_TASK[env], RUN[env] | {"save_every": 50} | BC_RUN[env]
    else:
        expected = ALL | OF_ALGORITHM[algorithm] | OF_TASK[env] | OF_CELL.get((env, algorithm), {})
        run = RUN[env]
    assert cell.hyperparameters == expected
    assert cell.run == run


def test_passes_over_the_data_are_those_of_the_files():
    """BC's iterations are passes × examples ÷ texts of an iteration; PPO's waves fill an iteration."""
    for env, passes, number, texts in (
        ("tril/IMDB-v0", 10, 22_500, 150),
        ("tril/CommonGen-v0", 10, 67_389, 300),
        ("tril/TLDR-v0", 5, 116_722, 160),
    ):
        assert BC_RUN[env]["iterations"] == pytest.approx(passes * number / texts, rel=0.01)
        assert OF_TASK[env]["episodes_per_iteration"] % RUN[env]["num_envs"] == 0


# Options against a preset.


def of(algorithm: str = "ppo-pp", env: str = "tril/IMDB-v0", **given: Any) -> RunConfig:
    return configure(algorithm, preset="tril", env=env, **given)


def test_an_option_wins_over_the_preset():
    assert of().guide == of().policy == "rajkumarrrk/gpt2-fine-tuned-on-imdb-positive-reviews"
    assert (of().guide_top_p, of().guide_top_k) == (0.92, 50)
    assert of("bc").policy == "lvwerra/gpt2-imdb"
    assert of(num_envs=3).num_envs == 3
    assert of(iterations=10).hyperparameters["lr_iterations"] == 10
    shorter = of(env_args={"max_new_tokens": 20, "min_new_tokens": 2}).env_args
    assert (shorter["max_prompt_length"], shorter["max_new_tokens"], shorter["min_new_tokens"]) == (64, 20, 2)
    assert "sentiment" in shorter["reward_settings"]


def test_settings_of_a_policy_win_over_the_others():
    """Encoder-decoders from scratch imitate by a schedule; an option wins over both."""
    schedules = [
        configure("bc", env="tril/IMDB-v0", policy=policy, **given).hyperparameters.get("lr_schedule", "constant")
        for policy, given in (("tiny", {}), ("tiny-seq2seq", {}), ("tiny-seq2seq", {"lr_schedule": "cosine"}))
    ]
    assert schedules == ["constant", "linear", "cosine"]


def test_preset_settings_that_do_not_apply_are_dropped():
    assert of("ppo").guide is of("ppo").guide_top_k is None
    other = of(policy="owner/name")
    assert other.guide is other.tokenizer is other.guide_top_k is None
    assert of(guide="owner/name").guide == "owner/name"
    assert of(guide="references").guide_top_p is None
    assert of(reward={"rouge_l": 1.0}).env_args["reward_settings"] == {}
    assert not of(env="tril/TLDR-v0", policy="tiny").load_in_4bit


def test_lora_and_quantisation_can_be_switched_off():
    tldr = {"env": "tril/TLDR-v0"}
    assert (of(**tldr).lora_rank, of(**tldr).lora_alpha, of(**tldr).load_in_4bit) == (8, 64, True)
    assert of(**tldr, load_in_4bit=False).lora_rank == 8
    assert not of(**tldr, load_in_4bit=False).load_in_4bit
    whole = of(**tldr, lora_rank=0)
    assert whole.lora_alpha is None
    assert not whole.load_in_4bit


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo", "--guide-top-k", "5"], ["ppo works without a guide", "--guide-top-k 5"]),
        (
            ["ppo-pp", "--guide", "references", "--guide-top-p", "0.5"],
            ["--guide-top-p is for a guide that is a language model", "references"],
        ),
        (["ppo", "--policy", "tiny", "--tokenizer", "gpt2"], ["created for the environment's tokenizer", "--env-arg"]),
    ],
)
def test_options_that_do_not_apply_are_refused(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train", *arguments, "--tiny-samples", "0"])
    assert result.exit_code == 2
    assert all(word in result.output for word in words), result.output


# Stand-ins.


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """Return folders by task: a model without a tokenizer, a tokenizer, and classifiers of two labels and one."""
    return {task: save_stand_ins(tmp_path_factory.mktemp(task), task) for task in TASKS.values()}


def save_stand_ins(folder, task):
    names = {"tokenizer_file": str(EMBEDDED / task / "tokenizer.json"), "eos_token": "<eos>", "pad_token": "<pad>"}
    tokenizer = transformers.PreTrainedTokenizerFast(**names)
    tokenizer.save_pretrained(folder / "tokenizer")
    with seeded(0):
        transformers.logging.disable_progress_bar()
        (seq2seq if task == "common_gen" else causal)(len(tokenizer)).save_pretrained(folder / "model")
        classifier(len(tokenizer)).save_pretrained(folder / "classifier")
        classifier(len(tokenizer), outputs=1).save_pretrained(folder / "preference")
    for name in ("classifier", "preference"):
        tokenizer.save_pretrained(folder / name)
    save_pipeline(folder / "pipeline")
    return folder


def causal(vocab_size):
    """Return a decoder-only model, like GPT-2 and GPT-J."""
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 550, "vocab_size": vocab_size + 3}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, bos_token_id=1, eos_token_id=1))


def seq2seq(vocab_size):
    size = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": vocab_size + 3}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**size, **ends))


def classifier(vocab_size, outputs=2):
    """Return a small DistilBERT."""
    size = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": vocab_size, "pad_token_id": 0}
    size |= {"max_position_embeddings": 550}
    return transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**size, num_labels=outputs))


def small(preset: str, algorithm: str, env: str, stand_ins: dict[str, Any], **env_args: Any) -> RunConfig:
    """Return the settings of a cell with stand-ins for its models, on embedded data, with few rows."""
    cell = presets.load(preset, env, algorithm)
    hyperparameters: dict[str, Any] = dict(SMALL)
    given: dict[str, Any] = {"env": env, "num_envs": 2, "tiny_samples": 0}
    if env == "tril/HH-v0":  # so that no reward model is fitted
        own = {"preference": {"model": str(stand_ins["tldr"] / "preference")}}
        return configure(algorithm, preset=preset, **given, env_args={"reward_settings": own}, **hyperparameters)
    if env not in TASKS:
        return configure(algorithm, preset=preset, **given, **hyperparameters)
    folder = stand_ins[TASKS[env]]
    if env == "tril/IMDB-v0":  # so that no classifier is fitted
        env_args["reward_settings"] = {"sentiment": {"model": str(folder / "classifier"), "label": 1}}
    if env == "tril/CommonGen-v0" and "spider" in cell.run.get("reward", {}):
        env_args["reward_settings"] = {"spider": {"pipeline": str(folder / "pipeline")}}
        env_args["max_prompt_length"] = 60  # the embedded tokenizer spells the words of the published prompts
    if env == "tril/TLDR-v0" and "preference" in cell.run.get("reward", {}):
        env_args["reward_settings"] = {"preference": {"model": str(folder / "preference"), "tokenizer": None}}
    if preset != "embedded":
        given |= {"dataset": "embedded", "policy": str(folder / "model"), "tokenizer": str(folder / "tokenizer")}
        given |= {"load_in_4bit": False}
        if agent_type(algorithm).takes_guide:
            given |= {"guide": given["policy"]}
            given |= {name: cell.run[name] for name in ("guide_top_k", "guide_top_p") if name in cell.run}
    if cell.hyperparameters.get("discriminator", "adapter") not in ("adapter", "tiny"):
        hyperparameters["discriminator"] = str(folder / "classifier")
    return configure(algorithm, preset=preset, **given, env_args=env_args, **hyperparameters)


@pytest.mark.parametrize(("preset", "algorithm", "env"), BUILT)
def test_every_cell_builds(preset, algorithm, env, stand_ins):
    config = small(preset, algorithm, env, stand_ins)
    parts = build_run(config)
    assert parts.agent.name == algorithm
    assert parts.agent.episodes == 4
    if preset == "tril" and env == "tril/TLDR-v0":
        assert parts.agent.policy.lora is not None


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [("lols", "tril/IMDB-v0"), ("d2lols", "tril/CommonGen-v0"), ("gail", "tril/TLDR-v0"), ("ppo-pp", "tril/TLDR-v0")],
)
def test_cells_learn(algorithm, env, stand_ins):
    short = {"max_new_tokens": 8, "min_new_tokens": 2}
    agent = build_run(small("tril", algorithm, env, stand_ins, **short)).agent
    before = {name: weight.clone() for name, weight in agent.policy.language_model.state_dict().items()}
    rows: list[dict[str, float]] = []
    agent.learn(1, callbacks=[lambda report: rows.append(report.metrics)])
    assert rows[0]["policy/ratio_error"] < 1e-4
    assert any(not weight.equal(before[name]) for name, weight in agent.policy.language_model.state_dict().items())


def test_a_guide_with_the_policys_name_shares_its_base(stand_ins):
    agent = build_run(small("tril", "ppo-pp", "tril/TLDR-v0", stand_ins)).agent
    assert agent.guide.policy.shares_base(agent.policy)
    assert agent.guide.settings()["top_p"] == 0.92
    agent = build_run(small("tril", "ppo-pp", "tril/IMDB-v0", stand_ins)).agent
    assert not agent.guide.policy.shares_base(agent.policy)
    assert agent.guide.settings()["top_k"] == 50


def test_a_guide_may_sample_its_whole_distribution(stand_ins):
    folder = stand_ins["imdb"]
    given = {"env": "tril/IMDB-v0", "policy": "tiny", "guide": "tiny", "guide_top_p": 1.0, "guide_top_k": 7}
    given |= {"env_args": {"reward_settings": {"sentiment": {"model": str(folder / "classifier")}}}}
    config = configure("ppo-pp", preset="embedded", num_envs=2, tiny_samples=0, **given)
    assert build_run(config).agent.guide.settings() == {
        "temperature": 0.3, "top_k": 7, "top_p": 1.0, "greedy": False, "min_new_tokens": None,
    }  # fmt: skip


@pytest.mark.parametrize(("algorithm", "shared"), [("ppo-pp", True), ("dagger", False), ("gkd", False)])
def test_a_tiny_guide_may_be_pretrained_otherwise_than_the_policy(algorithm, shared):
    agent = build_run(configure(algorithm, env="tril/CommonGen-v0", num_envs=2, tiny_samples=32)).agent
    mine, theirs = (actor.language_model.state_dict() for actor in (agent.policy, agent.guide.policy))
    assert all(mine[name].equal(theirs[name]) for name in mine) == shared


def test_a_cell_continues_from_its_checkpoint(stand_ins, tmp_path):
    """The guide shares the policy's base, and the tokenizer is another model's."""
    config = small("tril", "ppo-pp", "tril/TLDR-v0", stand_ins, max_new_tokens=8)
    agent = learned(build_run(config).agent, 1)
    agent.save(tmp_path / "saved")
    again = restore_run(config, tmp_path / "saved", tmp_path / "no-rewards").agent
    assert again.guide.policy.shares_base(again.policy)
    assert again.guide.settings() == agent.guide.settings()
    ours, loaded = (
        learned(agent, 1).policy.language_model.state_dict(),
        learned(again, 1).policy.language_model.state_dict(),
    )
    assert all(ours[name].equal(loaded[name]) for name in ours)


def test_a_run_is_evaluated_by_another_reward(stand_ins, tmp_path):
    config = small("tril", "bc", "tril/IMDB-v0", stand_ins, max_new_tokens=4, min_new_tokens=0)
    agent = build_run(config).agent
    (tmp_path / "checkpoints").mkdir()
    folder = RunFolder(tmp_path)
    folder.write_config(asdict(config))
    folder.save_checkpoint(0, agent.save)
    what = ["evaluate", str(tmp_path), "--examples", "2", "--num-envs", "2"]
    for more in ([], ["--reward", "rouge_l"]):
        result = CliRunner().invoke(main, what + more)
        assert result.exit_code == 0, result.output
        assert (more or ["sentiment"])[-1] in result.output


def test_truncated_policy_distributions_warn():
    for env in ("tril/IMDB-v0", "tril/TLDR-v0"):
        with pytest.warns(UserWarning, match="published settings"):
            agent_type("ppo").config_type(**of("ppo", env).hyperparameters)


@pytest.mark.parametrize("env", TASKS)
def test_without_a_network_the_message_names_the_data_or_the_model(env, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["train", "ppo-pp", "--preset", "tril", "--env", env, "--no-load-in-4bit"]
    for dataset, name in (([], "could not load"), (["--dataset", "embedded"], of(env=env).policy)):
        result = CliRunner().invoke(main, words + dataset)
        assert result.exit_code == 2
        assert name in result.output.replace("\n", "")
        assert "Traceback" not in result.output
        assert not list(tmp_path.glob("runs"))
