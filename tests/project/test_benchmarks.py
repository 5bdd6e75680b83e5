"""The benchmarks run on the smallest sizes and write complete results; measured speeds are not asserted.

Their parts are tested: timing and comparison, models that stop after a given number of tokens, the plain PyTorch loop.
"""

import gzip
import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import benchmark_models
import environment
import gpu
import growth
import guide_question
import gymnasium as gym
import iteration
import learning
import memorisation
import memory
import million_rows
import numpy as np
import overlap
import pytest
import results_page
import rollout
import sample_efficiency
import score_workers
import side_by_side
import torch
import toy_guides
from benchmark_models import EOS, FIRST_WORD
from hand_written import HandWrittenPPO, Hyperparameters, write
from rich.console import Console
from side_by_side import Comparison, Sample, Spread, Target

from tril_gym.agents import tiny_policy
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.experiment import RunConsole, configure, train
from tril_gym.experiment.text_quality import has_unknown_word, words_of_examples
from tril_gym.experiment.verdict import verdict_of
from tril_gym.wrappers.vector import base_attribute

ROOT = Path(learning.__file__).parents[1]


@pytest.fixture(autouse=True)
def _restore_global_state():
    """Restore torch's threads, which benchmarks set, and its global generator, from which plain PyTorch draws."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    """Write a folder with a very small CommonGen."""
    rows = [
        {"concepts": ["dog", word], "references": [f"the dog sees a {word}", f"a {word} and a dog"]}
        for word in ("cat", "ball", "tree", "park", "boat", "lake", "road", "hat", "hill", "box", "bird", "game")
    ]
    (tmp_path / "commongen").mkdir()
    with gzip.open(tmp_path / "commongen" / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def smoke(module, tmp_path, *more):
    """Run a benchmark with `--smoke`; check and return what it writes."""
    output = tmp_path / "results.json"
    results = module.main(["--smoke", "--output", str(output), *more])
    written = json.loads(output.read_text())
    assert written == json.loads(json.dumps(results))
    assert {"cores", "torch", "transformers", "threads", "load"} <= written["machine"].keys()
    assert written["settings"]["smoke"] is True
    for comparison in written["comparisons"]:
        for variant in comparison["variants"].values():
            assert len(variant["samples"]) == 1
            assert variant["speed"]["median"] > 0
            assert variant["amount"] > 0
        for ratio in comparison["ratios"]:
            assert ratio["low"] <= ratio["median"] <= ratio["high"]
            assert ratio["first"] in comparison["variants"]
            assert ratio["met"] is None or isinstance(ratio["met"], bool)
    return written


def variants(written):
    return [list(comparison["variants"]) for comparison in written["comparisons"]]


def test_environment(tmp_path, capsys):
    written = smoke(environment, tmp_path)
    stepped, whole, built = variants(written)
    kinds = ["ours", "bound", "SyncVectorEnv"]
    assert [name.partition(",")[0] for name in stepped[:6]] == 2 * kinds
    assert [len(whole), len(built)] == [2, 2]
    assert [ratio["at_least"] for ratio in written["comparisons"][0]["ratios"]][:4] == [2 / 3, 2 / 3, 20, 12]
    assert list(written["memory"]) == ["ours, 2 rows", "ours, 4 rows", "SyncVectorEnv, 2 rows", "SyncVectorEnv, 4 rows"]
    assert all(held["bytes a row"] > 0 for held in written["memory"].values())
    assert "target" in capsys.readouterr().out


def test_rollout(tmp_path, data, capsys):
    written = smoke(rollout, tmp_path, "--data", str(data))
    texts, guided = ["collect", "generate", "loop", "loop, our kernels"], ["PPO", "PPO++"]
    passes = [f"{number} texts" for number in (1, 8, 32, 64)]
    assert variants(written) == [texts, guided, texts, guided, texts, texts, texts, guided, passes]
    equal, with_guide, of_t5 = (written["comparisons"][number]["variants"] for number in (0, 1, 4))
    assert equal["collect"]["passes"]["median"] == 4, "the prompts, then each token but the last"
    assert of_t5["collect"]["passes"]["median"] == 1 + 4, "the encoder and the start token, then the same"
    assert with_guide["PPO"]["passes"]["median"] == 4 + 1, "and the reference"
    assert 0 < equal["collect"]["passes' share"]["median"] < 1
    assert {variant["amount"] for variant in equal.values()} == {4 * 4}  # texts by tokens
    assert 0 < equal["collect"]["environment's share"]["median"] < 1
    assert equal["collect"]["sampled"]["median"] == 4 * 4
    capsys.readouterr()


def test_passes_alone(tmp_path, capsys):
    written = smoke(rollout, tmp_path, "--only-passes")
    assert variants(written) == [[f"{number} texts" for number in (1, 8, 32, 64)]]
    assert written["comparisons"][0]["variants"]["64 texts"]["amount"] == 64 * 4
    capsys.readouterr()


def test_counting_passes_restores_the_model():
    model = benchmark_models.t5(layers=1)
    with rollout.Passes(model) as passes:
        model.get_encoder()(input_ids=torch.ones((1, 2), dtype=torch.long))
    assert passes.number == 1
    assert passes.seconds > 0
    assert not any("forward" in vars(body) for body in rollout.bodies_of(model))


def test_score_workers(tmp_path, capsys):
    written = smoke(score_workers, tmp_path)
    assert variants(written) == [["without a reward", "in the main process", "1 worker", "2 workers"]]
    assert len({variant["amount"] for variant in written["comparisons"][0]["variants"].values()}) == 1
    capsys.readouterr()


def test_references_are_scored_once(tmp_path, monkeypatch, capsys):
    write, prompts = score_workers.collect, []

    def collect(*arguments, **settings):
        texts = write(*arguments, **settings)
        prompts.append([info["prompt"] for info in texts.infos])
        return texts

    monkeypatch.setattr(score_workers, "collect", collect)
    score_workers.main(["--smoke"])
    assert len(prompts) == 2 * 4  # the warm-up and one round of four variants
    assert {len({*first, *second}) for first, second in zip(prompts[:4], prompts[4:], strict=True)} == {8}
    capsys.readouterr()


def test_overlap(tmp_path, capsys):
    written = smoke(overlap, tmp_path)
    assert variants(written) == [["overlap", "one after the other"]] * 2
    capsys.readouterr()


def test_iteration(tmp_path, capsys):
    written = smoke(iteration, tmp_path)
    assert variants(written) == [["ours, separate", "plain PyTorch, separate"]]
    for variant in written["comparisons"][0]["variants"].values():
        assert variant["amount"] == 4 * 4
        assert variant["peak MiB"]["median"] > variant["above imports"]["median"] > 0
    capsys.readouterr()


def test_a_failed_process_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended:[\s\S]*case\.json"):
        iteration.compare(tmp_path, "nothing there", ["ours, separate"], None, 1)


def test_cases_are_written_for_all_variants(tmp_path, data, capsys):
    options = {"smoke": True, "data": data, "bc_iterations": 1}
    cases = iteration.write_cases(tmp_path, type("Settings", (), options))
    folder = list(cases.values())[-1]
    case = json.loads((folder / "case.json").read_text())
    assert len(case["prompts"]) == 12
    assert case["stops"] is True
    assert (folder / "model.safetensors").exists()
    assert (folder / "tokenizer.json").exists()
    capsys.readouterr()


def test_growth(tmp_path, capsys):
    written = smoke(growth, tmp_path)
    assert [len(names) for names in variants(written)] == [2] * 5
    assert list(written["growth"]) == [
        *("collection, by texts", "learning, by texts"),
        *("collection, by length", "learning, by length", "plain PyTorch, by length"),
    ]
    capsys.readouterr()


def test_million_rows(tmp_path, capsys):
    tokenizer = million_rows.save_tokenizer(tmp_path)
    million_rows.write_rows(tmp_path / "rows.jsonl", 300)
    found = million_rows.prepare(str(tmp_path / "rows.jsonl"), tokenizer)
    assert found["ready_wall"] >= found["read_wall"] > 0
    assert 40 < found["max_prompt_length"] < 60
    million_rows.report({"rows": 300, "file_mib": 0.1, "few": found, "many": found})
    assert "300 rows" in capsys.readouterr().out


def test_memory(tmp_path, capsys):
    sizes = smoke(memory, tmp_path)["memory"]
    assert len(sizes) == 2 * 2 * 2
    for variant, parts in sizes.items():
        required = parts["weights"] + parts["gradients"] + parts["moments"]
        assert parts["peak"] == pytest.approx(required + parts["excess"]), variant
        assert parts["gradients"] == parts["weights"]
    # AdamW keeps two moments of each weight, and a step count
    ours = sizes["ours, separate, 2,000 tokens"]
    assert ours["moments"] == pytest.approx(2 * ours["weights"], rel=1e-3)
    capsys.readouterr()


def test_gpu(tmp_path, capsys):
    """Runs on a CPU; `test_plain_pytorch_learns` covers learning with `generate`."""
    written = smoke(gpu, tmp_path, "--device", "cpu")
    assert variants(written) == [
        ["collect", "generate", "loop", "loop, our kernels"],
        ["PPO", "plain PyTorch, with generate"],
    ]
    assert [ratio["at_least"] for comparison in written["comparisons"] for ratio in comparison["ratios"]] == [5, 2]
    (bound,) = written["bounds"].values()
    assert bound["ours / bound"] == pytest.approx(
        written["comparisons"][0]["variants"]["collect"]["speed"]["median"] / bound["bound, tokens/s"]
    )
    capsys.readouterr()


def test_bytes_of_a_batch_by_hand():
    settings = SimpleNamespace(smoke=True, texts=9, device="cpu", dtype="bfloat16")
    shape = gpu.Shape(settings, 6, 4)  # 4 texts, 1 layer of width 32
    weights = torch.nn.Linear(10, 10)  # 110 numbers, read for each of 4 tokens
    # before the tokens are 6, 7, 8 and 9 columns of 32 numbers in keys and in values, of 4 texts
    assert shape.bytes_of_a_batch(weights) == 2 * (4 * 110 + 4 * 2 * 32 * (6 + 7 + 8 + 9))


def test_sample_efficiency_by_hand():
    rewards = [0.1] * 5 + [0.6] * 5 + [0.3] * 5
    means = sample_efficiency.summary(rewards)
    assert means == pytest.approx({"first": 0.1, "early": 0.3, "best": 0.6, "last": 0.3, "kept": 0.5})
    assert sample_efficiency.summary([float(i) for i in range(30)])["early"] == 22.0  # of iterations 21 to 25


def test_toy_guides(tmp_path, capsys):
    names = ["aggrevated", "successes", "random-texts"]
    written = smoke(toy_guides, tmp_path, "--words", "8", "--agents", *names)
    assert {words: list(good) for words, good in written["good"].items()} == {"8": names}
    (rewards,) = written["useless"]
    assert list(rewards) == ["start", "ppo", "d2lols", "lols"]
    assert all(0 <= reward <= 1 for reward in rewards.values())
    capsys.readouterr()


class TestGuideQuestion:
    def test_every_arm_runs_once(self, data, tmp_path, capsys):
        (data / "commongen" / "test.jsonl.gz").write_bytes((data / "commongen" / "train.jsonl.gz").read_bytes())
        sizes = {"width": 16, "layers": 1, "samples": 8, "epochs": 1, "minibatch_size": 8}
        smallest = ["--seeds", "0", "--iterations", "1", "--texts", "4", "--examples", "1"]
        asked = [str(data / "commongen"), str(tmp_path / "found"), *smallest, "--pretraining", json.dumps(sizes)]
        text = guide_question.main(asked)
        rows = text.splitlines()[2:]
        assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(guide_question.ARMS)
        before = (tmp_path / "found" / "0_0.json").read_text()
        guide_question.main(asked)  # nothing is left to run
        assert (tmp_path / "found" / "0_0.json").read_text() == before
        capsys.readouterr()

    def test_an_arm_is_measured_on_test_prompts_with_the_first_policy(self, data, tmp_path, capsys, monkeypatch):
        (data / "commongen" / "test.jsonl.gz").write_bytes((data / "commongen" / "train.jsonl.gz").read_bytes())
        parts, measured, make, measure = [], [], guide_question.make_envs, guide_question.measured

        def made(path, num_envs, **settings):
            parts.append((settings.get("split", "train"), settings.get("part")))
            return make(path, num_envs, **settings)

        def recorded(policy, envs, first):
            assert envs.num_envs == 1  # `--examples` of the test split; the others have `--texts`
            assert first.decoding == policy.decoding
            measured.append([float(policy.model.lm_head.weight.detach().sum()) for policy in (first, policy)])
            return measure(policy, envs, first)

        monkeypatch.setattr(guide_question, "make_envs", made)
        monkeypatch.setattr(guide_question, "measured", recorded)
        sizes = {"width": 16, "layers": 1, "samples": 8, "epochs": 1, "minibatch_size": 8}
        smallest = ["--arms", "PPO", "--seeds", "0", "1", "2", "6"]
        smallest += ["--iterations", "2", "--texts", "4", "--examples", "1"]
        folder = tmp_path / "found"
        guide_question.main([str(data / "commongen"), str(folder), *smallest, "--pretraining", json.dumps(sizes)])
        assert parts == [("train", (0.0, 0.7)), ("train", (0.7, 1.0)), ("test", None)] * 4
        # Before and after each: seed 6 begins with the first policy again, and trains on other texts.
        befores, afters = measured[::2], measured[1::2]
        assert all(first == policy for first, policy in befores)
        assert [first for first, _ in befores] == [first for first, _ in afters]
        assert befores[0] == befores[3] != befores[1] != befores[2]
        assert afters[0] != afters[3]
        found = [json.loads((folder / f"0_{seed}.json").read_text()) for seed in (0, 1, 2, 6)]
        assert all(abs(row["before"]["sampled"]["kl"]) < 1e-4 < abs(row["after"]["sampled"]["kl"]) for row in found)
        capsys.readouterr()

    @pytest.mark.parametrize(
        ("seeds", "quantile"),
        [(2, 12.71), (6, 2.571), (7, 2.447), (9, 2.306), (11, 2.228), (12, 2.228), (21, 2.086), (200, 1.98)],
    )
    def test_intervals_are_those_of_students_t(self, seeds, quantile):
        values = [float(number % 2) for number in range(seeds)]
        error = (sum((value - sum(values) / seeds) ** 2 for value in values) / (seeds - 1) / seeds) ** 0.5
        assert guide_question.mean_and_interval(values) == pytest.approx((sum(values) / seeds, quantile * error))
        assert math.isnan(guide_question.mean_and_interval([1.0])[1])

    def test_differences_are_paired_by_seed(self):
        def result(arm, seed, after):
            metrics = {way: {"reward/mean": after, "kl": 1.0} for way in ("greedy", "sampled")}
            start = {"greedy": {"reward/mean": 0.5}, "sampled": {"reward/mean": 0.25}}
            return {"arm": arm, "seed": seed, "first_policy": seed} | {"before": start, "after": metrics, "tokens": 10}

        bc = "BC, four epochs"
        rows = [result("PPO", 0, 0.6), result("PPO", 1, 0.8), result(bc, 1, 0.7), result(bc, 0, 0.5)]
        # Gains of BC: 0 and 0.2, mean 0.1, standard error 0.1; less PPO's: −0.1 twice. Sampled ones are 0.25 more.
        cells = guide_question.table(rows).splitlines()[-1].split(" | ")[2:6]
        assert cells[:2] == [f"+0.100 ± {12.71 * 0.1:.3f}", "-0.100 ± 0.000 (0.000)"]
        assert cells[2:] == [f"+0.350 ± {12.71 * 0.1:.3f}", "-0.100 ± 0.000 (0.000)"]
        # A seed that PPO has not counts in the arm's own mean only: gains of 0, 0.2 and 0.4.
        cells = guide_question.table([*rows, result(bc, 2, 0.9)]).splitlines()[-1].split(" | ")[1:4]
        assert (cells[0], cells[1][:6], cells[2]) == ("3", "+0.200", "-0.100 ± 0.000 (0.000)")

    def test_each_first_policy_counts_once(self):
        values = {(0, 0): 1.0, (0, 3): 3.0, (1, 1): 5.0, (2, 2): 7.0}  # seeds 0 and 3 are of one first policy
        assert guide_question.by_first_policy(values) == [2.0, 5.0, 7.0]

    def test_results_of_other_options_are_not_reused(self, tmp_path):
        (tmp_path / "0_0.json").write_text(json.dumps({"arm": "PPO", "seed": 0, "options": {"share": 1.0}}))
        with pytest.raises(SystemExit, match="use another folder"):
            guide_question.main(["data", str(tmp_path), "--arms", "PPO", "--seeds", "0", "--share", "0.7"])

    def test_the_detectable_difference_is_found_four_times_of_five(self):
        assert guide_question.detectable([0.0, 1.0, 2.0]) == pytest.approx((4.303 + 1.061) / math.sqrt(3))
        assert math.isnan(guide_question.detectable([1.0]))
        draws = np.random.default_rng(0).normal(size=(4000, 6))
        truth = math.sqrt(1 / 6) * (2.571 + 0.920)  # of a spread of 1 that is known
        means, widths = zip(*(guide_question.mean_and_interval((row + truth).tolist()) for row in draws), strict=True)
        found = np.mean(np.abs(means) > np.array(widths))
        assert 0.78 < found < 0.88  # the approximation is a little too cautious for so few seeds

    def test_an_arm_of_other_options_is_not_compared(self, tmp_path, monkeypatch):
        def result(arm, seed, options):
            ways = {way: {"reward/mean": 0.5, "kl": 1.0} for way in ("greedy", "sampled")}
            return {"arm": arm, "seed": seed, "first_policy": seed, "before": ways, "after": ways, "tokens": 10}

        monkeypatch.setattr(guide_question, "run", result)
        asked = ["data", str(tmp_path), "--seeds", "0", "1", "--arms"]
        guide_question.main([*asked, "PPO"])
        with pytest.raises(SystemExit, match="use another folder"):
            guide_question.main([*asked, "BC, four epochs", "--iterations", "12"])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0_0.json", "0_1.json"]

    def test_a_result_that_is_killed_while_it_is_written_leaves_no_part(self, tmp_path, monkeypatch):
        path_type, write = type(tmp_path), type(tmp_path).write_text

        def killed(path, text, **options):
            write(path, text[:20])
            raise KeyboardInterrupt

        monkeypatch.setattr(guide_question, "run", lambda *_: {"arm": "PPO"})
        monkeypatch.setattr(path_type, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            guide_question.main(["data", str(tmp_path), "--seeds", "0", "--arms", "PPO"])
        assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_sample_efficiency(tmp_path, capsys):
    written = smoke(sample_efficiency, tmp_path)
    (rewards,) = written["rewards"]
    assert len(rewards) == 6
    assert all(0 <= reward <= 1 for reward in rewards)
    assert "target" in capsys.readouterr().out


def test_variants_alternate_and_ratios_are_within_a_round():
    # Seconds by sample, after a warm-up: both variants slow down together.
    order, seconds = [], {"one": iter([9.0, 1.0, 2.0, 4.0]), "two": iter([9.0, 2.0, 4.0, 8.0])}

    def measure(name):
        order.append(name)
        return Sample(next(seconds[name]), 8.0)

    both = {name: lambda name=name: measure(name) for name in seconds}
    comparison = Comparison("", "texts", both, [Target("one", "two", 2.5)], fixed_work=True)
    result = side_by_side.run(comparison, repeat=3)
    assert order == ["one", "two", "one", "two", "two", "one", "one", "two"]  # the warm-up, three rounds
    assert result["variants"]["one"]["speed"] == {"median": 4.0, "low": 2.0, "high": 8.0}
    (ratio,) = result["ratios"]
    assert (ratio["median"], ratio["low"], ratio["high"], ratio["met"]) == (2.0, 2.0, 2.0, False)
    assert ratio["of_seconds"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert Target("one", "two", 2.0).met(2.0) is True
    assert Target("one", "two").met(2.0) is None


def test_numbers_have_three_digits():
    assert [side_by_side.format_number(value) for value in (0, 0.123456, 12.3456, 1234.5, 1e-5)] == [
        *("0", "0.123", "12.3", "1,234", "1.00e-05")
    ]
    assert str(Spread.of([3.0, 1.0, 2.0])) == "2 (1 … 3)"


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_repeat_must_be_positive(count, capsys):
    with pytest.raises(SystemExit):
        side_by_side.parse(side_by_side.parser("x"), [f"--repeat={count}"])
    assert f"--repeat: must be an integer of at least 1, got '{count}'" in capsys.readouterr().err


def test_bound_writes_the_same_observations():
    sizes = {"prompt_length": 3, "new_tokens": 4}
    envs = benchmark_models.text_envs(
        benchmark_models.prompts_of_words(5, 3), benchmark_models.tokenizer_of_words(), 2, **sizes
    )
    assert isinstance(envs.unwrapped, TextVectorEnv)
    bound = environment.Bound(2, 3, 4, copy=True)
    first = envs.reset(seed=0)[0]
    bound.observations[:, :3] = first[:, :3]
    bound.reset()
    for token in (5, 6, 7):
        actions = torch.tensor([token, token + 10]).numpy()
        assert (envs.step(actions)[0] == bound.step(actions)[0]).all()
    assert bound.lengths.tolist() == [3, 3]


@pytest.mark.parametrize("build", [benchmark_models.gpt2, benchmark_models.t5])
def test_models_stop_after_the_mean_length(build):
    # 400 lengths, geometric with p = 0.18 and cut at 12: standard deviation at most 4, so a standard error of 0.2.
    torch.manual_seed(0)
    model = benchmark_models.stopping(build(layers=1), 5.0, 12)
    prompts = torch.randint(FIRST_WORD, 2_000, (400, 4))
    tokens, _ = write(model, prompts, torch.ones_like(prompts, dtype=torch.bool), 12, eos=EOS, stops=True)
    assert rollout.count_tokens(tokens, EOS) / 400 == pytest.approx(5.0, abs=0.8)
    unbiased = build(layers=1)
    tokens, _ = write(unbiased, prompts, torch.ones_like(prompts, dtype=torch.bool), 12, eos=EOS, stops=True)
    assert rollout.count_tokens(tokens, EOS) / 400 > 11


def test_stop_probability_gives_the_mean():
    assert benchmark_models.stop_probability(1.0, 9) == pytest.approx(1.0)
    # L = 2: 1 + (1 − p) = 1.5
    assert benchmark_models.stop_probability(1.5, 2) == pytest.approx(0.5)


@pytest.mark.parametrize("build", [benchmark_models.gpt2, benchmark_models.t5])
def test_plain_loop_agrees_with_one_forward_pass(build):
    """Log-probabilities with a cache and left padding are those of one pass without either."""
    model = build(layers=2)
    prompts = torch.randint(FIRST_WORD, 2_000, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    tokens, logprobs = write(model, prompts, mask, 4, eos=EOS, stops=False, logprobs=True)
    assert not (tokens == EOS).any()
    for row in range(2):
        alone = prompts[row][mask[row]].unsqueeze(0)
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                decoder_ids = torch.cat([torch.zeros(1, 1, dtype=torch.long), tokens[row : row + 1, :-1]], 1)
                logits = model(input_ids=alone, decoder_input_ids=decoder_ids).logits
            else:
                logits = model(torch.cat([alone, tokens[row : row + 1, :-1]], 1)).logits[:, -4:]
        logits[..., EOS] = -math.inf
        expected = logits.log_softmax(-1).gather(-1, tokens[row].view(1, 4, 1)).flatten()
        assert torch.allclose(logprobs[row], expected, atol=1e-4)


@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_plain_pytorch_learns(shared, generates):
    """It raises the share of even tokens; with the negated reward it does not."""

    def share_after(sign):
        torch.manual_seed(0)
        model = benchmark_models.gpt2(vocab_size=16, layers=1, positions=8)
        hyperparameters = Hyperparameters(new_tokens=4, learning_rate=3e-3, epochs=2, minibatch_size=32)

        def reward(tokens, is_token):
            return sign * (tokens % 2 == 0).float().mean(1)

        trainer = HandWrittenPPO(
            model, reward, hyperparameters, eos=EOS, stops=False, shared=shared, generates=generates
        )
        prompts = torch.full((64, 2), 3)
        mask = torch.ones_like(prompts, dtype=torch.bool)
        for _ in range(8):
            assert trainer.iterate(prompts, mask) == 64 * 4
        return float((trainer.write(prompts, mask)[2] % 2 == 0).float().mean())

    assert share_after(1.0) > 0.7  # half of the tokens are even
    assert share_after(-1.0) < 0.4


def test_growth_and_exponent_by_hand():
    assert growth.growth([2.0, 1.0, 1.5]) == 1.5
    assert growth.growth([3.0, 2.0, 1.0]) == 1.0
    assert growth.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert growth.exponent([24, 48], [5.0, 10.0]) == pytest.approx(1.0)


def test_peak_bytes_by_hand():
    # Two tensors of 4,000 bytes are alive at once, though three are made; scalars take some bytes more.
    def work():
        one = torch.ones(1000)
        two = one + 1
        del one
        return two * 2

    assert memory.peak_bytes(work) == pytest.approx(8_000, abs=100)


class TestLearning:
    """The table of learning: which results count as learning."""

    def test_pairs_are_learned_where_they_are(self):
        cells = learning.cells_of(["rloo", "dpo"], learning.ENVS, ["tiny"])
        assert [cell.env for cell in cells if cell.algorithm == "rloo"] == list(learning.ENVS)
        assert [cell.env for cell in cells if cell.algorithm == "dpo"] == ["tril/HH-v0"]

    def test_published_data_have_their_preset(self, tmp_path):
        cell = learning.Cell("ppo", "tril/IMDB-v0", "tiny")
        options = learning.Conditions(tmp_path, data=tmp_path / "data").of_training(cell)
        assert options[options.index("--preset") + 1] == "small"
        assert options[options.index("--dataset") + 1] == str(tmp_path / "data" / "imdb")
        assert "--dataset" not in learning.Conditions(tmp_path).of_training(cell)

    @staticmethod
    def result(
        greedy=3.0,
        sampled=3.0,
        *,
        algorithm="ppo",
        kl=2.0,
        unknown=0.0,
        repetition=0.0,
        repetition_greedy=0.0,
        **further,
    ):
        changes = {
            way: change if isinstance(change, dict) else {"standard_errors": change}
            for way, change in (("greedy", greedy), ("sampled", sampled))
        }
        quiet = {"text/repetition": 0.0, "text/length": 12.0}
        ways = {"greedy": {"reward/mean": 0.5} | quiet, "sampled": {"reward/mean": 0.4} | quiet}
        after = {way: dict(metrics) for way, metrics in ways.items()}
        after["sampled"] |= {"kl": kl, "text/unknown_words": unknown, "text/repetition": repetition}
        after["greedy"]["text/repetition"] = repetition_greedy
        about = {"algorithm": algorithm, "env": "tril/CommonGen-v0", "policy": "tiny", "seconds": {"training": 60.0}}
        return about | {"seed": 0} | {"before": ways, "after": after, "verdict": changes} | further

    def test_a_gain_in_both_decodings_passes(self):
        text, passes = learning.table([self.result(), self.result(greedy=2.5, sampled=-0.5), self.result()])
        assert passes
        assert (
            "| ppo | tril/CommonGen-v0 | tiny | 3 | 0.500 → 0.500 (+3.0; +2.5) | 0.400 → 0.400 (+3.0; -0.5) |" in text
        )

    def test_rows_are_in_the_order_of_environments_and_algorithms(self):
        results = [
            self.result(algorithm=algorithm) | {"env": env}
            for env in ("tril/IMDB-v0", "tril/CommonGen-v0")
            for algorithm in ("rloo", "ppo")
        ]
        rows = [row.split(" | ")[:2] for row in learning.table(results)[0].splitlines()[2:]]
        envs = ("tril/CommonGen-v0", "tril/IMDB-v0")
        assert rows == [[f"| {algorithm}", env] for env in envs for algorithm in ("ppo", "rloo")]

    @pytest.mark.parametrize(
        ("rewards", "words", "broken"),
        [
            (((1.0, 2.0), (2.0, 3.0)), "all rise", []),
            (((1.0, 2.0), (0.0, 1.0)), "all fall", ["median", "a seed fell"]),
            (((1.0, 2.0), (1.0, 2.0)), "+0.0", ["median"]),
            (((1.0, 2.0), (None, 3.0)), "no standard error", ["median"]),
            (((1.0,), (2.0,)), "no standard error", ["median"]),
        ],
    )
    def test_changes_without_a_standard_error_are_shown_and_judged(self, rewards, words, broken):
        parts = [
            {"rewards": dict.fromkeys(("greedy", "sampled"), part), "metrics": {"sampled": {}}} for part in rewards
        ]
        verdict = json.loads(json.dumps(verdict_of(*parts)))
        results = [self.result(verdict[way], verdict[way]) for way in ("greedy", "sampled")]
        text, passes = learning.table(results)
        assert f"({words}; {words})" in text
        assert learning.summary(results)["broken"] == broken
        assert passes == (not broken)

    @pytest.mark.parametrize(
        ("bad", "rule"),
        [
            ({"greedy": 1.9}, "median"),
            ({"kl": 8.1}, "KL"),
            ({"kl": math.nan}, "KL"),
            ({"unknown": 0.04}, "unknown words"),
            ({"repetition": 0.02, "repetition_greedy": 0.02}, "repetition"),
            ({"repetition_greedy": 0.04}, "repetition"),
            ({"unknown": math.nan}, "unknown words"),
            ({"repetition": math.nan}, "repetition"),
        ],
    )
    def test_each_rule_can_fail(self, bad, rule):
        _, passes = learning.table([self.result(**bad)])
        assert not passes
        assert learning.summary([self.result(**bad)])["broken"] == [rule]

    def test_one_seed_that_falls_fails_the_cell(self):
        results = [self.result(), self.result(), self.result(sampled=-1.1)]
        assert learning.summary(results)["broken"] == ["a seed fell"]

    @pytest.mark.parametrize(
        ("nll", "accuracy", "broken"),
        [
            ((1.3, 1.3), (0.9, 0.8), []),
            ((1.3, 1.4), (0.9, 0.8), ["likelihood"]),
            ((1.3, 1.2), (0.8, 0.9), ["discriminator"]),
            ((1.3, 1.31), (0.6, 0.62), []),
            ((1.3, math.nan), (0.6, 0.62), ["likelihood"]),
            ((1.3, 1.31), (0.6, math.nan), ["discriminator"]),
        ],
    )
    def test_gail_is_judged_without_the_reward(self, nll, accuracy, broken):
        result = self.result(0.0, 0.0, algorithm="gail", nll=nll, discriminator=accuracy)
        assert learning.summary([result])["broken"] == broken

    @pytest.mark.parametrize(
        ("likelihood", "reward", "broken"),
        [
            ((2.1, 30.0, 40.0), 0.0, []),  # the reward need not rise
            ((1.9,), 0.0, ["likelihood"]),
            ((30.0, 40.0, -1.0), 0.0, []),
            ((30.0, 40.0, -1.1), 0.0, ["likelihood"]),  # no seed may fall
            ((30.0,), -2.1, ["reward"]),
        ],
    )
    def test_bc_is_judged_by_likelihood(self, likelihood, reward, broken):
        results = [
            self.result(reward, reward, algorithm="bc", kl=99.0, likelihood={"standard_errors": rise})
            for rise in likelihood
        ]
        assert learning.summary(results)["broken"] == broken

    @pytest.mark.parametrize(("of_references", "broken"), [(0.02, []), (0.0, ["repetition"])])
    def test_bc_may_repeat_as_much_as_references(self, of_references, broken):
        about = {"likelihood": {"standard_errors": 30.0}, "reference_repetition": of_references}
        result = self.result(algorithm="bc", repetition=0.025, repetition_greedy=0.5, **about)
        assert learning.summary([result])["broken"] == broken

    @pytest.mark.parametrize(("of_references", "broken"), [(0.25, []), (0.2, ["unknown words"])])
    def test_texts_may_have_as_many_unknown_words_as_references(self, of_references, broken):
        result = self.result(unknown=0.24, reference_unknown_words=of_references)
        assert learning.summary([result])["broken"] == broken

    def test_unknown_words_of_references(self):
        held_out = gym.make_vec("tril/CommonGen-v0", num_envs=32, split="test")
        words = words_of_examples(base_attribute(held_out, "examples"))
        found = [learning.reference_unknown_words(held_out, known) for known in (words, words - {"a"}, ())]
        assert found[0] == 0 < found[1] < found[2] == 1

    def test_published_data_are_judged_on_more_examples(self, tmp_path):
        ours, published = learning.Conditions(tmp_path), learning.Conditions(tmp_path, data=tmp_path)
        assert (ours.examples, published.examples) == (200, 1000)

    def test_a_run_is_compared_with_the_policy_that_it_began_with(self, tmp_path, monkeypatch):
        """BC, whose first policy has random weights, so that references become more likely."""

        def trained(command, **options):
            assert command[4:7] == ["bc", "--env", "tril/CommonGen-v0"]
            sizes = {"num_envs": 8, "iterations": 2, "eval_examples": 2, "eval_every": 1, "learning_rate": 1e-2}
            config = configure(command[4], env=command[6], seed=int(command[command.index("--seed") + 1]), **sizes)
            train(config, command[command.index("--output-dir") + 1], console=RunConsole(Console(quiet=True)))

        monkeypatch.setattr(learning, "subprocess", SimpleNamespace(run=trained))
        monkeypatch.setattr(learning, "EXAMPLES", 6)
        cell = learning.Cell("bc", "tril/CommonGen-v0", "tiny")
        found = learning.measure_run(cell, 1, learning.Conditions(tmp_path))
        assert (found["seed"], found["before"]["greedy"]["examples"]) == (1, 6)
        assert abs(found["before"]["sampled"]["kl"]) < 1e-4 < abs(found["after"]["sampled"]["kl"])
        for way in ("greedy", "sampled"):
            ends = [found[when][way]["reward/mean"] for when in ("before", "after")]
            assert [found["verdict"][way][when] for when in ("before", "after")] == pytest.approx(ends)
        assert found["likelihood"]["standard_errors"] > 2
        assert [number for number, *_ in found["curve"]] == [0, 1, 2]
        assert learning.summary([found])["seeds"] == 1

    @pytest.mark.parametrize("kl", [8.0, 8.1])
    def test_a_cell_that_fails_is_the_exit_code(self, tmp_path, capsys, kl):
        result = self.result(kl=kl, curve=[(0, 0.5, 0.4), (10, 0.6, 0.5)])
        (tmp_path / "ppo.json").write_text(json.dumps(result))
        with pytest.raises(SystemExit) as ended:
            learning.main([str(tmp_path), "--seeds", "0"])
        assert bool(ended.value.code) == (kl > 8)
        assert (tmp_path / "table.md").read_text() == capsys.readouterr().out

    def test_a_run_that_fails_is_the_exit_code(self, tmp_path, capsys):
        """Without a device of this name the run ends with an error and no result."""
        asked = ["--algorithms", "ppo", "--envs", "tril/CommonGen-v0", "--policies", "tiny", "--seeds", "1"]
        with pytest.raises(SystemExit) as ended:
            learning.main([str(tmp_path), *asked, "--device", "nowhere"])
        assert ended.value.code
        assert "ppo_CommonGen-v0_tiny, seed 0: failed, see" in capsys.readouterr().out
        assert not list(tmp_path.glob("*.json"))

    @pytest.mark.parametrize(
        ("seeds", "broken"),
        [
            ([{"greedy": 2.0, "sampled": 2.0}], []),
            ([{"sampled": 1.9}], ["median"]),  # in both decodings
            ([{"kl": 8.0}, {"kl": 1.0}, {"kl": 8.1}], ["KL"]),  # in every seed
            ([{"unknown": 0.02}, {"unknown": 0.9}, {"unknown": 0.02}], []),  # in the median seed
            ([{"repetition": 0.009}, {"repetition": 0.9}, {"repetition": 0.0}], []),
            ([{}, {}, {"greedy": -1.0}], []),
        ],
    )
    def test_limits_are_of_all_seeds_or_of_the_median(self, seeds, broken):
        assert learning.summary([self.result(**seed) for seed in seeds])["broken"] == broken

    @pytest.mark.parametrize(("way", "change", "broken"), [("greedy", -2.0, []), ("sampled", -2.1, ["reward"])])
    def test_gail_may_not_lower_the_reward_in_either_decoding(self, way, change, broken):
        result = self.result(
            **{"greedy": 0.0, "sampled": 0.0, way: change}, algorithm="gail", nll=(1.3, 1.3), discriminator=(0.9, 0.9)
        )
        steady = self.result(0.0, 0.0, algorithm="gail", nll=(1.3, 1.3), discriminator=(0.9, 0.9))
        assert learning.summary([steady, result, steady])["broken"] == broken  # in any seed

    def test_length_and_repetition_are_shown(self):
        row = learning.table([self.result(repetition=0.004, repetition_greedy=-0.0121)])[0].splitlines()[-1]
        assert "| 2.0 | 12 → 12 | -1.2, +0.4 | 0.0% |" in row

    def test_there_is_a_figure_for_each_environment(self, tmp_path):
        curve = [(0, 0.5, 0.4), (10, 0.6, 0.5), (20, 0.7, 0.5)]
        rarer = [*curve[:1], *curve[2:]]  # evaluated less often
        learning.draw(
            [self.result(curve=curve), self.result(curve=rarer), self.result(curve=curve, algorithm="bc")], tmp_path
        )
        assert [path.name for path in tmp_path.iterdir()] == ["commongen_tiny.png"]

    @pytest.mark.slow
    def test_a_fresh_discriminator_tells_random_texts_from_references(self):
        train, held_out = (gym.make_vec("tril/Toy-v0", num_envs=32, rule="sparse") for _ in range(2))
        untrained = tiny_policy(train, samples=0, width=32, heads=2)
        assert learning.discriminator_accuracy(untrained, train, held_out) > 0.9
        trained = tiny_policy(train, samples=2000, epochs=4, width=32, heads=2, progress=False)
        assert learning.discriminator_accuracy(trained, train, held_out) < 0.75
        assert learning.reference_nll(trained, held_out) < learning.reference_nll(untrained, held_out) - 1.0
        assert learning.reference_repetition(held_out) == 0
        before, after = (learning.reference_likelihoods(policy, held_out) for policy in (untrained, trained))
        assert min(new - old for old, new in zip(before, after, strict=True)) > 0
        assert -sum(after) / len(after) == pytest.approx(learning.reference_nll(trained, held_out), rel=0.1)

    def test_each_held_out_reference_counts_once(self):
        held_out = gym.make_vec("tril/TLDR-v0", num_envs=200, split="test", reward=None, autoreset_mode="Disabled")
        examples = list(base_attribute(held_out, "examples"))
        known = words_of_examples(examples) - {"my", "did"}
        expected = sum(has_unknown_word(example.references[0], known) for example in examples) / 200
        assert 0 < expected < 1
        assert learning.reference_unknown_words(held_out, known) == expected
        texts = learning.held_out_references(held_out)
        assert len({tuple(row) for row in texts.prompts.tolist()}) == 200

    def test_the_control_has_the_threads_of_the_training(self, tmp_path, monkeypatch):
        """And the time of a run that was resumed is not that of the whole run."""

        def trained(command, **options):
            sizes = {"num_envs": 8, "iterations": 1, "eval_examples": 2, "eval_every": 0, "tiny_samples": 8}
            if "--resume" not in command:
                config = configure("ppo", env=command[6], **sizes)
                train(config, command[command.index("--output-dir") + 1], console=RunConsole(Console(quiet=True)))

        def imitated(config, train, policy, seconds):
            threads.append(torch.get_num_threads())
            return policy

        threads: list[int] = []
        monkeypatch.setattr(learning, "subprocess", SimpleNamespace(run=trained))
        monkeypatch.setattr(learning, "continued_imitation", imitated)
        monkeypatch.setattr(learning, "EXAMPLES", 4)
        torch.set_num_threads(2)
        cell, conditions = (
            learning.Cell("ppo", "tril/CommonGen-v0", "tiny"),
            learning.Conditions(tmp_path, control=True),
        )
        seconds = [learning.measure_run(cell, 0, conditions)["seconds"] for _ in range(2)]
        assert threads == [1, 1]  # of a tiny policy
        assert [set(found) for found in seconds] == [{"training", "with pretraining and evaluation"}, {"training"}]

    @pytest.mark.parametrize(
        ("of_others", "asked"),
        [
            ({"split": "test", "data": "published"}, ["--seeds", "0"]),
            ({"split": "validation", "data": "embedded"}, ["--seeds", "0"]),
            ({"split": "test"}, ["--seeds", "1", "--data", "nowhere"]),  # of a version that had embedded data only
            ({"split": "test", "data": "embedded"}, ["--seeds", "1", "--split", "validation", "--first-seed", "1"]),
        ],
    )
    def test_results_of_other_data_are_not_mixed(self, tmp_path, monkeypatch, of_others, asked):
        kept = results_page.read("learning")[0] | {"algorithm": "ppo", "env": "tril/CommonGen-v0", "policy": "tiny"}
        kept = {name: value for name, value in kept.items() if name not in ("split", "data")}
        folder, cell, is_table = tmp_path / "found", "ppo_CommonGen-v0_tiny", asked[1] == "0"
        folder.mkdir()
        (folder / f"{cell}_0.json").write_text(json.dumps(kept | of_others))
        if is_table:  # with results of the other kind
            (folder / f"{cell}_1.json").write_text(json.dumps(kept | {"split": "test"}))
        monkeypatch.setattr(learning.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
        which = ["--algorithms", "ppo", "--envs", "tril/CommonGen-v0", "--policies", "tiny"]
        with pytest.raises(SystemExit, match="use another folder"):
            learning.main([str(folder), *which, *asked])
        assert not (folder / "table.md").exists()


def test_what_is_memorised_is_of_the_parts_that_the_guide_question_has(tmp_path):
    for split in memorisation.SPLITS:
        rows = [{"concepts": ["dog", f"{split}{n}"], "references": [f"the dog sees {n}"]} for n in range(40)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known, others = memorisation.parts_of(str(tmp_path), 0.7)
    for found, part in ((known, (0.0, 0.7)), (others["the rest of train"], (0.7, 1.0))):
        settings = {"dataset": str(tmp_path), "tokenizer": "fit", "reward": None, "part": part}
        envs = gym.make_vec("tril/CommonGen-v0", num_envs=1, **settings)
        assert [example.prompt for example in found] == [row.prompt for row in base_attribute(envs, "examples")]
    assert [len(known) + len(others["the rest of train"]), *map(len, list(others.values())[1:])] == [40, 40, 40]


@pytest.mark.parametrize("code", [0, 1])
def test_a_cell_that_fails_on_embedded_data_does_not_end_the_sweep_on_published_ones(tmp_path, code):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho ran $3 $4\nexit {code}\n")
    python.chmod(0o755)
    command = ["make", "-s", "-o", "install", "slow", f"BIN={tmp_path}"]
    for data, runs in (("published", ["--algorithms all", "--data published"]), ("", ["--algorithms all"])):
        done = subprocess.run([*command, f"DATA={data}"], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.splitlines() == [f"ran {run}" for run in runs]
        assert bool(done.returncode) == bool(code)


def test_the_median_of_the_toy_rewards_is_rounded_once(monkeypatch, capsys):
    found = iter([0.99805, 0.99854])
    monkeypatch.setattr(toy_guides, "with_good_guide", lambda *arguments: {})
    monkeypatch.setattr(toy_guides, "with_useless_guide", lambda *arguments: {"ppo": next(found)})
    toy_guides.main(["--seeds", "2"])
    assert "median 0.998 reward of [0.998, 0.999]" in capsys.readouterr().out
