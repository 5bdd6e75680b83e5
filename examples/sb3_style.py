"""A training loop without this library's agents: vector environments, Gymnasium's statistics, a generic learner.

The learner is the cross-entropy method on a table of word probabilities for each position. It uses observations,
actions and returns only, so a learner of any other library can replace it.
"""

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import tril_gym  # noqa: F401  (registers the environments)


def main(updates: int = 15, num_envs: int = 16, steps: int = 128, seed: int = 0) -> list[float]:
    envs = SyncVectorEnv([lambda: gym.make("tril/Toy-v0", rule="count")] * num_envs)
    envs = RecordEpisodeStatistics(envs, buffer_length=num_envs * steps)
    width, vocabulary = envs.single_observation_space.shape[0], envs.single_action_space.n
    rng = np.random.default_rng(seed)
    table = np.full((width, vocabulary), 1 / vocabulary)  # probability of each word, by the first empty column

    history = []
    observations, _ = envs.reset(seed=seed)
    ended = np.zeros(num_envs, bool)  # rows that the next step only resets, in autoreset mode NEXT_STEP
    written: list[list[tuple[int, int]]] = [[] for _ in range(num_envs)]
    for update in range(updates):
        episodes: list[tuple[float, list[tuple[int, int]]]] = []
        for _ in range(steps):
            columns = width - (observations[:, ::-1] >= 0).argmax(axis=1)  # the first empty column of each row;
            columns %= width  # 0 if there is none: the text has ended, and its action is ignored
            actions = np.array([rng.choice(vocabulary, p=table[column]) for column in columns])
            observations, _, terminated, truncated, infos = envs.step(actions)
            for row in np.flatnonzero(~ended):
                written[row].append((int(columns[row]), int(actions[row])))
            ended = terminated | truncated
            for row in np.flatnonzero(ended):
                episodes.append((float(infos["episode"]["r"][row]), written[row]))
                written[row] = []

        returns = [total for total, _ in episodes]
        history.append(float(np.mean(returns)))
        print(f"{update:3d}  mean return {history[-1]:.3f} of {len(episodes)} texts")
        counts = np.zeros_like(table)
        for total, choices in episodes:
            if total >= np.quantile(returns, 0.8):
                for column, word in choices:
                    counts[column, word] += 1
        elite = (counts + 0.1) / (counts + 0.1).sum(axis=1, keepdims=True)
        table = 0.5 * table + 0.5 * elite
    return history


if __name__ == "__main__":
    main()
