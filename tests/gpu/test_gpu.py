"""On a GPU the library does what it does on a CPU. Skipped where there is none.

`TRIL_GYM_TEST_DEVICE=cpu` runs these tests on a CPU, to test the tests; what is compiled is left out then. Needed are
only torch, transformers, accelerate, peft, gymnasium and what the command line imports.
"""

import json
import math
import os
from typing import Any

import gymnasium as gym
import pytest
import torch
import transformers
from click.testing import CliRunner
from doubles import MANY_EOS, foreign_envs, generator, language_model, policy_of, ragged_texts
from seven import SEVEN

import tril_gym  # noqa: F401  registers the environments
from tril_gym import rewards
from tril_gym.agents import Guide, LMPolicy, Plan, TextLayout, Trajectories, tiny_policy
from tril_gym.agents.collection.collector import collect
from tril_gym.cli import main
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.functional.sampling import Decoding, sample
from tril_gym.models import causal_decoder
from tril_gym.utils.profiler import CudaMemory, ProcessMemory, Timer, memory_meter

DEVICE = os.environ.get("TRIL_GYM_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.skipif(
        DEVICE != "cpu" and not torch.cuda.is_available(),
        reason="there is no CUDA device; TRIL_GYM_TEST_DEVICE=cpu runs these tests on a CPU",
    ),
    pytest.mark.filterwarnings("ignore:all weights of .* are trained in bfloat16"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),  # the compiler's advice
]

TOLERANCE = 1e-3  # nats, float32
HALF_TOLERANCE = 0.1  # nats on average, bfloat16
CLOSE: dict[str, Any] = {"rel": 0.02, "abs": 2e-3}  # metrics after some steps of AdamW, which amplifies rounding
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
GREEDY = Decoding(greedy=True)
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


def on_device(family: str, **settings: Any) -> LMPolicy:
    return policy_of(family, **settings).to(DEVICE)


def mixed_texts(policy: LMPolicy, episodes: int = 24) -> tuple[Trajectories, TextLayout]:
    """Texts of ragged prompts that end at different tokens; most were begun by a guide on the CPU."""
    envs = foreign_envs(8, min_new_tokens=3, eos_token_ids=MANY_EOS)
    plan = Plan(rollout=policy, rollin=Guide(policy_of("t5", seed=7)), rollin_prob=0.7)
    trajectories = collect(envs, plan, episodes=episodes, generator=generator(3))
    for numbers in (trajectories.switch, trajectories.lengths, trajectories.is_prompt.sum(1)):
        assert len(set(numbers.tolist())) > 2
    return trajectories, TextLayout.of(envs)


@torch.no_grad()
def scores(policy: LMPolicy, trajectories: Trajectories, layout: TextLayout) -> torch.Tensor:
    found = policy.token_logprobs(trajectories.texts, layout).logprobs
    assert found.device.type == DEVICE.partition(":")[0]
    return found.cpu().double()


def sampling_error(policy: LMPolicy) -> torch.Tensor:
    """|log ρ| of the tokens that the policy wrote, in nats."""
    trajectories, layout = mixed_texts(policy)
    return (scores(policy, trajectories, layout) - trajectories.old_logprobs)[trajectories.wrote].abs()


