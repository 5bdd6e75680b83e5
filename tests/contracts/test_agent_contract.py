"""Contract of every agent."""

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from doubles import (
    G,
    OneToken,
    foreign_envs,
    generator,
    history,
    language_model,
    learned,
    policy_of,
    toy_envs,
    toy_policy,
)
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    BC,
    D2LOLS,
    GAIL,
    LOLS,
    PPO,
    Agent,
    AggreVaTeD,
    AggreVaTeDConfig,
    BCConfig,
    D2LOLSConfig,
    GAILConfig,
    Guide,
    LMPolicy,
    LOLSConfig,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    TextLayout,
    Trajectories,
    tiny_policy,
)
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.generation import write_completions
from tril_gym.functional.sampling import Decoding
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer

V, P, T = 16, 4, 8  # of the toy environment


@dataclass(frozen=True)
class Kind:
    """An algorithm with settings for fast learning."""

    agent: type[Agent]
    config: type
    numbers: dict[str, Any]

    def __call__(self, policy: LMPolicy, envs: VectorEnv, *, seed: int = 0, guide: Any = None, **numbers: Any) -> Agent:
        config = self.config(**self.numbers | numbers)
        if self.agent.takes_guide:
            return self.agent(policy, guide or toy_guide(), envs, config, seed=seed)
        return self.agent(policy, envs, config, seed=seed)


# Two minibatches per epoch, the last of which is not full, and every feature with a state.
RL = {"learning_rate": 1e-3, "episodes_per_iteration": 12, "minibatch_size": 8, "epochs": 1}
RL |= {"kl_coef": 0.1, "kl_controller": "adaptive", "kl_target": 1.0, "kl_horizon": 20.0}
KINDS = {
    "bc": Kind(BC, BCConfig, {"learning_rate": 1e-3, "episodes_per_iteration": 12, "minibatch_size": 8, "epochs": 1}),
    "ppo": Kind(PPO, PPOConfig, RL),
    "ppo-pp": Kind(PPOPlusPlus, PPOPlusPlusConfig, RL | {"rollin_prob": 0.6}),
    "aggrevated": Kind(AggreVaTeD, AggreVaTeDConfig, RL | {"allow_full_rollins": True}),
    "lols": Kind(LOLS, LOLSConfig, RL | {"ppo_pp_prob": 0.5}),
    # The algorithm changes where runs are saved.
    "d2lols": Kind(D2LOLS, D2LOLSConfig, RL | {"aggrevated_iterations": 2}),
    "gail": Kind(GAIL, GAILConfig, RL),
    "shared": Kind(D2LOLS, D2LOLSConfig, RL | {"aggrevated_iterations": 2, "critic": "shared"}),
}
# Settings with a state of their own; warm-ups end after the save.
STABILITY: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {"critic_warmup": 3, "scale_rewards": True}),
    "d2lols": ("d2lols", {"critic_warmup": 1, "scale_rewards": True, "final_rollin_prob": 0.0, "rollin_iterations": 4}),
    "ppo-pp": ("ppo-pp", {"baseline": "rollin"}),
    "gail": (
        "gail",
        {
            **{"discriminator_warmup": 3, "discriminator_every": 2, "discriminator_replay": 2},
            **{"gradient_penalty": 0.1, "reward_clip": 1.0, "normalize_reward": True},
        },
    ),
}
# Families differ in the networks, of which an algorithm knows nothing: PPO++ has all of them but a discriminator.
KINDS_AND_FAMILIES = [
    pytest.param(name, family, marks=[] if family == "gpt2" or name == "ppo-pp" else pytest.mark.slow)
    for name in KINDS
    for family in ("gpt2", "llama", "qwen2", "t5", "bart")
]
# Others keep the same states.
KINDS_OF_STATES = [
    pytest.param(name, marks=[] if name in ("bc", "ppo-pp", "gail") else pytest.mark.slow) for name in KINDS
]
RL_CONFIGS = [kind.config for kind in KINDS.values() if kind.agent is not BC]
GUIDED_CONFIGS = [kind.config for kind in KINDS.values() if kind.agent.takes_guide]


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def envs() -> VectorEnv:
    return toy_envs()


