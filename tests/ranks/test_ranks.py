"""The result does not depend on the number of processes: two and four of them against one, in float64."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from rank_cases import CASES, ITERATIONS, MORE_CASES, USUAL, agent_of, result_of, served

from tril_gym.utils.ranks import ALONE, Ranks, join_ranks

SCRIPT = Path(__file__).with_name("rank_cases.py")
DEFECTS = ("ppo-pp:counts", "whitening:whitening")
OTHERS = (*(case for case in CASES if case not in USUAL), *MORE_CASES)
WITH_FOUR = ("ppo-pp", "rebel")


def results_of(processes: int, name: str, cases: list[str], folder: Path) -> dict:
    """The results of several processes, trained once for all workers of the test run."""
    file = folder / f"{name}.pt"
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            command = [sys.executable, str(SCRIPT), str(processes), str(file), *cases]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="module")
def of_two(shared_folder):
    return results_of(2, "two", [*USUAL, *DEFECTS], shared_folder)


@pytest.fixture(scope="module")
def others_of_two(shared_folder):
    return results_of(2, "others-of-two", list(OTHERS), shared_folder)


@pytest.fixture(scope="module")
def of_four(shared_folder):
    return results_of(4, "four", list(WITH_FOUR), shared_folder)


def distance(found: dict, expected: dict) -> float:
    """The largest difference of a weight; infinite where a text differs."""
    if not all(torch.equal(*pair) for pair in zip(found["texts"], expected["texts"], strict=True)):
        return math.inf
    pairs = zip(found["weights"], expected["weights"], strict=True)
    return max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


def check_same(found: dict, alone: dict) -> None:
    assert len(alone["texts"]) >= ITERATIONS
    assert distance(found, alone) < 1e-9
    for mine, theirs in zip(found["metrics"], alone["metrics"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9, nan_ok=True)


class TestAgainstOneProcess:
    @pytest.mark.parametrize("case", USUAL)
    def test_two_processes_give_the_same(self, case, of_two):
        check_same(of_two[case], result_of(case, ALONE))

    @pytest.mark.slow
    @pytest.mark.parametrize("case", OTHERS)
    def test_two_processes_give_the_same_in_other_cases(self, case, others_of_two):
        check_same(others_of_two[case], result_of(case, ALONE))

    @pytest.mark.slow
    @pytest.mark.parametrize("case", WITH_FOUR)
    def test_four_processes_give_the_same(self, case, of_four):
        assert distance(of_four[case], result_of(case, ALONE)) < 1e-9

    @pytest.mark.parametrize("case", DEFECTS)
    def test_what_knows_only_its_own_process_gives_something_else(self, case, of_two):
        assert distance(of_two[case], of_two[case.partition(":")[0]]) > 1e-6


class TestZero:
    def test_each_process_has_a_part_of_the_moments(self, of_two):
        whole, parts = of_two["ppo-pp"]["moments"], of_two["zero"]["moments"]
        assert whole[0] == whole[1] == sum(parts)
        assert max(parts) < 0.7 * whole[0]


class TestShardedWriting:
    def test_by_block_a_process_holds_one_block_at_a_time(self, of_two):
        assert of_two["sharded, by block"]["gathered"] == [1, 1]

    @pytest.mark.slow
    def test_so_it_does_of_an_encoder_decoder(self, others_of_two):
        assert others_of_two["sharded, by block, encoder-decoder"]["gathered"] == [1, 1]

    def test_else_it_holds_all_blocks(self, of_two):
        assert min(of_two["sharded"]["gathered"]) > 1

    def test_models_that_are_not_sharded_cannot(self):
        with pytest.raises(ValueError, match="--sharded-writing block is for models that are sharded"):
            join_ranks(writes_by_block=True)


class TestWholeCopy:
    def test_positions_keep_the_precision_that_weights_do_not_have(self, of_two):
        assert torch.float32 in {own.dtype for own, _ in of_two["buffers"]}
        for own, copied in of_two["buffers"]:
            torch.testing.assert_close(copied, own, rtol=0, atol=0)


class TestShardedLora:
    def test_policy_reference_and_critic_share_the_parts_of_one_base(self, of_two):
        for numbers, held in of_two["sharded LoRA"]["base"]:
            assert 0 < held <= 0.51 * numbers

    @pytest.mark.slow
    def test_so_they_do_of_an_encoder_decoder(self, others_of_two):
        for numbers, held in others_of_two["sharded LoRA, encoder-decoder"]["base"]:
            assert 0 < held <= 0.51 * numbers

    def test_one_process_continues_what_two_saved(self, of_two, shared_folder):
        alone = agent_of("sharded LoRA", ALONE)
        alone.learn(ITERATIONS + 1, progress=False)
        loaded = type(alone).load(shared_folder / "two.agent", envs=agent_of("sharded LoRA", ALONE).envs)
        assert all(map(torch.equal, base_of(loaded), base_of(alone)))
        loaded.learn(1, progress=False)
        for mine, theirs in zip(loaded.policy.parameters(), alone.policy.parameters(), strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-9)


def base_of(agent) -> list[torch.Tensor]:
    return list(agent.policy.lora.base().parameters())


class TestServedPolicy:
    def test_the_main_process_hands_over_and_each_asks_for_its_own(self, of_two):
        alone, two = served(ALONE), of_two["served"]
        assert distance(two, alone) < 1e-9
        assert alone["handed"] == [[1, 2]]
        assert two["handed"] == [[1, 2], []]
        assert alone["requests"] == two["requests"] == [5, 5]


class TestRewards:
    def test_the_main_process_scores_the_texts_of_all(self, of_two):
        """12 rows and 13 texts: the last one is of rank 1, and rank 0 takes part with a copy of it."""
        (main,), (other,) = of_two["reward on the main process"]["asked"]
        assert main == [12, 12] * ITERATIONS  # rows without an episode are scored, too
        assert other == []

    @pytest.mark.slow
    def test_without_the_declaration_each_scores_its_own(self, others_of_two):
        (main,), (other,) = others_of_two["reward on each process"]["asked"]
        assert main == [6] * ITERATIONS
        assert other == [6, 6] * ITERATIONS

    def test_where_the_main_process_fails_all_do(self, of_two):
        main, other = of_two["errors"]
        assert "'lengths' failed on the text" in main
        assert main.endswith("no answer")
        assert other == f"{main} (on the main process)"


class OneOf(Ranks):
    """One of several ranks, whose others are not there."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class TestShares:
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    @pytest.mark.parametrize("count", [1, 2, 5, 12])
    def test_shares_are_all_rows_once_in_order(self, size, count):
        ranks = [OneOf(rank, size) for rank in range(size)]
        shares = [list(range(count))[rank.share(count)] for rank in ranks]
        assert [row for share in shares for row in share] == list(range(count))
        lengths = {len(share) for share in shares}
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) == ranks[0].largest_share(count)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_all_ranks_compute_equally_often(self, rank):
        read = []

        def twice(rows):
            read.append(len(rows))
            return 2 * rows

        OneOf(rank, 2).compute_rows(twice, 5, chunk=2)  # 2 rows of rank 0, 3 of rank 1
        assert read == [2, 1]

    def test_one_process_computes_all(self):
        assert ALONE.compute_rows(lambda rows: 2 * rows, 5, chunk=2).tolist() == [0, 2, 4, 6, 8]

    def test_one_process_returns_what_it_is_given(self):
        assert ALONE.gather(7) == [7]
        assert ALONE.sum({"a": 0.1}) == ALONE.max({"a": 0.1}) == {"a": 0.1}
        assert ALONE.any(True)
        assert not ALONE.any(False)

    def test_the_largest_of_nan_is_nan(self):
        assert math.isnan(ALONE.max({"a": math.nan})["a"])


