"""RLlib's PPO on the toy environment, through its `environment`, with an embedding of tokens.

pip install "ray[rllib]"
python examples/libraries/rllib_ppo.py
"""

import numpy as np
import torch
from common import mean_reward, show, token_network
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule


class Networks(TorchRLModule, ValueFunctionAPI):
    """Policy and value are networks of their own."""

    def setup(self) -> None:  # noqa: D102
        columns, words = self.observation_space.shape[0], int(self.action_space.n)
        self.policy, self.value = token_network(columns, words, words), token_network(columns, words, 1)

    def _forward(self, batch: dict, **_: object) -> dict:
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS])}

    def compute_values(self, batch: dict, embeddings: object = None) -> torch.Tensor:  # noqa: D102
        return self.value(batch[Columns.OBS]).squeeze(-1)


def main(iterations: int = 25, seed: int = 0) -> tuple[float, float]:
    config = (
        PPOConfig()
        .environment("tril_gym:tril/Toy-v0")  # the package's name registers it, in worker processes too
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, gym_env_vectorize_mode="vector_entry_point")
        .training(lr=3e-3, gamma=1.0, train_batch_size=1024, minibatch_size=256, num_epochs=4)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=Networks))
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()

    def act(observations: np.ndarray) -> np.ndarray:
        batch = {Columns.OBS: torch.from_numpy(observations)}
        logits = algorithm.get_module().forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
        return torch.distributions.Categorical(logits=logits).sample().numpy()

    before = mean_reward(act)
    for _ in range(iterations):
        algorithm.train()
    after = mean_reward(act)
    algorithm.stop()
    return show(before, after)


if __name__ == "__main__":
    main()
