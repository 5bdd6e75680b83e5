"""What objects say of themselves in a notebook or a debugger."""

import gymnasium as gym
import torch
from doubles import language_model, toy_envs, toy_policy

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import BC, PPO, BCConfig, Guide, History, PPOConfig, PPOPlusPlus, PPOPlusPlusConfig, Report
from tril_gym.functional.sampling import Decoding
from tril_gym.wrappers import TextReward


def count(policy) -> int:
    return sum(parameter.numel() for parameter in policy.model.parameters())


class TestEnvironments:
    SIZES = "prompts of 4 tokens, 8 new tokens, 16 ids, 64 examples"

    def test_single(self):
        env = gym.make("tril/Toy-v0")
        assert repr(env.unwrapped) == f"<TextEnv tril/Toy-v0: {self.SIZES}>"
        assert str(env) == f"<OrderEnforcing<PassiveEnvChecker<TextEnv tril/Toy-v0: {self.SIZES}>>>"

    def test_vector(self):
        envs = gym.make_vec("tril/Toy-v0", num_envs=3)
        assert repr(envs) == f"<TextVectorEnv tril/Toy-v0: 3 texts, {self.SIZES}, autoreset NextStep>"

    def test_reward_terms(self):
        single = gym.make("tril/CommonGen-v0", reward={"rouge_l": 1.0, "concept_coverage": 0.5})
        assert "<TextReward rouge_l + 0.5 concept_coverage: <TextEnv tril/CommonGen-v0: " in str(single)
        envs = TextReward(gym.make_vec("tril/Toy-v0", num_envs=3), "rouge_l", weight=2.0)
        assert repr(envs).startswith("<VectorTextReward 2 rouge_l: <TextVectorEnv tril/Toy-v0: 3 texts, ")


class TestActors:
    def test_policy(self):
        policy = toy_policy()
        assert repr(policy) == f"LMPolicy(GPT2LMHeadModel, {count(policy):,} parameters, float32 on cpu, all trained)"
        decoded = policy.with_decoding(Decoding(temperature=0.7, top_p=0.9))
        assert "float32 on cpu, temperature 0.7, top_p 0.9, all trained" in repr(decoded)
        assert "cpu, greedy, all" in repr(policy.with_decoding(Decoding(greedy=True)))

    def test_trained_share(self):
        policy = toy_policy(dtype=torch.bfloat16).with_lora(2)
        share = sum(parameter.numel() for parameter in policy.parameters()) / count(policy)
        assert 0 < share < 0.2
        assert repr(policy) == (
            f"LMPolicy(GPT2LMHeadModel with LoRA, {count(policy):,} parameters, bfloat16 on cpu, {share:.2%} trained)"
        )

    def test_guides(self):
        policy = toy_policy()
        expected = f"Guide(GPT2LMHeadModel, {count(policy):,} parameters, float32 on cpu, temperature 1, top_p 0.92)"
        assert repr(Guide(policy, top_p=0.92)) == expected
        assert repr(Guide.references()) == "Guide.references()"
        assert repr(Guide.from_callable(language_model)) == "Guide.from_callable(doubles.language_model)"


class TestAgents:
    def test_alone(self):
        agent = PPO(toy_policy(), toy_envs(), PPOConfig(epochs=1), seed=3)
        agent.learn(1)
        assert repr(agent).splitlines() == [
            "PPO after 1 iterations of 12 texts, seed 3",
            f"  policy  {agent.policy!r}",
            f"  envs    {agent.envs!r}",
            "  plan    the policy writes whole texts",
            "  config  epochs 1",
        ]

    def test_guided(self):
        agent = PPOPlusPlus(toy_policy(), Guide(toy_policy()), toy_envs(), PPOPlusPlusConfig(rollin_prob=0.25))
        assert repr(agent).splitlines()[2:6:2] == [
            f"  guide   {agent.guide!r}",
            "  plan    the guide begins a text with probability 0.25, the policy finishes it; the policy learns on the"
            " rollout",
        ]

    def test_cloning(self):
        envs = gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode="Disabled")
        agent = BC(tiny(envs), envs, BCConfig())
        assert "  plan    Guide.references() writes whole texts" in repr(agent)
        assert repr(agent).endswith("  config  defaults")


def tiny(envs):
    from tril_gym.agents import tiny_policy

    return tiny_policy(envs, samples=0)


class TestResults:
    def report(self) -> Report:
        reports = []
        agent = PPO(toy_policy(), toy_envs(), PPOConfig(epochs=1))
        agent.learn(1, callbacks=[reports.append])
        return reports[0]

    def test_trajectories(self):
        texts = self.report().trajectories
        rewards = texts.rewards.sum(1)
        spread = f"{rewards.mean():.3f} ± {rewards.std(correction=0):.3f}"
        assert repr(texts) == f"Trajectories(12 texts, reward {spread}, {texts.lengths.double().mean():.1f} tokens)"

    def test_report(self):
        report = self.report()
        shown = (
            f"Report(iteration 1  reward {report.metrics['reward/mean']:.3f}  ± {report.metrics['reward/std']:.3f}  "
        )
        assert repr(report).startswith(shown)
        assert "\n" not in repr(report)

    def test_history(self):
        history = History({"iteration": number, "reward/mean": number / 10} for number in (1, 2, 3))
        assert repr(history) == "History of 3 iterations\n   1  reward 0.100\n   …\n   3  reward 0.300"
        history.stopped = "interrupted"
        assert repr(history).splitlines()[-1] == "stopped: interrupted"
        assert repr(History()) == "History of 0 iterations"
