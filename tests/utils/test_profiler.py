"""The profile of an iteration: time and peak memory of each part."""

import subprocess
import sys

import pytest
from doubles import policy_of

from tril_gym.agents import PPO, PPOConfig
from tril_gym.utils.profiler import Timer
from tril_gym.utils.tables import profile_table


class FixedMeter:
    """A meter with given peaks."""

    def __init__(self, *peaks):
        self.peaks, self.resets = list(peaks), 0

    def reset(self):
        self.resets += 1

    def read(self):
        return self.peaks.pop(0)


def test_agents_need_no_module_that_windows_lacks():
    code = "import sys; sys.modules['resource'] = sys.modules['fcntl'] = None; from tril_gym.agents import PPO"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_peak_counts_for_all_running_parts():
    # readings: begin a (5), begin b inside (7), end b (9), end a (3), begin c (8), end c (2)
    meter = FixedMeter(5, 7, 9, 3, 8, 2)
    timer = Timer(meter)
    with timer.time("a"), timer.time("b"):
        pass
    with timer.time("c"):
        pass
    assert dict(timer.peaks) == {"a": 9, "b": 9, "c": 2}  # 5 and 8 were before anything ran
    assert meter.resets == 6
    assert set(timer.seconds) == {"a", "b", "c"}
    assert timer.elapsed >= sum(timer.seconds[name] for name in "ac")


def test_without_a_meter_there_are_no_peaks():
    timer = Timer()
    with timer.time("a"):
        pass
    assert not timer.peaks
    assert timer.seconds["a"] >= 0


# Runs in a process of its own: in a large one, pages that the system takes back meanwhile would hide what is allocated.
MEASURE = """
import numpy as np
from tril_gym.utils.profiler import ProcessMemory

meter = ProcessMemory()
start = meter.read()
large = np.ones(400 * 2**17)  # 400 MiB
peak = meter.read()
del large
meter.reset()
print(start, peak, meter.read())
"""


def test_process_memory_measures_the_peak_since_its_reset():
    printed = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True).stdout
    start, peak, after_reset = map(float, printed.split())
    assert peak > start + 100
    if after_reset == peak:
        pytest.skip("this system does not reset the peak of resident memory")
    assert after_reset < peak - 100


def test_profile_has_every_part_and_its_share():
    import gymnasium as gym

    import tril_gym  # noqa: F401  registers the environments

    envs = gym.make_vec("tril/Toy-v0", num_envs=4, autoreset_mode="Disabled")
    policy = policy_of(vocab_size=16, positions=20)
    policy.language_model.tokenizer = envs.unwrapped.tokenizer
    rows = []
    agent = PPO(policy, envs, PPOConfig(epochs=1))
    agent.learn(2, callbacks=[lambda report: rows.append(report.metrics)], profile=True)
    agent.learn(1, callbacks=[lambda report: rows.append(report.metrics)])
    parts = {"collect", "score", "reference", "values", "learn"}
    assert {name for name in rows[0] if name.startswith("memory/")} == {f"memory/{part}" for part in parts}
    assert not [name for name in rows[2] if name.startswith("memory/")]
    assert {name for name in rows[2] if name.startswith("time/")} == {f"time/{part}" for part in (*parts, "other")}
    table = profile_table(rows[:2])
    cells = [list(column.cells) for column in table.columns]
    assert len(cells[0]) == 6
    assert sum(float(share.rstrip("%")) for share in cells[2]) == pytest.approx(100, abs=0.5)
    assert [bool(peak) for peak in cells[3]] == [True] * 5 + [False]