class TestWriting:
    def test_written_texts_score_as_they_were_sampled(self, family):
        assert float(sampling_error(on_device(family)).max()) <= TOLERANCE

    def test_in_bfloat16_they_do_on_average(self, family):
        assert float(sampling_error(on_device(family, dtype=torch.bfloat16)).mean()) < HALF_TOLERANCE

    @pytest.mark.parametrize("decoding", [Decoding(temperature=0.6), Decoding(top_k=5), Decoding(top_p=0.8)], ids=str)
    def test_under_other_decodings_too(self, decoding):
        assert float(sampling_error(on_device("gpt2").with_decoding(decoding)).max()) <= TOLERANCE

    def test_in_sliding_windows_too(self):
        assert float(sampling_error(on_device("qwen2", **WINDOWS)).max()) <= TOLERANCE

    @pytest.mark.parametrize("name", ["gpt2", "qwen2"])
    def test_after_a_grouped_prefill_too(self, name, monkeypatch):
        monkeypatch.setattr(causal_decoder, "DEFAULT_PASS_OVERHEAD", 0)
        monkeypatch.setattr(causal_decoder, "PASS_OVERHEAD", {})
        assert float(sampling_error(on_device(name)).max()) <= TOLERANCE

    def test_greedy_texts_and_their_scores_are_those_of_the_cpu(self, family):
        mine, theirs = on_device(family), policy_of(family)
        texts, layout = mixed_texts(mine.with_decoding(GREEDY))
        expected, _ = mixed_texts(theirs.with_decoding(GREEDY))
        assert torch.equal(texts.tokens, expected.tokens)
        with torch.no_grad():
            known = theirs.token_logprobs(texts.texts, layout).logprobs.double()
        torch.testing.assert_close(scores(mine, texts, layout), known, rtol=0, atol=TOLERANCE)

    def test_sampled_texts_are_those_of_the_cpu(self, family):
        texts, expected = mixed_texts(on_device(family))[0], mixed_texts(policy_of(family))[0]
        same = (texts.tokens == expected.tokens).all(1)
        assert float(same.float().mean()) > 0.9  # a uniform may fall between two roundings

    def test_predict(self):
        agent = make("ppo")
        observations, _ = agent.envs.reset(seed=0)
        actions, _ = agent.predict(observations)
        drawn, _ = agent.predict(observations, deterministic=False, generator=generator())
        assert actions.shape == drawn.shape == (8,)


class TestTiny:
    @pytest.mark.parametrize("kind", ["causal", "seq2seq"])
    def test_pretraining_is_that_of_the_cpu(self, kind, monkeypatch, tmp_path):
        monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path))
        envs, settings = gym.make_vec("tril/Toy-v0", num_envs=8), {"samples": 256, "epochs": 2, "width": 16}
        mine, theirs = (tiny_policy(envs, kind=kind, device=device, **settings) for device in (DEVICE, "cpu"))
        texts, found = ragged_texts(8, vocab_size=16), []
        for policy in (mine, theirs, tiny_policy(envs, kind=kind, **settings | {"samples": 0})):
            with torch.no_grad():
                found.append(policy.plain_logprobs(texts).cpu()[texts.is_token])
        assert mine.device.type == torch.device(DEVICE).type
        assert float((found[0] - found[1]).abs().mean()) < 0.01
        assert float((found[0] - found[2]).abs().mean()) > 0.1


class TestAttention:
    @torch.no_grad()
    @pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_packed_states_equal_separate_ones(self, name, dtype):
        backbone = on_device(name, dtype=dtype).language_model.backbone
        texts = ragged_texts(12).to(DEVICE)
        assert backbone.can_pack
        packed = backbone.hidden(texts)
        backbone.can_pack = False
        apart = backbone.hidden(texts)
        columns = torch.arange(texts.tokens.shape[1] + 1, device=DEVICE)
        error = (packed - apart).abs()[columns <= texts.lengths.unsqueeze(1)].float()
        assert error.isfinite().all()
        if dtype == torch.float32:
            assert float(error.max()) <= TOLERANCE
        else:
            assert float(error.mean()) < HALF_TOLERANCE

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_eager_attention_equals_that_of_torch(self, family, dtype):
        model = language_model(family, dtype=dtype)
        model.set_attn_implementation("eager")
        eager = LMPolicy(model, None).to(DEVICE)
        texts, layout = mixed_texts(eager)
        ours = on_device(family, dtype=dtype)
        error = (scores(eager, texts, layout) - scores(ours, texts, layout)).abs()
        if dtype == torch.float32:
            assert float(error.max()) <= TOLERANCE
            assert float(sampling_error(eager).max()) <= TOLERANCE
        else:
            assert float(error.mean()) < HALF_TOLERANCE

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_gradients_are_finite_and_those_of_the_cpu(self, family, dtype):
        """Prompts are padded on the left, so that some queries have no key."""
        norms = []
        for policy in (policy_of(family, dtype=dtype), on_device(family, dtype=dtype)):
            policy.language_model.backbone.can_pack = False
            policy.plain_logprobs(ragged_texts(7)).sum().backward()
            grads = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
            assert grads
            assert all(bool(grad.isfinite().all()) for grad in grads)
            norms.append(math.sqrt(sum(float(grad.double().square().sum()) for grad in grads)))
        assert norms[1] == pytest.approx(norms[0], rel=1e-3 if dtype == torch.float32 else 0.2)


