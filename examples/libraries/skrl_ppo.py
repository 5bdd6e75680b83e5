"""PPO of skrl on the native vector environment, through its `wrap_env`, with an embedding of tokens.

pip install "skrl[torch]"
python examples/libraries/skrl_ppo.py
"""

import gymnasium as gym
import numpy as np
import torch
from common import mean_reward, show, token_network
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed


class Policy(CategoricalMixin, Model):  # noqa: D101
    def __init__(self, **spaces: object) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.layers = token_network(self.num_observations, self.num_actions, self.num_actions)

    def compute(self, inputs: dict, role: str = "") -> tuple:  # noqa: D102
        return self.layers(inputs["observations"]), {}


class Value(DeterministicMixin, Model):  # noqa: D101
    def __init__(self, **spaces: object) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.layers = token_network(self.num_observations, self.num_actions, 1)

    compute = Policy.compute


def main(steps: int = 1_600, seed: int = 0) -> tuple[float, float]:
    set_seed(seed)
    # in other modes it would also learn on steps that only reset a row, or on rows that wait for a reset
    envs = wrap_env(gym.make_vec("tril/Toy-v0", num_envs=16, autoreset_mode="SameStep"))
    spaces = {"observation_space": envs.observation_space, "action_space": envs.action_space, "device": "cpu"}
    models = {"policy": Policy(**spaces), "value": Value(**spaces)}
    config = PPO_CFG(rollouts=64, learning_epochs=4, mini_batches=4, learning_rate=3e-3, discount_factor=1.0)
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    memory = RandomMemory(memory_size=64, num_envs=envs.num_envs, device="cpu")
    agent = PPO(models=models, memory=memory, cfg=config, **spaces)
    settings = {"timesteps": steps, "headless": True, "disable_progressbar": True}

    def act(observations: np.ndarray) -> np.ndarray:
        return models["policy"].act({"observations": torch.from_numpy(observations)})[0].flatten().numpy()

    before = mean_reward(act)
    SequentialTrainer(env=envs, agents=agent, cfg=settings).train()
    return show(before, mean_reward(act))


if __name__ == "__main__":
    main()
