"""Precision: what is trained is float32, whatever it was saved in; what is only read stays as it was saved."""

import json
import os

import pytest
import torch
from click.testing import CliRunner
from doubles import foreign_envs, language_model, toy_envs, toy_policy

from tril_gym.agents import PPO, Guide, LMPolicy, PPOConfig, PPOPlusPlus
from tril_gym.cli import main
from tril_gym.models.memory import FROZEN, GIB, TRAINED, check_memory, count_weights, free_memory
from tril_gym.models.pretrained import model_kind

NUMBERS = {"epochs": 1, "minibatch_size": 4}


@pytest.fixture(params=["llama", "qwen2", "t5"])
def saved(request, tmp_path):
    """A folder with a model that was saved in bfloat16."""
    toy_policy(request.param, dtype=torch.bfloat16).save(tmp_path / "model")
    return tmp_path / "model"


def dtypes(policy) -> set[torch.dtype]:
    return {weight.dtype for weight in policy.model.parameters()}


def moved(policy, before) -> float:
    """Return the share of a model's weights that training has changed."""
    changed = [(now != then).float().flatten() for now, then in zip(policy.parameters(), before, strict=True)]
    return float(torch.cat(changed).mean())


def trained(policy: LMPolicy) -> float:
    agent = PPO(policy, toy_envs(8), PPOConfig(learning_rate=1e-5, **NUMBERS))
    before = [weight.detach().clone() for weight in policy.parameters()]
    agent.learn(2)
    return moved(policy, before)


def test_full_training_is_in_float32(saved):
    policy = LMPolicy.from_pretrained(saved)
    assert dtypes(policy) == {torch.bfloat16}  # as saved, until it is trained
    assert trained(policy) > 0.5
    assert dtypes(policy) == {torch.float32}


def test_reference_and_critic_are_in_float32(saved):
    agent = PPO(LMPolicy.from_pretrained(saved), toy_envs(8), PPOConfig(**NUMBERS))
    critic, _ = agent.learner.critic("policy")
    assert dtypes(agent.learner.ref_policy) == dtypes(critic) == {critic.head.weight.dtype} == {torch.float32}


def test_a_chosen_low_precision_trains_and_warns(saved):
    policy = LMPolicy.from_pretrained(saved, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match=r"trained in bfloat16.*--dtype float32.*--lora-rank"):
        share = trained(policy)
    assert dtypes(policy) == {torch.bfloat16}
    assert share < 0.5  # most steps are rounded away, which is why it warns