class TestSampling:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("vocab_size", [50_257, 128_256])
    def test_one_uniform_gives_the_token_that_it_gives_on_the_cpu(self, vocab_size, dtype):
        logits = (3 * torch.randn((64, vocab_size), generator=generator(1))).to(dtype)
        uniforms = torch.rand(64, generator=generator(2), dtype=torch.float64)
        uniforms[:3] = torch.tensor([0.0, 0.5, 1.0 - 2**-53], dtype=torch.float64)
        expected, known = sample(logits, uniforms)
        tokens, logprobs = (part.cpu() for part in sample(logits.to(DEVICE), uniforms.to(DEVICE)))
        same = tokens == expected
        assert float(same.float().mean()) > 0.9
        torch.testing.assert_close(logprobs[same], known[same], rtol=0, atol=1e-4)
        cumulative = logits.double().softmax(-1).cumsum(-1)
        for row in (~same).nonzero().squeeze(1).tolist():  # all boundaries between both tokens are at the uniform
            first, last = sorted((int(tokens[row]), int(expected[row])))
            assert (cumulative[row, first:last] - uniforms[row]).abs().max() < 1e-5


def make(name: str, family: str = "gpt2", *, device: str = DEVICE, lora: bool = False, **numbers: Any) -> Any:
    """An agent in the toy environment, whose guide, if any, is another model on the same device."""
    kind, dtype = agent_type(name), numbers.pop("dtype", torch.float32)
    settings = {"n_layer": numbers.pop("layers")} if "layers" in numbers else {}
    policy = policy_of(family, vocab_size=16, dtype=dtype, **settings).to(device)
    policy = policy.with_lora(2) if lora else policy
    defaults = {"minibatch_size": 4, "learning_rate": 3e-4, "epochs": 2}
    if "rollin_prob" in kind.config_type.__dataclass_fields__:
        defaults["rollin_prob"] = 0.6
    guide = Guide(policy_of(family, vocab_size=16, dtype=dtype, seed=1).to(device), temperature=2.0)
    more = {"guide": guide} if kind.takes_guide else {}
    envs = gym.make_vec("tril/Toy-v0", num_envs=8)
    return kind(policy=policy, envs=envs, config=kind.config_type(**defaults | numbers), seed=0, **more)


def learned(agent: Any, iterations: int = 1, **settings: Any) -> list[dict[str, float]]:
    """The metrics of some iterations, all finite; weights have moved."""
    before, found = [parameter.detach().clone() for parameter in agent.policy.parameters()], []
    agent.learn(iterations, callbacks=[lambda report: found.append(report.metrics)], **settings)
    assert all(math.isfinite(value) for metrics in found for value in metrics.values()), found
    assert any(not torch.equal(*pair) for pair in zip(before, agent.policy.parameters(), strict=True))
    assert agent.policy.device.type == before[0].device.type
    return found