def toy_guide(seed: int = 1) -> Guide:
    return Guide(toy_policy(seed=seed), top_p=0.9)


def weights(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def equal(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class TestTrainedWeights:
    def test_only_the_policy_changes(self, kind, envs):
        policy = toy_policy()
        agent = kind(policy, envs)
        others = [agent.learner.ref_policy] if agent.learner.ref_policy else []
        others += [agent.guide.policy] if agent.guide else []
        assert len(others) == {"bc": 0, "ppo": 1, "gail": 1}.get(agent.name, 2)
        before, untouched = weights(policy.model), [weights(other.model) for other in others]
        agent.learn(2)
        assert agent.iteration == 2
        assert agent.policy.model is policy.model
        assert not equal(weights(policy.model), before)
        assert [equal(weights(other.model), old) for other, old in zip(others, untouched, strict=True)] == [True] * len(
            others
        )

    @pytest.mark.parametrize(("name", "family"), KINDS_AND_FAMILIES)
    def test_every_weight_of_the_policy_changes(self, name, envs, family):
        policy = toy_policy(family)
        before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
        KINDS[name](policy, envs).learn(1)
        still = [name for name, parameter in policy.model.named_parameters() if torch.equal(parameter, before[name])]
        # Biases of keys add the same to all attention scores of a query, so their gradient is 0 up to rounding.
        assert [name for name in still if "k_proj.bias" not in name] == []

    @pytest.mark.parametrize("as_guide", [Guide, lambda policy: policy], ids=["guide", "policy"])
    def test_guide_on_the_policys_model_is_a_frozen_copy(self, envs, as_guide):
        policy = toy_policy()
        agent = KINDS["ppo-pp"](policy, envs, guide=as_guide(policy))
        assert agent.guide.policy.model is not policy.model
        before = weights(policy.model)
        agent.learn(1)
        assert equal(weights(agent.guide.policy.model), before)
        assert not equal(weights(policy.model), before)

    def test_policy_as_guide_keeps_its_decoding(self, envs):
        guide = toy_policy(seed=1).with_decoding(Decoding(temperature=0.5, top_k=3))
        agent = KINDS["ppo-pp"](toy_policy(), envs, guide=guide)
        assert agent.guide.settings() == {
            "temperature": 0.5,
            "top_k": 3,
            "top_p": None,
            "greedy": False,
            "min_new_tokens": None,
        }

    def test_config_of_another_algorithm_is_refused(self, envs):
        with pytest.raises(TypeError, match="ppo takes a PPOConfig, got BCConfig"):
            PPO(toy_policy(), envs, BCConfig())


class TestRandomness:
    def test_weights_depend_on_the_seed(self, kind):
        agents = [kind(toy_policy(), toy_envs(), seed=seed) for seed in (3, 3, 4)]
        reports = [history(agent, 2) for agent in agents]
        first, again, other = (weights(agent.policy.model) for agent in agents)
        assert equal(first, again)
        assert reports[0] == reports[1]
        assert not equal(first, other)

    def test_weights_do_not_depend_on_num_envs(self, kind):
        wide, narrow = (kind(toy_policy(dtype=torch.float64), toy_envs(rows)) for rows in (12, 5))
        assert learned(wide, 1).policy is wide.policy
        narrow.learn(1)
        for one, other in zip(weights(wide.policy.model), weights(narrow.policy.model), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

    def test_global_generators_do_not_change(self, kind, tmp_path):
        agent, untrained = kind(toy_policy(), toy_envs()), toy_policy()

        def act() -> None:
            agent.learn(1)
            agent.save(tmp_path)
            type(agent).load(tmp_path, envs=toy_envs()).learn(1)
            agent.predict(toy_envs().reset()[0])
            collect(toy_envs(), agent.plan(0), episodes=5, generator=generator())
            tiny_policy(toy_envs(), samples=32, width=16, heads=2)
            tiny_policy(toy_envs(), kind="seq2seq", samples=0)

        import rich.progress  # noqa: F401  draws a number when it is imported first

        before = global_states()
        act()
        assert global_states() == before
        torch.rand(1)
        assert global_states() != before  # control
        # The weights do not depend on them.
        again = learned(kind(untrained, toy_envs()), 1)
        first = type(agent).load(tmp_path, envs=toy_envs())
        assert equal(weights(again.policy.model), weights(first.policy.model))


def global_states() -> tuple[list[int], list[int], object]:
    """Return the states of the global generators of torch, numpy and Python."""
    numpy_state = np.random.get_state()[1]  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy_state.tolist(), random.getstate()


class TestCheckpoints:
    # What is saved of an encoder-decoder depends on which networks an algorithm has, and the other algorithms have the
    # same: policy, reference, guide and separate critic; a critic on the policy's body; a discriminator.
    @pytest.mark.parametrize(
        ("name", "family"), [*((name, "gpt2") for name in KINDS), ("ppo-pp", "t5"), ("shared", "t5"), ("gail", "t5")]
    )
    def test_loaded_agent_continues_exactly(self, name, family, tmp_path):
        kind = KINDS[name]
        straight = kind(toy_policy(family), toy_envs())
        expected = history(straight, 3)
        stopped = kind(toy_policy(family), toy_envs())
        reports = history(stopped, 2)
        stopped.save(tmp_path / "run")
        stopped.learn(1)  # training after a save does not change the checkpoint
        loaded = type(stopped).load(tmp_path / "run", envs=toy_envs())
        assert (loaded.iteration, loaded.config) == (2, stopped.config)
        reports += history(loaded, 1)
        assert reports == expected
        assert equal(weights(loaded.policy.model), weights(straight.policy.model))
        if straight.learner.ref_policy:
            assert equal(weights(loaded.learner.ref_policy.model), weights(straight.learner.ref_policy.model))

    @pytest.mark.parametrize("name", STABILITY)
    def test_loaded_agent_with_stateful_settings_continues_exactly(self, name, tmp_path):
        kind, numbers = STABILITY[name]
        straight, stopped = (KINDS[kind](toy_policy(), toy_envs(), **numbers) for _ in range(2))
        expected = history(straight, 4)
        reports = history(stopped, 2)
        stopped.save(tmp_path / "run")
        reports += history(type(stopped).load(tmp_path / "run", envs=toy_envs()), 2)
        assert reports == expected

    @pytest.mark.parametrize("name", KINDS_OF_STATES)
    def test_missing_state_is_detected(self, name, tmp_path):
        agent = learned(KINDS[name](toy_policy(), toy_envs()), 2)
        agent.save(tmp_path)
        expected = weights(learned(agent, 1).policy.model)
        for forgotten in ("optimizer", "generator"):
            loaded = type(agent).load(tmp_path, envs=toy_envs())
            if forgotten == "optimizer":
                loaded.learner.optimizer.state.clear()
            else:
                loaded.generator.manual_seed(0)
            assert not equal(weights(learned(loaded, 1).policy.model), expected), forgotten

    def test_policy_loads_in_transformers(self, kind, tmp_path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        agent = learned(kind(toy_policy(), toy_envs()), 1)
        agent.save(tmp_path)
        assert equal(weights(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")), weights(agent.policy.model))
        assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token_id == 1

    @pytest.mark.filterwarnings("ignore:all weights of GPT2LMHeadModel are trained in bfloat16")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_precision_is_kept(self, dtype, tmp_path):
        agent = learned(KINDS["ppo"](toy_policy(dtype=dtype), toy_envs()), 1)
        agent.save(tmp_path)
        loaded = PPO.load(tmp_path, envs=toy_envs())
        assert next(loaded.policy.model.parameters()).dtype == dtype
        assert equal(weights(learned(loaded, 1).policy.model), weights(learned(agent, 1).policy.model))

    def test_policy_without_tokenizer(self, tmp_path):
        envs = foreign_envs(4)
        agent = learned(PPO(policy_of("gpt2"), envs, PPOConfig(**RL)), 1)
        agent.save(tmp_path)
        loaded = PPO.load(tmp_path, envs=envs)
        assert equal(weights(learned(loaded, 1).policy.model), weights(learned(agent, 1).policy.model))

    def test_guide_is_loaded_with_its_decoding(self, tmp_path):
        guide = Guide(toy_policy(seed=1), temperature=0.7, top_k=9, top_p=0.8, min_new_tokens=2)
        KINDS["ppo-pp"](toy_policy(), toy_envs(), guide=guide).save(tmp_path)
        loaded = PPOPlusPlus.load(tmp_path, envs=toy_envs())
        assert loaded.guide.settings() == guide.settings()
        assert equal(weights(loaded.guide.policy.model), weights(guide.policy.model))

    def test_references_as_guide_are_loaded(self, tmp_path):
        agent = learned(KINDS["ppo-pp"](toy_policy(), toy_envs(), guide=Guide.references()), 1)
        agent.save(tmp_path)
        loaded = PPOPlusPlus.load(tmp_path, envs=toy_envs())
        assert history(loaded, 1) == history(agent, 1)

    def test_other_guides_are_passed_to_load(self, tmp_path):
        guide = OneToken(G)
        KINDS["ppo-pp"](toy_policy(), toy_envs(), guide=guide).save(tmp_path)
        with pytest.raises(ValueError, match=r"could not be saved; pass it: load\(..., guide=...\)"):
            PPOPlusPlus.load(tmp_path, envs=toy_envs())
        assert PPOPlusPlus.load(tmp_path, envs=toy_envs(), guide=guide).guide is guide

    def test_folder_without_agent(self, kind, tmp_path):
        with pytest.raises(ValueError, match="holds no saved agent"):
            kind.agent.load(tmp_path, envs=toy_envs())

    def test_agent_of_another_algorithm(self, tmp_path):
        KINDS["bc"](toy_policy(), toy_envs()).save(tmp_path)
        with pytest.raises(ValueError, match="holds an agent of bc, not of ppo; use the class of that algorithm"):
            PPO.load(tmp_path, envs=toy_envs())
        saved = json.loads((tmp_path / "agent.json").read_text())["config"]
        assert BCConfig(**saved) == BCConfig(**KINDS["bc"].numbers)

    def test_unknown_changes(self, tmp_path):
        KINDS["bc"](toy_policy(), toy_envs()).save(tmp_path)
        message = r"'learning_rat' \(did you mean 'learning_rate'\?\), which is no hyperparameter of bc; use fields of"
        with pytest.raises(ValueError, match=message):
            BC.load(tmp_path, envs=toy_envs(), changes={"learning_rat": 1.0})

    def test_changes_are_those_that_training_uses(self, tmp_path):
        KINDS["gail"](toy_policy(), toy_envs()).save(tmp_path)
        changes = {"kl_coef": 5.0, "weight_decay": 0.5, "adam_betas": (0.5, 0.9), "discriminator_learning_rate": 0.1}
        changes |= {"learning_rate": 1e-4, "critic_learning_rate": 2e-4}
        agent = GAIL.load(tmp_path, envs=toy_envs(), changes=changes)
        metrics = learned(agent, 1).history[-1]
        learner = agent.learner.actor_critic
        optimizers = [learner.optimizer, learner.critic("policy")[1], agent.learner.optimizer]
        assert metrics["kl_coef"] == 5.0
        for optimizer, rate in zip(optimizers, (1e-4, 2e-4, 0.1), strict=True):
            (group,) = optimizer.param_groups
            assert (group["lr"], group["weight_decay"], group["betas"]) == (rate, 0.5, (0.5, 0.9))


MORE = {"normalize_advantages": True, "value_clip_range": 0.2, "ent_coef": 0.01}


class TestPadding:
    """Values of padding, and of tokens that the policy did not write, do not change an update."""

    @staticmethod
    def filled(trajectories: Trajectories) -> Trajectories:
        def fill(values: Tensor, is_real: Tensor, garbage: Tensor) -> Tensor:
            return torch.where(is_real, values, garbage)

        def ids(like: Tensor) -> Tensor:
            return torch.randint(V, like.shape, generator=generator(9))

        nonsense = torch.full_like(trajectories.rewards, float("nan"))
        nonsense[::2] = 1e30
        return replace(
            trajectories,
            prompts=fill(trajectories.prompts, trajectories.is_prompt, ids(trajectories.prompts)),
            tokens=fill(trajectories.tokens, trajectories.is_token, ids(trajectories.tokens)),
            rewards=fill(trajectories.rewards, trajectories.is_token, nonsense),
            old_logprobs=fill(trajectories.old_logprobs, trajectories.wrote, nonsense),
        )

    # How a family reads padding does not depend on the algorithm, only on the networks that read it: those of "shared"
    # and of "gail", and of PPO++ the same as of the others.
    @pytest.mark.parametrize(
        ("name", "family", "numbers"),
        [
            *((name, "gpt2", {}) for name in KINDS),
            *((name, "gpt2", MORE) for name in ("bc", "ppo-pp", "shared", "gail")),
            *((name, family, {}) for family in ("t5", "bart") for name in ("bc", "ppo-pp", "shared", "gail")),
        ],
        ids=lambda it: it if isinstance(it, str) else "more" if it else "plain",
    )
    def test_update_is_the_same(self, name, family, numbers):
        kind = KINDS[name]
        if numbers and kind.agent is BC:
            numbers = {"max_grad_norm": 0.1}
        # With the rule "count", the references that BC learns are all of full length.
        rule = "stop" if kind.agent is BC else "count"
        guide = OneToken(G, lengths=(5, 99)) if kind.agent.guide_finishes else None  # every second text ends early
        one, two, control = (kind(toy_policy(family), toy_envs(rule=rule), guide=guide, **numbers) for _ in range(3))
        plan = one.plan(0)
        trajectories = collect(one.envs, plan, episodes=12, generator=generator(1))
        assert not trajectories.is_token.all()
        assert not trajectories.is_prompt.all()

        def updated(agent: Agent, trajectories: Trajectories) -> tuple[dict[str, float], list[Tensor]]:
            metrics = agent.learner.update(trajectories, plan, generator=generator(2), timer=Timer())
            return metrics, weights(agent.policy.model)

        metrics, expected = updated(one, trajectories)
        filled_metrics, filled = updated(two, self.filled(trajectories))
        assert equal(filled, expected)
        assert filled_metrics == metrics
        assert all(np.isfinite(value) for value in metrics.values())
        # The control: changing a token that is learned from changes the update.
        is_paid = trajectories.rewards.nansum(1, keepdim=True) > 0
        row, column = (trajectories.learn & is_paid).nonzero()[0].tolist()
        trajectories.tokens[row, column] = (trajectories.tokens[row, column] + 1) % V
        assert not equal(updated(control, trajectories)[1], expected)


class TestRefused:
    def test_policy_with_another_vocabulary(self, kind, envs):
        policy = LMPolicy(language_model("gpt2", vocab_size=20), None)
        with pytest.raises(ValueError, match=r"the model has 20 logits, the environment 16 actions.*vocab_size=20"):
            kind(policy, envs)

    @pytest.mark.parametrize(
        ("name", "family"), [pair for pair in KINDS_AND_FAMILIES if pair.values[1] in ("gpt2", "llama", "qwen2")]
    )
    def test_policy_with_too_few_positions(self, name, envs, family):
        short, enough = (LMPolicy(language_model(family, vocab_size=V, positions=n), None) for n in (11, 12))
        with pytest.raises(ValueError, match=r"11 positions, .* texts need 4 \+ 8; .*--env-arg max_new_tokens=7"):
            KINDS[name](short, envs)
        KINDS[name](enough, envs).learn(1)

    def test_decoder_with_too_few_positions(self, kind, envs):
        # Start token and forced BOS stand before the eight tokens, all of which a critic reads.
        short, enough = (LMPolicy(language_model("bart", vocab_size=V, positions=n), None) for n in (9, 10))
        with pytest.raises(ValueError, match=r"decoder has 9 positions, .*completions need 10"):
            kind(short, envs)
        kind(enough, envs).learn(1)

    def test_relative_positions_have_no_limit(self, kind):
        envs = toy_envs(2, max_new_tokens=600)
        policy = LMPolicy(language_model("t5", vocab_size=V), None)  # T5's configuration has no number of positions
        kind(policy, envs, guide=OneToken(G))

    def test_guide_with_another_vocabulary(self, envs):
        guide = Guide(LMPolicy(language_model("gpt2", vocab_size=20), None))
        with pytest.raises(ValueError, match=r"the guide does not fit .* has 20 logits, the environment 16"):
            KINDS["ppo-pp"](toy_policy(), envs, guide=guide)

    def test_references_cannot_continue_a_text(self, envs):
        plan = Plan(rollout=Guide.references(), rollin=OneToken(G), rollin_prob=1.0, learn_on="rollin")
        with pytest.raises(ValueError, match="references can only begin a text, not continue one"):
            collect(envs, plan, episodes=2, generator=generator())

    def test_references_need_a_tokenizer_and_references(self):
        with pytest.raises(ValueError, match="examples have no references to write"):
            collect(foreign_envs(2), Plan(rollout=Guide.references()), episodes=2, generator=generator())

    def test_rollin_prob_of_1_warns(self):
        with pytest.warns(UserWarning, match=r"rollin_prob 1\.0 the policy never learns its first token"):
            PPOPlusPlusConfig(rollin_prob=1.0)

    @pytest.mark.parametrize("cut", [{"top_k": 50}, {"top_p": 0.9}])
    def test_truncated_distribution_warns(self, cut):
        with pytest.warns(UserWarning, match="truncate the distribution that the policy samples"):
            PPOConfig(**cut)
        PPOConfig(top_p=1.0)  # truncates nothing

    BAD = (
        ({"learning_rate": 0.0}, "learning_rate must be in (0, 1], got 0.0; the usual value is 1e-05"),
        ({"epochs": 0}, "epochs must be in [1, 100000], got 0"),
        ({"minibatch_size": -1}, "minibatch_size must be at least 1, got -1"),
        ({"episodes_per_iteration": 0}, "episodes_per_iteration must be at least 1, got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0, got 0.0; the usual value is 1.0"),
    )
    BAD_RL = (
        ({"critic_learning_rate": 0.0}, "critic_learning_rate must be in (0, 1], got 0.0"),
        ({"gamma": 1.5}, "gamma must be in [0, 1], got 1.5; the usual value is 1.0"),
        ({"gae_lambda": -0.1}, "gae_lambda must be in [0, 1], got -0.1; the usual value is 0.95"),
        ({"clip_range": 1.0}, "clip_range must be in (0, 1), got 1.0; the usual value is 0.2"),
        ({"value_clip_range": 0.0}, "value_clip_range must be above 0, got 0.0"),
        ({"vf_coef": -1.0}, "vf_coef must be in [0, 1000000], got -1.0; the usual value is 0.5"),
        ({"kl_coef": -0.1}, "kl_coef must be in [0, 1000000], got -0.1"),
        ({"kl_coef": float("nan")}, "kl_coef must be finite and in [0, 1000000], got nan"),
        ({"kl_controller": "adaptive"}, "kl_target must be given"),
        ({"kl_controller": "adaptive", "kl_target": -1.0}, "kl_target must be above 0, got -1.0"),
        ({"kl_controller": "loose"}, "kl_controller must be one of fixed, adaptive, proportional, pid, got 'loose'"),
        ({"target_kl": 0.0}, "target_kl must be above 0, got 0.0"),
        ({"temperature": 0.0}, "temperature must be in [0.001, 100], got 0.0; the usual value is 1.0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 1.5}, "top_p must be in (0, 1], got 1.5"),
    )

    @pytest.mark.parametrize(("numbers", "message"), BAD)
    def test_invalid_settings(self, kind, numbers, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            kind.config(**numbers)

    @pytest.mark.parametrize("config", RL_CONFIGS)
    @pytest.mark.parametrize(("numbers", "message"), BAD_RL)
    def test_invalid_settings_of_rl(self, config, numbers, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            config(**numbers)

    @pytest.mark.parametrize("config", GUIDED_CONFIGS)
    def test_invalid_rollin_prob(self, config):
        with pytest.raises(ValueError, match=r"rollin_prob must be in \[0, 1\], got 1\.2; the usual value is 0\.8"):
            config(rollin_prob=1.2)

    BAD_OF_ONE = (
        (LOLSConfig, {"ppo_pp_prob": -0.1}, "ppo_pp_prob must be in [0, 1], got -0.1; the usual value is 0.8"),
        (LOLSConfig, {"aggrevated_rollin_prob": 1.1}, "aggrevated_rollin_prob must be in [0, 1], got 1.1"),
        (D2LOLSConfig, {"aggrevated_rollin_prob": 1.1}, "aggrevated_rollin_prob must be in [0, 1], got 1.1"),
        (D2LOLSConfig, {"aggrevated_iterations": -1}, "aggrevated_iterations must be at least 0, got -1"),
        (GAILConfig, {"discriminator_learning_rate": 0.0}, "discriminator_learning_rate must be in (0, 1], got 0.0"),
        (GAILConfig, {"discriminator_epochs": 0}, "discriminator_epochs must be in [1, 100000], got 0"),
        (GAILConfig, {"label_smoothing": 1.5}, "label_smoothing must be in [0, 1], got 1.5"),
    )

    @pytest.mark.parametrize(("config", "numbers", "message"), BAD_OF_ONE)
    def test_invalid_settings_of_one_algorithm(self, config, numbers, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            config(**numbers)

    @pytest.mark.parametrize("name", ["aggrevated", "lols", "d2lols"])
    def test_references_cannot_finish_texts(self, name, envs):
        with pytest.raises(ValueError, match=rf"{name} lets its guide finish .*references.* can only begin"):
            KINDS[name](toy_policy(), envs, guide=Guide.references())

    def test_superfluous_and_missing_guides(self, envs):
        with pytest.raises(TypeError, match="ppo-pp needs a guide, got None"):
            PPOPlusPlus(toy_policy(), None, envs)
        with pytest.raises(TypeError, match="ppo works without a guide, got Guide"):
            PPO(toy_policy(), envs, guide=toy_guide())

    def test_configs_are_frozen_and_documented(self, kind):
        config = kind.config()
        with pytest.raises(AttributeError):
            config.epochs = 3
        assert all(entry.metadata["help"] for entry in fields(config))


class TestPredict:
    def test_shapes(self, kind, envs):
        agent = kind(toy_policy(), envs)
        observations, _ = envs.reset(seed=1)
        actions, state = agent.predict(observations)
        assert state is None
        assert (actions.shape, actions.dtype) == ((12,), np.int64)
        single, _ = agent.predict(observations[3])
        assert single.shape == ()
        assert single == actions[3]
        assert envs.single_action_space.contains(np.int64(single))

    @pytest.mark.parametrize(("name", "family"), KINDS_AND_FAMILIES)
    def test_repeated_prediction_writes_the_greedy_text(self, name, family):
        envs = toy_envs(6, min_new_tokens=2)
        agent = KINDS[name](toy_policy(family, dtype=torch.float64), envs)
        observations, _ = envs.reset(seed=1)
        texts = Texts.from_observations(torch.from_numpy(observations), P)
        greedy = agent.policy.with_decoding(Decoding(greedy=True))
        draws = torch.zeros((6, T), dtype=torch.float64)
        expected = write_completions(greedy, texts, [{}] * 6, TextLayout.of(envs), draws)
        for _ in range(T):
            observations, *_ = envs.step(agent.predict(observations)[0])
        np.testing.assert_array_equal(observations[:, P:], np.where(expected.is_token, expected.tokens, -1))

    def test_sampling(self, kind, envs):
        agent = kind(toy_policy(), envs)
        observations = np.repeat(envs.reset(seed=1)[0][:1], 2000, axis=0)
        one, two, other = (
            agent.predict(observations, deterministic=False, generator=generator(seed))[0] for seed in (1, 1, 2)
        )
        assert (one == two).all()
        assert (one != other).any()
        # The frequency of each token is near its probability.
        with torch.no_grad():
            ids = torch.from_numpy(observations[:1, :P])
            logits = agent.policy.model(input_ids=ids[ids >= 0].unsqueeze(0)).logits[0, -1]
        shares = np.bincount(one, minlength=V) / 2000
        np.testing.assert_allclose(shares, logits.softmax(-1), atol=4 * 0.5 / np.sqrt(2000))

    def test_sampling_needs_a_generator(self, kind, envs):
        agent = kind(toy_policy(), envs)
        with pytest.raises(ValueError, match=r"predict\(deterministic=False\) needs a generator"):
            agent.predict(envs.reset(seed=1)[0], deterministic=False)
