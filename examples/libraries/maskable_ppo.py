"""MaskablePPO of sb3-contrib on the native vector environment; it never writes EOS below the minimum length.

pip install sb3-contrib
python examples/libraries/maskable_ppo.py
"""

import gymnasium as gym
from common import show
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3_ppo import TokenEmbedding

from tril_gym.bridges import StableBaselinesVecEnv


def main(steps: int = 40_000, episodes: int = 200, seed: int = 0) -> tuple[float, float]:
    keywords = {"autoreset_mode": "SameStep", "min_new_tokens": 4}
    envs = StableBaselinesVecEnv(gym.make_vec("tril/Toy-v0", num_envs=16, **keywords))
    network = {"features_extractor_class": TokenEmbedding, "net_arch": [64]}
    sizes = {"n_steps": 64, "batch_size": 256, "n_epochs": 4, "learning_rate": 3e-3, "gamma": 1.0}
    model = MaskablePPO("MlpPolicy", envs, policy_kwargs=network, **sizes, seed=seed, device="cpu")
    before, _ = evaluate_policy(model, envs, n_eval_episodes=episodes, deterministic=False, warn=False)
    model.learn(steps)
    after, _ = evaluate_policy(model, envs, n_eval_episodes=episodes, deterministic=False, warn=False)
    return show(before, after)


if __name__ == "__main__":
    main()
