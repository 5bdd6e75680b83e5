"""Tianshou's PPO on the toy environment, through its `DummyVectorEnv`, with an embedding of tokens.

pip install tianshou
python examples/libraries/tianshou_ppo.py
"""

import gymnasium as gym
import numpy as np
import torch
from common import mean_reward, show, token_network
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import ModuleWithVectorOutput
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

from tril_gym.wrappers import WithoutInfo

ROWS = 16


class Features(ModuleWithVectorOutput):
    """What actor and critic read of an observation."""

    def __init__(self) -> None:
        super().__init__(output_dim=64)
        self.layers = token_network(12, 16, self.output_dim)

    def forward(self, obs: np.ndarray, state: object = None, info: object = None) -> tuple:  # noqa: D102
        return self.layers(torch.as_tensor(obs)), state


def main(steps: int = 24_576, seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    # its buffers store numbers, so texts and lists in infos are left out
    envs = DummyVectorEnv([lambda: WithoutInfo(gym.make("tril/Toy-v0")) for _ in range(ROWS)])
    space, actions = envs.observation_space[0], envs.action_space[0]
    actor = DiscreteActor(preprocess_net=Features(), action_shape=actions.n, softmax_output=False)
    policy = DiscreteActorPolicy(actor=actor, action_space=actions, observation_space=space)
    critic, optimizer = DiscreteCritic(preprocess_net=Features()), AdamOptimizerFactory(lr=3e-3)
    algorithm = PPO(policy=policy, critic=critic, optim=optimizer, gamma=1.0, ent_coef=0.0)
    collector = Collector[CollectStats](algorithm, envs, VectorReplayBuffer(1024, ROWS))
    sizes = {"epoch_num_steps": steps, "collection_step_num_env_steps": 1024, "batch_size": 256, "max_epochs": 1}
    params = OnPolicyTrainerParams(
        training_collector=collector, update_step_num_repetitions=4, verbose=False, show_progress=False, **sizes
    )

    def act(observations: np.ndarray) -> np.ndarray:
        return policy(Batch(obs=observations, info=Batch())).act.numpy()

    before = mean_reward(act)
    algorithm.run_training(params)
    return show(before, mean_reward(act))


if __name__ == "__main__":
    main()
