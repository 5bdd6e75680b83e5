"""The speed benchmarks run, on tiny sizes, and say what they should; what they measure is not asserted here.

The bricks are: how turns are timed and compared, models that stop after a given number of tokens, the loop by hand.
"""

import gzip
import json
import math
from types import SimpleNamespace

import benchmark_models
import environment
import gpu
import growth
import iteration
import memory
import pytest
import rollout
import sample_efficiency
import score_workers
import side_by_side
import torch
from benchmark_models import EOS, FIRST_WORD
from hand_written import HandWrittenPPO, Numbers, write
from side_by_side import Comparison, Sample, Spread, Target

from tril_gym.envs.text_vector_env import TextVectorEnv


@pytest.fixture(autouse=True)
def _nothing_global_stays():
    """Benchmarks set torch's threads, and what is written by hand draws from the global generator."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    """A folder with a very small CommonGen."""
    rows = [
        {"concepts": ["dog", word], "references": [f"the dog sees a {word}", f"a {word} and a dog"]}
        for word in ("cat", "ball", "tree", "park", "boat", "lake")
    ]
    (tmp_path / "commongen").mkdir()
    with gzip.open(tmp_path / "commongen" / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def smoke(module, tmp_path, *more):
    """What a benchmark writes, and that it is what it returns."""
    output = tmp_path / "figures.json"
    found = module.main(["--smoke", "--output", str(output), *more])
    written = json.loads(output.read_text())
    assert written == json.loads(json.dumps(found))
    assert {"cores", "torch", "transformers", "threads", "load"} <= written["machine"].keys()
    assert written["settings"]["smoke"] is True
    for race in written["races"]:
        for contestant in race["contestants"].values():
            assert len(contestant["turns"]) == 1
            assert contestant["speed"]["median"] > 0
            assert contestant["amount"] > 0
        for ratio in race["ratios"]:
            assert ratio["low"] <= ratio["median"] <= ratio["high"]
            assert ratio["first"] in race["contestants"]
            assert ratio["met"] is None or isinstance(ratio["met"], bool)
    return written


def contestants(written):
    return [list(race["contestants"]) for race in written["races"]]


def test_environment(tmp_path, capsys):
    written = smoke(environment, tmp_path)
    stepped, whole, built = contestants(written)
    kinds = ["ours", "bound", "SyncVectorEnv"]
    assert [name.partition(",")[0] for name in stepped[:6]] == 2 * kinds
    assert [len(whole), len(built)] == [2, 2]
    assert [ratio["at_least"] for ratio in written["races"][0]["ratios"]][:4] == [2 / 3, 2 / 3, 20, 12]
    assert list(written["memory"]) == ["ours, 2 rows", "ours, 4 rows", "SyncVectorEnv, 2 rows", "SyncVectorEnv, 4 rows"]
    assert all(held["bytes a row"] > 0 for held in written["memory"].values())
    assert "target" in capsys.readouterr().out


def test_rollout(tmp_path, data, capsys):
    written = smoke(rollout, tmp_path, "--data", str(data))
    texts, guided = ["collect", "generate", "loop", "loop, our kernels"], ["PPO", "PPO++"]
    passes = [f"{number} texts" for number in (1, 8, 32, 64)]
    assert contestants(written) == [texts, guided, texts, guided, texts, texts, texts, guided, passes]
    equal, with_guide, of_t5 = (written["races"][number]["contestants"] for number in (0, 1, 4))
    assert equal["collect"]["passes"]["median"] == 4, "the prompts, then each token but the last"
    assert of_t5["collect"]["passes"]["median"] == 1 + 4, "the encoder and the start token, then the same"
    assert with_guide["PPO"]["passes"]["median"] == 4 + 1, "and the reference"
    assert 0 < equal["collect"]["passes' share"]["median"] < 1
    assert {contestant["amount"] for contestant in equal.values()} == {4 * 4}  # texts by tokens
    assert 0 < equal["collect"]["environment's share"]["median"] < 1
    assert equal["collect"]["sampled"]["median"] == 4 * 4
    capsys.readouterr()


def test_passes_alone(tmp_path, capsys):
    written = smoke(rollout, tmp_path, "--only-passes")
    assert contestants(written) == [[f"{number} texts" for number in (1, 8, 32, 64)]]
    assert written["races"][0]["contestants"]["64 texts"]["amount"] == 64 * 4
    capsys.readouterr()


def test_counting_passes_leaves_a_model_as_it_was():
    model = benchmark_models.t5(layers=1)
    with rollout.Passes(model) as passes:
        model.get_encoder()(input_ids=torch.ones((1, 2), dtype=torch.long))
    assert passes.number == 1
    assert passes.seconds > 0
    assert not any("forward" in vars(body) for body in rollout.bodies_of(model))


def test_score_workers(tmp_path, capsys):
    written = smoke(score_workers, tmp_path)
    assert contestants(written) == [["without a reward", "in this process", "1 worker", "2 workers"]]
    assert len({contestant["amount"] for contestant in written["races"][0]["contestants"].values()}) == 1
    capsys.readouterr()


def test_iteration_in_processes_of_their_own(tmp_path, capsys):
    written = smoke(iteration, tmp_path)
    assert contestants(written) == [["ours, separate", "by hand, separate"]]
    for contestant in written["races"][0]["contestants"].values():
        assert contestant["amount"] == 4 * 4
        assert contestant["peak MiB"]["median"] > contestant["above imports"]["median"] > 0
    capsys.readouterr()


def test_a_contestant_that_fails_is_told_of(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended:[\s\S]*case\.json"):
        iteration.race_on(tmp_path, "nothing there", ["ours, separate"], None, 1)


def test_cases_of_the_data_are_what_all_contestants_read(tmp_path, data, capsys):
    options = {"smoke": True, "data": data, "teach": 1}
    found = iteration.write_cases(tmp_path, type("Settings", (), options))
    folder = list(found.values())[-1]
    case = json.loads((folder / "case.json").read_text())
    assert len(case["prompts"]) == 6
    assert case["stops"] is True
    assert (folder / "model.safetensors").exists()
    assert (folder / "tokenizer.json").exists()
    capsys.readouterr()


def test_growth(tmp_path, capsys):
    written = smoke(growth, tmp_path)
    assert [len(names) for names in contestants(written)] == [2] * 5
    assert list(written["growth"]) == [
        *("collection, by texts", "learning, by texts"),
        *("collection, by length", "learning, by length", "loop by hand, by length"),
    ]
    capsys.readouterr()


def test_memory(tmp_path, capsys):
    found = smoke(memory, tmp_path)["memory"]
    assert len(found) == 2 * 2 * 2
    for way, figures in found.items():
        standing = figures["weights"] + figures["gradients"] + figures["moments"]
        assert figures["most at once"] == pytest.approx(standing + figures["besides these"]), way
        assert figures["gradients"] == figures["weights"]
    # AdamW keeps two moments of each weight, and a step count
    assert found["ours, separate, 2,000 tokens"]["moments"] == pytest.approx(
        2 * found["ours, separate, 2,000 tokens"]["weights"], rel=1e-3
    )
    capsys.readouterr()


def test_gpu(tmp_path, capsys):
    """On a CPU here; that the loop by hand learns with `generate`, too, is a test of its own."""
    written = smoke(gpu, tmp_path, "--device", "cpu")
    assert contestants(written) == [
        ["collect", "generate", "loop", "loop, our kernels"],
        ["PPO", "by hand, with generate"],
    ]
    assert [ratio["at_least"] for race in written["races"] for ratio in race["ratios"]] == [5, 2]
    (floor,) = written["floors"].values()
    assert floor["ours"] == pytest.approx(
        written["races"][0]["contestants"]["collect"]["speed"]["median"] / floor["tokens/s at that"]
    )
    capsys.readouterr()


def test_bytes_of_a_batch_by_hand():
    settings = SimpleNamespace(smoke=True, texts=9, device="cpu", dtype="bfloat16")
    shape = gpu.Shape(settings, 6, 4)  # 4 texts, 1 layer of width 32
    weights = torch.nn.Linear(10, 10)  # 110 numbers, read for each of 4 tokens
    # before the tokens stand 6, 7, 8 and 9 columns of 32 numbers in keys and in values, of 4 texts
    assert shape.bytes_of_a_batch(weights) == 2 * (4 * 110 + 4 * 2 * 32 * (6 + 7 + 8 + 9))


def test_sample_efficiency_by_hand():
    rewards = [0.1] * 5 + [0.6] * 5 + [0.3] * 5
    logits_of = sample_efficiency.judge(rewards)
    assert logits_of == pytest.approx({"first": 0.1, "early": 0.3, "best": 0.6, "last": 0.3, "kept": 0.5})
    assert sample_efficiency.judge([float(i) for i in range(30)])["early"] == 22.0  # of iterations 21 to 25


def test_sample_efficiency_runs_ppo():
    rewards = sample_efficiency.rewards_of(0, 6, 8, vocab_size=40, texts=8, layers=1)
    assert len(rewards) == 6
    assert all(0 <= reward <= 1 for reward in rewards)


def test_turns_alternate_and_ratios_are_of_a_round():
    # Seconds by turn, after a warm-up: the first contestant slows down, and the other one with it.
    order, seconds = [], {"one": iter([9.0, 1.0, 2.0, 4.0]), "two": iter([9.0, 2.0, 4.0, 8.0])}

    def turn(name):
        order.append(name)
        return Sample(next(seconds[name]), 8.0)

    both = {name: lambda name=name: turn(name) for name in seconds}
    race = Comparison("", "texts", both, [Target("one", "two", 2.5)], same_turns=True)
    found = side_by_side.run(race, repeat=3)
    assert order == ["one", "two", "one", "two", "two", "one", "one", "two"]  # the warm-up, three rounds
    assert found["contestants"]["one"]["speed"] == {"median": 4.0, "low": 2.0, "high": 8.0}
    (ratio,) = found["ratios"]
    assert (ratio["median"], ratio["low"], ratio["high"], ratio["met"]) == (2.0, 2.0, 2.0, False)
    assert ratio["turns"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert Target("one", "two", 2.0).met(2.0) is True
    assert Target("one", "two").met(2.0) is None


def test_figures_have_three_digits():
    assert [side_by_side.figure(value) for value in (0, 0.123456, 12.3456, 1234.5, 1e-5)] == [
        *("0", "0.123", "12.3", "1,234", "1.00e-05")
    ]
    assert str(Spread.of([3.0, 1.0, 2.0])) == "2 (1 … 3)"


def test_repeat_must_be_a_number_of_turns(capsys):
    with pytest.raises(SystemExit):
        side_by_side.parsed(side_by_side.parser("x"), ["--repeat", "0"])
    assert "--repeat must be at least 1, got 0" in capsys.readouterr().err


def test_the_bound_writes_what_the_environment_writes():
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
def test_models_stop_after_so_many_tokens_on_average(build):
    # 400 lengths, geometric with p = 0.18 and cut at 12: standard deviation at most 4, so a standard error of 0.2.
    torch.manual_seed(0)
    model = benchmark_models.stopping(build(layers=1), 5.0, 12)
    prompts = torch.randint(FIRST_WORD, 2_000, (400, 4))
    tokens, _ = write(model, prompts, torch.ones_like(prompts, dtype=torch.bool), 12, eos=EOS, stops=True)
    assert rollout.tokens_of(tokens, EOS) / 400 == pytest.approx(5.0, abs=0.8)
    unbiased = build(layers=1)
    tokens, _ = write(unbiased, prompts, torch.ones_like(prompts, dtype=torch.bool), 12, eos=EOS, stops=True)
    assert rollout.tokens_of(tokens, EOS) / 400 > 11


def test_the_chance_to_stop_gives_the_mean():
    assert benchmark_models.chance_to_stop(1.0, 9) == pytest.approx(1.0)
    # L = 2: 1 + (1 − p) = 1.5
    assert benchmark_models.chance_to_stop(1.5, 2) == pytest.approx(0.5)


@pytest.mark.parametrize("build", [benchmark_models.gpt2, benchmark_models.t5])
def test_the_loop_by_hand_reads_what_a_whole_pass_reads(build):
    """With the cache and padding on the left, its log-probabilities are those of one pass without either."""
    model = build(layers=2)
    prompts = torch.randint(FIRST_WORD, 2_000, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    tokens, said = write(model, prompts, mask, 4, eos=EOS, stops=False, logprobs=True)
    assert not (tokens == EOS).any()
    for row in range(2):
        alone = prompts[row][mask[row]].unsqueeze(0)
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                begun = torch.cat([torch.zeros(1, 1, dtype=torch.long), tokens[row : row + 1, :-1]], 1)
                logits = model(input_ids=alone, decoder_input_ids=begun).logits
            else:
                logits = model(torch.cat([alone, tokens[row : row + 1, :-1]], 1)).logits[:, -4:]
        logits[..., EOS] = -math.inf
        expected = logits.log_softmax(-1).gather(-1, tokens[row].view(1, 4, 1)).flatten()
        assert torch.allclose(said[row], expected, atol=1e-4)


@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_iteration_by_hand_learns(shared, generates):
    """It raises the share of even tokens; with the reward turned round it does not."""

    def share_after(sign):
        torch.manual_seed(0)
        model = benchmark_models.gpt2(vocab_size=16, layers=1, positions=8)
        numbers = Numbers(new_tokens=4, learning_rate=3e-3, epochs=2, minibatch_size=32)

        def reward(tokens, is_token):
            return sign * (tokens % 2 == 0).float().mean(1)

        trainer = HandWrittenPPO(model, reward, numbers, eos=EOS, stops=False, shared=shared, generates=generates)
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


def test_the_most_bytes_at_once():
    # Two tensors of 4,000 bytes stand at once, though three are made; numbers beside them take some bytes.
    def work():
        one = torch.ones(1000)
        two = one + 1
        del one
        return two * 2

    assert memory.most_at_once(work) == pytest.approx(8_000, abs=100)
