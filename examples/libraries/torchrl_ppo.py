"""TorchRL's PPO on the toy environment, through its `GymEnv`.

pip install torchrl
python examples/libraries/torchrl_ppo.py
"""

import gymnasium as gym
import torch
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, SerialEnv
from torchrl.modules import ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import tril_gym  # noqa: F401  registers the environments
from tril_gym.wrappers import WithoutInfo

ROWS = 16


class Shift(torch.nn.Module):
    """Add 1: where there is no token, observations have -1."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return tokens + 1


def network(outputs: int, columns: int = 12, words: int = 16) -> torch.nn.Module:
    embedding = [Shift(), torch.nn.Embedding(words + 1, 8), torch.nn.Flatten(-2)]
    return torch.nn.Sequential(
        *embedding, torch.nn.Linear(8 * columns, 64), torch.nn.Tanh(), torch.nn.Linear(64, outputs)
    )


def main(steps: int = 40_960, seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    envs = SerialEnv(ROWS, lambda: GymWrapper(WithoutInfo(gym.make("tril/Toy-v0")), categorical_action_encoding=True))
    envs.set_seed(seed)
    logits = TensorDictModule(network(16), in_keys=["observation"], out_keys=["logits"])
    draw = ProbabilisticTensorDictModule(
        ["logits"], ["action"], distribution_class=torch.distributions.Categorical, return_log_prob=True
    )
    actor, critic = ProbabilisticTensorDictSequential(logits, draw), ValueOperator(network(1), in_keys=["observation"])
    loss, advantage = ClipPPOLoss(actor, critic, entropy_coeff=0.0), GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    rewards = []
    for data in Collector(envs, actor, frames_per_batch=1024, total_frames=steps):
        ended = data["next", "done"]
        rewards.append(float(data["next", "reward"][ended].mean()))
        for _ in range(4):
            advantage(data)
            for rows in torch.randperm(data.numel()).split(256):
                values = loss(data.reshape(-1)[rows])
                optimizer.zero_grad()
                sum(value for name, value in values.items() if name.startswith("loss_")).backward()
                optimizer.step()
    print(f"mean reward of a batch's texts: {rewards[0]:.3f} at first, {rewards[-1]:.3f} after {steps} steps")
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    main()