class TestLaunchers:
    def test_without_one_a_process_is_alone(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        assert join_ranks() is ALONE

    @pytest.mark.parametrize("size", ["0", "two", "-1"])
    def test_a_wrong_number_is_refused(self, size, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(ValueError, match=f"WORLD_SIZE must be a whole number from 1 on, got '{size}'"):
            join_ranks()

    def test_an_incomplete_environment_is_refused(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ValueError, match="RANK is not set; start the processes with torchrun"):
            join_ranks()

    def test_one_process_has_nothing_to_shard_with(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        with pytest.raises(ValueError, match="--shard-models divides models among several processes"):
            join_ranks(shards=True)

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("ZERO_STAGE", "3", "use FSDP2, which shards as much: --shard-models"),
            ("CONFIG_FILE", "zero.json", "read of accelerate's own file"),
            ("OFFLOAD_OPTIMIZER_DEVICE", "cpu", "offload_optimizer_device must be none, got cpu"),
        ],
    )
    def test_what_zero_cannot_do_is_refused(self, name, value, words, monkeypatch):
        settings = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        settings |= {"ACCELERATE_USE_DEEPSPEED": "true", f"ACCELERATE_DEEPSPEED_{name}": value}
        for key, setting in settings.items():
            monkeypatch.setenv(key, setting)
        with pytest.raises(ValueError, match=words):
            join_ranks()