def same_metrics(found: list[dict[str, float]], expected: list[dict[str, float]], **close: float) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        names = [name for name in theirs if not name.startswith("time/") and "per_second" not in name]
        names = [name for name in names if not name.endswith("ratio_error")]  # nothing but rounding
        assert {name: mine[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, **close)


VARIANTS: dict[str, dict[str, Any]] = {
    "shared critic": {"critic": "shared"},
    "LoRA": {"lora": True},
    "LoRA, shared critic": {"lora": True, "critic": "shared"},
    "LoRA, separate critic": {"lora": True, "critic": "separate"},
    "checkpointing": {"gradient_checkpointing": True},
    "LoRA, checkpointing": {"lora": True, "gradient_checkpointing": True},
    "accumulation": {"gradient_accumulation": 3},
    "other terms": {"ent_coef": 0.01, "target_coef": 0.1, "value_clip_range": 0.5, "normalize_advantages": True},
    "other limits": {"joint_grad_norm": True, "target_kl": 0.5, "group_by_length": True},
}
LOW_PRECISION: dict[str, dict[str, Any]] = {
    "autocast": {"mixed_precision": "bf16"},
    "autocast, shared critic": {"mixed_precision": "bf16", "critic": "shared"},
    "autocast, LoRA": {"mixed_precision": "bf16", "lora": True},
    "autocast, checkpointing": {"mixed_precision": "bf16", "gradient_checkpointing": True},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16, LoRA": {"dtype": torch.bfloat16, "lora": True},
    "bfloat16, shared critic": {"dtype": torch.bfloat16, "critic": "shared"},
}


class TestLearning:
    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    @pytest.mark.parametrize("algorithm", SEVEN)
    def test_every_algorithm_learns_as_on_the_cpu(self, algorithm, name):
        same_metrics(learned(make(algorithm, name)), learned(make(algorithm, name, device="cpu")), **CLOSE)

    @pytest.mark.parametrize("algorithm", sorted({*ALGORITHMS} - {*SEVEN, "dpo", "ipo"}))
    def test_the_others_do_too(self, algorithm):
        """All but those of pairs, which the toy environment has none of."""
        same_metrics(learned(make(algorithm)), learned(make(algorithm, device="cpu")), **CLOSE)

    @pytest.mark.parametrize("name", ["llama", "qwen2", "bart"])
    def test_other_families_learn_as_on_the_cpu(self, name):
        same_metrics(learned(make("ppo-pp", name)), learned(make("ppo-pp", name, device="cpu")), **CLOSE)

    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_variant_learns_as_on_the_cpu(self, variant, name):
        numbers = VARIANTS[variant]
        same_metrics(
            learned(make("ppo", name, **numbers)), learned(make("ppo", name, device="cpu", **numbers)), **CLOSE
        )

    @pytest.mark.parametrize("name", ["gpt2", "t5", "qwen2"])
    @pytest.mark.parametrize("variant", LOW_PRECISION)
    def test_low_precision_learns(self, variant, name):
        (metrics,) = learned(make("ppo", name, **LOW_PRECISION[variant]))
        # Sampling and scoring are the same pass then, in batches of other sizes.
        assert metrics["policy/ratio_error"] < 0.5

    @pytest.mark.parametrize("algorithm", ["bc", "gail"])
    def test_imitation_learns_in_low_precision(self, algorithm):
        learned(make(algorithm, mixed_precision="bf16"))
        learned(make(algorithm, dtype=torch.bfloat16))

    def test_an_adapter_as_discriminator(self):
        learned(make("gail", lora=True, discriminator="adapter"))

    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    @pytest.mark.parametrize("algorithm", ["ppo", "d2lols", "gail"])
    def test_one_seed_gives_the_same_texts_again(self, algorithm, name):
        runs, texts = [], []
        for _ in range(2):
            agent = make(algorithm, name)
            runs.append(learned(agent, 2))
            texts.append(collect(agent.envs, Plan(rollout=agent.policy), episodes=8, generator=generator()).tokens)
        assert torch.equal(*texts)
        same_metrics(*runs, **CLOSE)


SAVED = [("ppo", False), ("ppo", True), ("ppo-pp", False), ("ppo-pp", True), ("gail", False), ("bc", False)]


@pytest.mark.parametrize(("algorithm", "lora"), SAVED)
class TestSaving:
    def test_a_resumed_agent_goes_on_as_if_never_stopped(self, algorithm, lora, tmp_path):
        agent = make(algorithm, lora=lora)
        learned(agent)
        agent.save(tmp_path / "agent")
        again = type(agent).load(tmp_path / "agent", envs=make(algorithm).envs, device=DEVICE)
        same_metrics(learned(again), learned(agent), **CLOSE)

    @pytest.mark.parametrize("places", [(DEVICE, "cpu"), ("cpu", DEVICE)], ids=["to the CPU", "from the CPU"])
    def test_it_goes_on_on_another_device(self, algorithm, lora, places, tmp_path):
        agent = make(algorithm, lora=lora, device=places[0])
        learned(agent)
        agent.save(tmp_path / "agent")
        again = type(agent).load(tmp_path / "agent", envs=make(algorithm).envs, device=places[1])
        assert again.policy.device.type == torch.device(places[1]).type
        for mine, theirs in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
            assert torch.equal(mine.cpu(), theirs.cpu())
        same_metrics(learned(again), learned(agent), **CLOSE)


class TestProfile:
    @ON_GPU
    def test_peak_of_the_gpu_is_measured(self):
        device = torch.device(DEVICE)
        assert isinstance(memory_meter(device), CudaMemory)
        timer = Timer(memory_meter(device))
        with timer.time("all"):
            with timer.time("large"):
                torch.empty(2**26, dtype=torch.uint8, device=device)
            with timer.time("small"):
                torch.empty(2**22, dtype=torch.uint8, device=device)
        assert timer.peaks["large"] - timer.peaks["small"] == pytest.approx(60, abs=1)  # MiB
        assert timer.peaks["all"] == timer.peaks["large"]

    def test_a_profile_has_a_peak_for_every_part(self):
        (metrics,) = learned(make("ppo"), profile=True)
        assert {"memory/collect", "memory/learn"} <= metrics.keys()
        assert all(value >= 0 for name, value in metrics.items() if name.startswith("memory/"))
        assert metrics["memory/learn"] > 0

    def test_the_process_is_measured_on_a_cpu(self):
        assert isinstance(memory_meter(torch.device("cpu")), ProcessMemory)


def saved_model(folder: Any, model: Any) -> str:
    model.save_pretrained(folder)
    toy_tokenizer(16).save_pretrained(folder)
    return str(folder)


class TestRewards:
    TEXTS = ("w3", "w3 w4 w5 w6", "w9 w2", "", "w15 w15 w3")

    def score(self, name: str, **settings: Any) -> Any:
        columns = ["w3"] * 5, list(self.TEXTS), [["w4"]] * 5, [{}] * 5
        return [rewards.load(name, device=device, **settings)(*columns) for device in (DEVICE, "cpu")]

    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    def test_perplexity(self, name, tmp_path):
        folder = saved_model(tmp_path, language_model(name, vocab_size=16))
        mine, theirs = self.score("output_perplexity", model=folder, log=True)
        assert mine == pytest.approx(theirs, rel=1e-3)

    def test_a_classifier(self, tmp_path):
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.BertConfig(vocab_size=16, initializer_range=0.5, **sizes)
        config.num_labels = 1
        folder = saved_model(tmp_path, transformers.BertForSequenceClassification(config))
        mine, theirs = self.score("regressor", model=folder)
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


SMALL = ["--tiny-samples", "32", "--num-envs", "8", "--eval-examples", "4", "--iterations", "2", "--device", DEVICE]


class TestCommandLine:
    def call(self, *arguments: Any) -> None:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"

    @pytest.mark.parametrize("algorithm", ["ppo-pp", "bc", "gail"])
    def test_train_and_evaluate(self, algorithm, tmp_path):
        run = tmp_path / "run"
        self.call("train", algorithm, "--env", "tril/Toy-v0", *SMALL, "--profile", "--output-dir", run)
        self.call("evaluate", run, "--examples", 4, "--device", DEVICE, "--output", tmp_path / "it.json")
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
        assert json.loads((tmp_path / "it.json").read_text())["metrics"]["greedy"]["examples"] == 4

    def test_resume(self, tmp_path):
        run = tmp_path / "run"
        toy = ["train", "ppo", "--env", "tril/Toy-v0", "--policy", "tiny-seq2seq"]
        self.call(*toy, *SMALL, "--output-dir", run, "--lr-schedule", "constant", "--iterations", 1)
        self.call("train", "ppo", "--output-dir", run, "--resume", "--iterations", 2)
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


@ON_GPU
class TestCompiled:
    """Last, as compilation takes longest."""

    @pytest.fixture(autouse=True)
    def _forget(self):
        yield
        torch.compiler.reset()

    def test_compiled_writing_equals_eager_writing(self):
        policy = on_device("gpt2", n_layer=1)
        envs = foreign_envs(4, eos_token_ids=MANY_EOS)
        plan = Plan(rollout=policy, rollin=Guide(on_device("gpt2", seed=1, n_layer=1)), rollin_prob=0.7)
        expected = collect(envs, plan, episodes=8, generator=generator())
        policy.language_model.compile()
        for _ in range(2):  # compiled, then replayed
            texts = collect(envs, plan, episodes=8, generator=generator())
            assert torch.equal(texts.tokens, expected.tokens)
            torch.testing.assert_close(texts.old_logprobs, expected.old_logprobs, rtol=0, atol=TOLERANCE)
        assert policy.language_model.backbone.compiled._compiled_sizes

    @pytest.mark.parametrize("critic", ["shared", "separate"])
    def test_compiled_learning_equals_eager_learning(self, critic):
        eager, compiled = (make("ppo", critic=critic, compile=compiles, layers=1) for compiles in (False, True))
        same_metrics(learned(compiled, 2), learned(eager, 2), **CLOSE)

    def test_compiled_bfloat16_learns(self):
        learned(make("ppo", compile=True, layers=1, dtype=torch.bfloat16, critic="shared"), 2)
