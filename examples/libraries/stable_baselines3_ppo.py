"""Stable-Baselines3's PPO on the toy environment, through its own `make_vec_env`, with an embedding of tokens.

pip install stable-baselines3
python examples/libraries/stable_baselines3_ppo.py
"""

import torch
from common import show
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor


class TokenEmbedding(BaseFeaturesExtractor):
    """Embed each column's token; -1, where there is no token, has an embedding, too."""

    def __init__(self, space: Box, size: int = 8) -> None:
        super().__init__(space, space.shape[0] * size)
        self.embedding = torch.nn.Embedding(int(space.high.max()) + 2, size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.embedding(tokens.long() + 1).flatten(start_dim=1)


def main(steps: int = 40_000, episodes: int = 200, seed: int = 0) -> tuple[float, float]:
    envs = make_vec_env("tril/Toy-v0", n_envs=16, seed=seed)
    network = {"features_extractor_class": TokenEmbedding, "net_arch": [64]}
    sizes = {"n_steps": 64, "batch_size": 256, "n_epochs": 4, "learning_rate": 3e-3, "gamma": 1.0}
    model = PPO("MlpPolicy", envs, policy_kwargs=network, **sizes, seed=seed, device="cpu")
    before, _ = evaluate_policy(model, envs, n_eval_episodes=episodes, deterministic=False)
    model.learn(steps)
    after, _ = evaluate_policy(model, envs, n_eval_episodes=episodes, deterministic=False)
    return show(before, after)


if __name__ == "__main__":
    main()
