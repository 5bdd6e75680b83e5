"""PPO in one file, as CleanRL writes it, on the native vector environment in Gymnasium's default autoreset mode.

python examples/libraries/cleanrl_style_ppo.py
"""

import gymnasium as gym
import numpy as np
import torch
from common import mean_reward, show, token_network
from torch.distributions import Categorical

import tril_gym  # noqa: F401  registers the environments

ROWS, STEPS = 16, 64


def main(updates: int = 25, seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    envs = gym.make_vec("tril/Toy-v0", num_envs=ROWS)
    actor, critic = token_network(12, 16, 16), token_network(12, 16, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)
    observations, has_ended = torch.from_numpy(envs.reset(seed=seed)[0]), torch.zeros(ROWS)

    def act(observations: np.ndarray) -> np.ndarray:
        return Categorical(logits=actor(torch.from_numpy(observations))).sample().numpy()

    before = mean_reward(act)
    for _ in range(updates):
        rows = []
        for _ in range(STEPS):
            with torch.no_grad():
                draws, values = Categorical(logits=actor(observations)), critic(observations)[:, 0]
                actions = draws.sample()
            following, rewards, terminated, truncated, _ = envs.step(actions.numpy())
            # A row that ended in the step before is reset by this one, which ignores its action: it teaches nothing.
            rows.append(
                (observations, actions, draws.log_prob(actions), values, torch.tensor(rewards).float(), 1 - has_ended)
            )
            observations, has_ended = torch.from_numpy(following), torch.tensor(terminated | truncated).float()
        x, a, logprobs, v, r, is_real = (torch.stack(column) for column in zip(*rows, strict=True))
        ends = torch.cat([1 - is_real[1:], has_ended[None]])
        returns = torch.cat([v, critic(observations).detach()[None, :, 0]])
        for t in reversed(range(STEPS)):  # with λ = 1 the advantages are returns less values
            returns[t] = r[t] + (1 - ends[t]) * returns[t + 1]
        data = [c.flatten(0, 1)[is_real.flatten() == 1] for c in (x, a, logprobs, returns[:-1] - v, returns[:-1])]
        for _ in range(4):
            for part in torch.randperm(len(data[0])).split(256):
                x_, a_, old, advantages, targets = (column[part] for column in data)
                ratio = (Categorical(logits=actor(x_)).log_prob(a_) - old).exp()
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                gain = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
                loss = -gain + 0.5 * (critic(x_)[:, 0] - targets).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return show(before, mean_reward(act))


if __name__ == "__main__":
    main()
