"""PPO in one file, as CleanRL writes it, on the native vector environment in Gymnasium's default autoreset mode.

python examples/libraries/cleanrl_style_ppo.py
"""

import gymnasium as gym
import torch
from torch import nn
from torch.distributions import Categorical

import tril_gym  # noqa: F401  registers the environments

ROWS, STEPS, EPOCHS, SIZE = 16, 64, 4, 256


def layers(columns: int, words: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(words + 1, 8), nn.Flatten(), nn.Linear(8 * columns, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


def main(updates: int = 40, seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    envs = gym.make_vec("tril/Toy-v0", num_envs=ROWS)
    columns, words = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    actor, critic = layers(columns, words, words), layers(columns, words, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)
    observations, has_ended, history = torch.from_numpy(envs.reset(seed=seed)[0]) + 1, torch.zeros(ROWS), []
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
            observations, has_ended = torch.from_numpy(following) + 1, torch.tensor(terminated | truncated).float()
        x, a, logprobs, v, r, is_real = (torch.stack(column) for column in zip(*rows, strict=True))
        ends = torch.cat([1 - is_real[1:], has_ended[None]])
        with torch.no_grad():
            returns = torch.cat([v, critic(observations)[None, :, 0]])
        for t in reversed(range(STEPS)):  # with λ = 1 the advantages are returns less values
            returns[t] = r[t] + (1 - ends[t]) * returns[t + 1]
        history.append(float(r[ends * is_real == 1].mean()))
        data = [c.flatten(0, 1)[is_real.flatten() == 1] for c in (x, a, logprobs, returns[:-1] - v, returns[:-1])]
        for _ in range(EPOCHS):
            for part in torch.randperm(len(data[0])).split(SIZE):
                x_, a_, old, advantages, targets = (column[part] for column in data)
                ratio = (Categorical(logits=actor(x_)).log_prob(a_) - old).exp()
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                gain = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
                loss = -gain + 0.5 * (critic(x_)[:, 0] - targets).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    print(f"mean reward of an update's texts: {history[0]:.3f} at first, {history[-1]:.3f} after {updates} updates")
    return history[0], history[-1]


if __name__ == "__main__":
    main()
