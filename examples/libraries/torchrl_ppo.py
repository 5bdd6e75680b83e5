"""TorchRL's PPO on the toy environment, through its `GymWrapper`.

pip install torchrl
python examples/libraries/torchrl_ppo.py
"""

import gymnasium as gym
import numpy as np
import torch
from common import mean_reward, show, token_network
from tensordict import TensorDict
from tensordict.nn import InteractionType, ProbabilisticTensorDictModule, TensorDictModule
from tensordict.nn import ProbabilisticTensorDictSequential as Sequential
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, SerialEnv
from torchrl.modules import ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from tril_gym.wrappers import WithoutInfo

ROWS = 16


def main(steps: int = 24_576, seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    envs = SerialEnv(ROWS, lambda: GymWrapper(WithoutInfo(gym.make("tril/Toy-v0")), categorical_action_encoding=True))
    envs.set_seed(seed)
    logits = TensorDictModule(token_network(12, 16, 16), in_keys=["observation"], out_keys=["logits"])
    sampled = {"distribution_class": Categorical, "default_interaction_type": InteractionType.RANDOM}
    draw = ProbabilisticTensorDictModule(["logits"], ["action"], return_log_prob=True, **sampled)
    actor = Sequential(logits, draw)
    critic = ValueOperator(token_network(12, 16, 1), in_keys=["observation"])
    loss, advantage = ClipPPOLoss(actor, critic, entropy_coeff=0.0), GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)

    def act(observations: np.ndarray) -> np.ndarray:
        return actor(TensorDict({"observation": torch.from_numpy(observations)}, [len(observations)]))["action"].numpy()

    before = mean_reward(act)
    for data in Collector(envs, actor, frames_per_batch=1024, total_frames=steps):
        for _ in range(4):
            advantage(data)
            for rows in torch.randperm(data.numel()).split(256):
                values = loss(data.reshape(-1)[rows])
                optimizer.zero_grad()
                sum(value for name, value in values.items() if name.startswith("loss_")).backward()
                optimizer.step()
    return show(before, mean_reward(act))


if __name__ == "__main__":
    main()