@pytest.mark.filterwarnings("ignore:all weights of GPT2LMHeadModel are trained in bfloat16")
def test_a_tiny_policy_trains_in_bfloat16_from_the_command_line(tmp_path):
    run = ["train", "ppo", "--env", "tril/Toy-v0", "--policy", "tiny", "--dtype", "bfloat16", "--tiny-samples", "0"]
    sizes = ["--iterations", "1", "--num-envs", "4", "--epochs", "1", "--eval-examples", "2", "--eval-every", "0"]
    done = CliRunner().invoke(main, [*run, *sizes, "--output-dir", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert dtypes(LMPolicy.from_pretrained(tmp_path / "run" / "policy")) == {torch.bfloat16}


def test_lora_keeps_its_base_as_saved(tmp_path):
    toy_policy("llama", dtype=torch.bfloat16).save(tmp_path)
    policy = LMPolicy.from_pretrained(tmp_path).with_lora(2)
    agent = PPO(policy, toy_envs(8), PPOConfig(**NUMBERS))
    critic, _ = agent.learner.critic("policy")
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    assert critic.head.weight.dtype == torch.float32
    assert policy.model.get_input_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:all weights of LlamaForCausalLM are trained in bfloat16")
@pytest.mark.parametrize(("settings", "dtype"), [({}, torch.float32), ({"dtype": torch.bfloat16}, torch.bfloat16)])
def test_full_training_of_a_merged_adapter_is_in_float32_unless_told_otherwise(settings, dtype, tmp_path):
    toy_policy("llama", dtype=torch.bfloat16).save(tmp_path / "base")
    adapted = LMPolicy.from_pretrained(tmp_path / "base", **settings).with_lora(2).language_model
    adapted.save_adapter(tmp_path / "adapter")
    for model in (adapted, LMPolicy.from_pretrained(tmp_path / "adapter").language_model):
        full = model.full_copy()
        full.prepare_training()
        assert dtypes(full) == {dtype}


def test_a_guide_stays_as_saved(saved):
    agent = PPOPlusPlus(toy_policy("gpt2"), Guide(LMPolicy.from_pretrained(saved)), toy_envs(8))
    assert dtypes(agent.guide.policy) == {torch.bfloat16}


def test_evaluation_reads_a_model_as_saved(saved, monkeypatch):
    from tril_gym.experiment import build

    parts = build.build_evaluation(
        str(saved), env="tril/Toy-v0", dataset=None, split=None, env_args={}, reward=None, num_envs=2, device="cpu"
    )
    assert dtypes(parts.policy) == {torch.bfloat16}


def test_evaluation_checks_a_model_unless_told_otherwise(saved, tmp_path, monkeypatch):
    import tril_gym.agents.actors.policy as policies

    def refuse(*of, **more):
        raise ValueError("checked")

    monkeypatch.setattr(policies, "check_model", refuse)
    options = ["evaluate", str(saved), "--env", "tril/Toy-v0", "--examples", "2", "--num-envs", "2"]
    result = CliRunner().invoke(main, options)
    assert (result.exit_code, "checked" in result.output) == (2, True)
    assert CliRunner().invoke(main, [*options, "--no-check-model"]).exit_code == 0


class TestMemory:
    def test_weights_are_counted_without_making_them(self, tmp_path):
        model = language_model("gpt2")
        model.save_pretrained(tmp_path)
        assert count_weights(*model_kind(tmp_path, {})) == sum(weight.numel() for weight in model.parameters())

    def test_free_memory_is_in_bytes(self):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = free_memory(torch.device("cpu"))
        assert free is None or total / 100 < free <= total

    def test_what_does_not_fit_is_refused_by_hand(self):
        # A thousand million weights of 4 bytes: with gradients and two moments 16e9 bytes, 14.9 GiB.
        check_memory("m", 10**9, torch.float32, TRAINED, 16 * 10**9)
        check_memory("m", 10**9, torch.float32, TRAINED, None)
        message = r"1,000 million weights of m in float32 needs 14\.9 GiB.*14\.0 GiB are free.*--lora-rank 8.*bfloat16"
        with pytest.raises(ValueError, match=message):
            check_memory("m", 10**9, torch.float32, TRAINED, 14 * GIB)
        with pytest.raises(ValueError, match=r"16\.8 GiB"):  # half the bytes, a critic and a reference more
            check_memory("m", 10**9, torch.bfloat16, 2 * TRAINED + FROZEN, 14 * GIB)

    def test_command_line_refuses_before_loading(self, saved, monkeypatch):
        from tril_gym.models import memory

        monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
        result = CliRunner().invoke(main, ["train", "ppo", "--env", "tril/Toy-v0", "--policy", str(saved)])
        assert result.exit_code == 2
        assert "--lora-rank" in result.output


class TestLoadingOptions:
    @pytest.mark.parametrize("option", [["--revision", "x"], ["--device-map", "auto"], ["--trust-remote-code"]])
    def test_tiny_policies_take_none(self, option):
        result = CliRunner().invoke(main, ["train", "ppo", *option])
        assert result.exit_code == 2
        assert f"{option[0]} is for models that are loaded" in result.output

    def test_a_run_loads_as_it_is_told(self, saved, tmp_path):
        out = tmp_path / "run"
        options = ["--env", "tril/Toy-v0", "--num-envs", "4", "--iterations", "1", "--eval-examples", "2"]
        options += ["--policy", str(saved), "--dtype", "float32", "--attn-implementation", "eager"]
        result = CliRunner().invoke(main, ["train", "ppo", *options, "--output-dir", str(out)])
        assert result.exit_code == 0, result.output
        config = json.loads(next(out.glob("checkpoints/*/policy/config.json")).read_text())
        assert config["dtype"] == "float32"

    def test_settings_reach_tokenizer_and_configuration(self, monkeypatch):
        from transformers import AutoConfig

        seen = {}
        monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **found: seen.update(found) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            LMPolicy.from_pretrained("someone/model", revision="v2", trust_remote_code=True, dtype=torch.float32)
        assert seen == {"revision": "v2", "trust_remote_code": True}


def test_foreign_environments_need_no_tokenizer(saved):
    policy = LMPolicy.from_pretrained(saved, with_tokenizer=False)
    PPO(policy, foreign_envs(2, vocab_size=16))
