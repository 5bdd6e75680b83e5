"""Regression tests for defects of the code that was published with the papers.

Each docstring says what the published code did wrong. Other tests check the same parts in more detail.
"""

import copy
import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from doubles import EOS, G, OneToken, P, alone, foreign_envs, generator, language_model, learned, ragged_texts, same
from doubles import Foreign as ForeignEnv
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import tril_gym
from tril_gym import rewards
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
)
from tril_gym.agents.actors.references import ReferenceTokens, reference_texts
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.data import Example
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.functional.kl import AdaptiveKL
from tril_gym.models.texts import Texts
from tril_gym.rewards.neural import sentiment
from tril_gym.rewards.neural.training import FitConfig
from tril_gym.utils.text_codec import ANCHORS
from tril_gym.wrappers import TextReward

V, T = 16, 8  # of the toy environment
NUMBERS = {
    "learning_rate": 1e-3,
    "minibatch_size": 8,
    "epochs": 1,
    "temperature": 3.0,
}  # a high temperature, so that texts end early
SOURCES = sorted(Path(tril_gym.__file__).parent.rglob("*.py"))

# Each algorithm, and each half of LOLS and D2LOLS.
KINDS: dict[str, tuple[type[Agent], type, dict[str, Any]]] = {
    "ppo": (PPO, PPOConfig, {}),
    "ppo-pp": (PPOPlusPlus, PPOPlusPlusConfig, {}),
    "aggrevated": (AggreVaTeD, AggreVaTeDConfig, {}),
    "lols-ppo-pp": (LOLS, LOLSConfig, {"ppo_pp_prob": 1.0}),
    "lols-aggrevated": (LOLS, LOLSConfig, {"ppo_pp_prob": 0.0}),
    "d2lols-before": (D2LOLS, D2LOLSConfig, {"aggrevated_iterations": 9}),
    "d2lols-after": (D2LOLS, D2LOLSConfig, {"aggrevated_iterations": 0}),
    "gail": (GAIL, GAILConfig, {}),
}


def toy_envs(num_envs: int = 8, **settings: Any) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=num_envs, autoreset_mode="Disabled", **settings)


def toy_policy(family: str = "gpt2", *, seed: int = 0, tokenizer: Any = None) -> LMPolicy:
    model = language_model(family, vocab_size=V, positions=20, seed=seed)
    return LMPolicy(model, toy_tokenizer(V) if tokenizer is None else tokenizer)


def agent_of(kind: str, envs: VectorEnv | None = None, *, policy: LMPolicy | None = None, **numbers: Any) -> Agent:
    agent, config_type, own = KINDS[kind]
    config = config_type(**NUMBERS | own | numbers)
    envs, policy = toy_envs() if envs is None else envs, toy_policy() if policy is None else policy
    if agent.takes_guide:
        return agent(policy, Guide(toy_policy(seed=1), temperature=3.0), envs, config)
    return agent(policy, envs, config)


def weights(policy: LMPolicy) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()]).clone()


def text_envs(examples: list[Example], tokenizer: Any = None, num_envs: int = 8, **settings: Any) -> VectorEnv:
    """Return environments of the given examples, in the toy environment's words."""
    sizes = {"max_prompt_length": 4, "max_new_tokens": T, "reward": None}
    return gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=num_envs,
        autoreset_mode="Disabled",
        dataset=examples,
        tokenizer=toy_tokenizer(V) if tokenizer is None else tokenizer,
        **sizes | settings,
    )


def test_ppo_collects_and_trains():
    """The base loop passed the policy by a keyword that no function accepted."""
    agent, found = agent_of("ppo"), []
    before = weights(agent.policy)
    agent.learn(2, callbacks=[found.append])
    assert [report.iteration for report in found] == [1, 2]
    assert all(report.trajectories.learn.any() for report in found)
    assert not torch.equal(weights(agent.policy), before)


def test_aggrevated_iterations_of_lols_learn_on_the_rollin():
    """They collected like PPO++'s, so the policy learned on tokens of the guide."""
    agent = agent_of("lols-aggrevated", rollin_prob=0.6)
    plan = agent.plan(0)
    stubs = replace(plan, rollin=OneToken(P, logprob=-0.5), rollout=OneToken(G, logprob=-9.0))
    trajectories = collect(foreign_envs(8), stubs, episodes=40, generator=generator(1))
    assert (trajectories.tokens[trajectories.learn] == P).all()
    assert torch.equal(trajectories.learn, trajectories.tokens == P)
    assert 0 < int(trajectories.learn.sum()) < int(trajectories.is_token.sum())

    written = collect(agent.envs, plan, episodes=16, generator=generator(2))
    guides = written.is_token & (torch.arange(T) >= written.switch.unsqueeze(1))
    assert guides.any()
    expected = loss_gradient(agent, written)
    assert expected.abs().max() > 1e-6
    changed = replace(written, old_logprobs=torch.where(guides, -50.0, written.old_logprobs))
    torch.testing.assert_close(loss_gradient(agent, changed), expected, rtol=0, atol=0)
    assert not torch.equal(loss_gradient(agent, replace(written, old_logprobs=written.old_logprobs - 0.1)), expected)


def loss_gradient(agent: Agent, trajectories: Trajectories) -> Tensor:
    """Return the gradient of the policy's loss on all texts at once, flat."""
    learner: Any = agent.learner
    critic, _ = learner.critic("guide")
    experience = learner.credit.experience(
        learner.credit.add_reference_and_values(trajectories, critic), kl_coef=learner.kl_controller.coef
    )
    learner.epochs.gradients(experience, critic)
    return torch.cat([parameter.grad.flatten() for parameter in agent.policy.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_kl_penalty_changes_the_update(kind):
    """Two algorithms stored the reward before the penalty was subtracted, so it was only logged."""
    free, again, penalised = (weights_after_a_step(kind, kl_coef) for kl_coef in (0.0, 0.0, 3.0))
    torch.testing.assert_close(again, free, rtol=0, atol=0)
    assert float((penalised - free).abs().max()) > 1e-4  # a step moves a weight by 1e-3


def weights_after_a_step(kind: str, kl_coef: float) -> Tensor:
    """Return the weights after a step that starts away from the reference policy."""
    agent = agent_of(kind, kl_coef=kl_coef)
    noise = generator(5)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    figures: list[dict[str, float]] = []
    agent.learn(1, callbacks=[lambda report: figures.append(report.metrics)])
    assert abs(figures[0]["kl"]) > 0.01
    return weights(agent.policy)


class LengthDiscriminator:
    """A discriminator whose logit is the length of the text, or a constant."""

    def __init__(self, always: float | None = None) -> None:
        self.always, self.theta = always, nn.Parameter(torch.ones(()))

    def logits(self, texts: Texts) -> Tensor:
        lengths = texts.lengths.float() if self.always is None else torch.full((len(texts),), self.always)
        return self.theta * lengths

    def parameters(self) -> list[nn.Parameter]:
        return [self.theta]

    def state_dict(self) -> dict[str, Tensor]:
        return {"theta": self.theta.detach().clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.theta.data.copy_(state["theta"])


def test_gail_pays_each_text_at_its_last_token(monkeypatch):
    """The reward was written to one column for all rows, whatever their lengths."""
    given: list[Trajectories] = []
    update = ActorCritic.update

    def spy(self: ActorCritic, trajectories: Trajectories, *rest: Any, **more: Any) -> Any:
        given.append(trajectories)
        return update(self, trajectories, *rest, **more)

    monkeypatch.setattr(ActorCritic, "update", spy)
    config = GAILConfig(**NUMBERS, discriminator_learning_rate=1e-30)
    GAIL(toy_policy(), toy_envs(), config, discriminator=LengthDiscriminator()).learn(1)
    lengths = given[0].lengths
    assert len(lengths.unique()) > 2
    expected = torch.zeros((8, T), dtype=torch.float64)
    expected[torch.arange(8), lengths - 1] = lengths.double()
    torch.testing.assert_close(given[0].rewards, expected)


def test_loss_of_gail_takes_logits():
    """The loss applied a sigmoid to probabilities."""
    found: list[dict[str, float]] = []
    agent = GAIL(toy_policy(), toy_envs(), GAILConfig(**NUMBERS), discriminator=LengthDiscriminator(always=2.0))
    agent.learn(1, callbacks=[lambda report: found.append(report.metrics)])
    # σ(2) = 0.8808: half the texts cost −log 0.8808, the other half −log 0.1192; sigmoid twice would give 0.79.
    assert found[0]["discriminator/loss"] == pytest.approx((0.126928 + 2.126928) / 2, abs=1e-5)


def test_examples_with_equal_prompts_keep_their_references():
    """References were looked up by the decoded prompt, which several examples may share, as after truncation."""
    prompts = ["w2 w3", "w2 w3", "w2 w3 w4 w5 w6", "w2 w3 w4 w5 w7"]  # the last two are cut after four words
    examples = [Example(prompt, (f"w{8 + number}",)) for number, prompt in enumerate(prompts)]
    envs = text_envs(examples)
    chosen = [3, 0, 2, 1, 1, 2, 0, 3]
    plan = BC(toy_policy(), envs, BCConfig()).plan(0)
    trajectories = collect(envs, plan, episodes=8, generator=generator(), examples=chosen)
    assert trajectories.examples.tolist() == chosen
    assert [info["references"] for info in trajectories.infos] == [[f"w{8 + number}"] for number in chosen]
    assert trajectories.tokens[:, 0].tolist() == [8 + number for number in chosen]  # the reference writes
    assert len({tuple(row) for row in trajectories.prompts.tolist()}) == 2  # control: prompts alike


# Settings of some rewards. Rewards that need a program or another kind of model are tested in their own files.
SET_UP = {"spice": "pipeline", "spider": "pipeline", "preference": "model", "classifier": "model"}
ANSWERS: dict[str, dict[str, Any]] = {
    "choice": {"against": "label", "choices": "dog,cat"},
    "number_match": {"against": "label"},
    "regex": {"pattern": "dogs?"},
}
ELSEWHERE = {"meteor", "official_spice", "bert_score", "bleurt", "regressor", "output_perplexity", "perplexity"}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Return a folder with the models of the settings."""
    from spacy_pipeline import save_pipeline

    folder = tmp_path_factory.mktemp("stand_ins")
    tokenizer = toy_envs(1).unwrapped.tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save_pipeline(folder / "pipeline")
    return folder


@pytest.mark.parametrize("name", [name for name in rewards.names() if name not in ELSEWHERE])
def test_rewards_do_not_change_their_inputs(name, stand_ins, monkeypatch):
    """One joined prompt and completion in place, so a later reward saw the prompt twice."""
    monkeypatch.setattr(sentiment, "FIT_CONFIG", FitConfig(steps=1))  # accuracy does not matter here
    train = [
        Example("a film", ("the dog runs",), label=1, extras={"concepts": ["dog", "run"]}),
        Example("a book", ("a cat sits",), label=0, extras={"concepts": ["cat"]}),
    ] * 20
    columns = (
        [example.prompt for example in train],
        ["the dog sits", "a cat"] * 20,
        [list(example.references) for example in train],
        [{"concepts": ["dog"], "label": 1, "finish_reason": "stop"} for _ in train],
    )
    before = copy.deepcopy(columns)
    settings = {SET_UP[name]: str(stand_ins / SET_UP[name])} if name in SET_UP else ANSWERS.get(name, {})
    score = rewards.load(name, train=train, **settings)
    measure = score if callable(score) else score.corpus
    first = measure(*columns)
    assert columns == before
    np.testing.assert_array_equal(measure(*columns), first)


def test_every_reward_of_a_stack_gets_the_same_texts():
    """The same defect, with several rewards on one environment."""
    seen: list[Any] = []

    def spy(*columns: Any) -> list[float]:
        seen.append(copy.deepcopy(columns))
        return [0.0] * len(columns[0])

    envs = text_envs([Example(f"w{word} w3", ("w4 w5",)) for word in range(6, 10)])
    for score, name in ((spy, "first"), ("rouge_l", "rouge"), (spy, "last")):
        envs = TextReward(envs, score, name=name)
    collect(envs, agent_of("ppo", envs).plan(0), episodes=8, generator=generator())
    assert len(seen) > 1
    assert seen[0::2] == seen[1::2]


class PaysForTheEnd(ForeignEnv):
    @staticmethod
    def reward_of(token: int, t: int) -> float:
        return float(token == 0)


def test_eos_with_the_id_of_padding_is_learned_and_paid():
    """Masks were derived from ids: with padding = EOS, the end was neither learned nor paid."""
    envs = foreign_envs(4, env=PaysForTheEnd, eos_token_ids=[0])  # padding cells are 0, too
    agent = agent_of("ppo", envs, policy=LMPolicy(language_model("gpt2"), None))
    plan = replace(agent.plan(0), rollout=OneToken(P, lengths=(1, 3, 8, 99), eos=0))
    trajectories = collect(envs, plan, episodes=4, generator=generator())
    ends = trajectories.lengths - 1
    assert trajectories.tokens.tolist()[:2] == [[0] * 8, [P, P, 0, 0, 0, 0, 0, 0]]
    assert ends.tolist() == [0, 2, 7, 7]  # the first is a completion without words
    assert trajectories.learn.sum(1).tolist() == [1, 3, 8, 8]
    expected = torch.zeros((4, 8), dtype=torch.float64)
    expected[torch.arange(3), ends[:3]] = 1.0  # the last is cut at its eighth word
    torch.testing.assert_close(trajectories.rewards, expected)

    learner: Any = agent.learner
    critic, _ = learner.critic("policy")
    experience = learner.credit.experience(
        learner.credit.add_reference_and_values(trajectories, critic), kl_coef=learner.kl_controller.coef
    )
    assert (experience.advantages[torch.arange(3), ends[:3]] > 0.5).all()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoder_scores_ignore_prompt_padding(family):
    """The padding, on the left, was not masked."""
    policy, texts, layout = LMPolicy(language_model(family), None), ragged_texts(), TextLayout.of(foreign_envs(1))
    assert len(texts.prompt_lengths.unique()) > 1
    together = policy.token_logprobs(texts, layout).logprobs
    for row in range(len(texts)):
        single = alone(texts, row)
        length = int(single.lengths)
        torch.testing.assert_close(
            together[row, :length], policy.token_logprobs(single, layout).logprobs[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoder_reference_policy_is_frozen(family):
    """The reference policy changed while the policy was trained."""
    agent = agent_of("ppo", policy=toy_policy(family))
    reference = agent.learner.ref_policy
    assert reference is not None
    before = weights(reference)
    agent.learn(1)
    assert torch.equal(weights(reference), before)
    assert not torch.equal(weights(agent.policy), before)
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())


def test_cider_document_frequencies_are_not_of_the_scored_batch():
    """A text's score depended on the other texts of its batch, and a single text scored 0."""
    train = [Example("", (text,)) for text in ("the dog runs", "the cat sits", "the man reads a book")]
    texts = ["the dog sits", "the cat sits", "a man reads"]
    references = [["the dog runs"], ["the cat sits"], ["the man reads a book"]]

    def scores(rows: list[int]) -> list[float]:
        score = rewards.load("cider_d", train=train)
        chosen = [texts[row] for row in rows], [references[row] for row in rows]
        return score([""] * len(rows), *chosen, [{}] * len(rows)).tolist()

    together = scores([0, 1, 2])
    assert [scores([row])[0] for row in range(3)] == together
    assert scores([1, 1, 0])[2] == together[0]
    assert min(together) > 0
    assert together[1] == pytest.approx(10 * 3 / 4)  # three words have no 4-gram, the rest agrees


def test_rouge_scores_each_text():
    """Combined ROUGE gave every text the mean of the batch."""
    score = rewards.load("rouge_l")
    found = score(["", ""], ["the dog runs", "a cat"], [["the dog runs"], ["the dog runs"]], [{}, {}])
    assert found.tolist() == [1.0, 0.0]


def test_adaptive_kl_controller_clips_its_error():
    """Without the clip at ±0.2, one iteration far from the target multiplied the coefficient without bound."""
    coefficients = []
    for kl in (0.0, 60.0, 6.6):
        controller = AdaptiveKL(1.0, target=6.0, horizon=100.0)
        controller.update(kl, episodes=50)
        coefficients.append(controller.coef)
    assert coefficients == pytest.approx([0.9, 1.1, 1.05])  # 1 ± 0.2 · 50/100, and within the clip 1 + 0.1 · 50/100


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_rollins_are_read_in_one_pass(family, monkeypatch):
    """They were replayed token by token; the environment restarts at the switch instead."""
    envs, policy = toy_envs(1), toy_policy(family)
    with pytest.warns(UserWarning, match="never learns its first token"):
        agent = agent_of("ppo-pp", envs, policy=policy, rollin_prob=1.0)
    plan = replace(agent.plan(0), rollin=OneToken(G))  # of eight tokens
    assert agent.policy.language_model.head is not None  # determined by a forward pass, which must not count below
    model = policy.model
    body = model.get_decoder() if model.config.is_encoder_decoder else model.base_model
    steps, passes = counted(monkeypatch, envs, "step"), counted(monkeypatch, body, "forward")
    trajectories = [collect(envs, plan, episodes=1, generator=generator(seed)) for seed in range(6)]
    rollins = sum(int(one.is_rollin.sum()) for one in trajectories)
    rollouts = sum(int(one.is_rollout.sum()) for one in trajectories)
    assert rollins > 6
    assert len(steps) == rollouts
    assert len(passes) == rollouts  # one that reads prompt and rollin, then one for each further token


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """Return a list that gets an entry at each call of a method."""
    method, calls = getattr(owner, name), []

    def call(*rest: Any, **more: Any) -> Any:
        calls.append(name)
        return method(*rest, **more)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_integers(kind):
    """They were stored as float32, which is not exact above 2²⁴."""
    envs = toy_envs()
    agent = agent_of(kind, envs, target_coef=0.1)
    trajectories = collect(envs, agent.plan(0), episodes=8, generator=generator())
    targets = reference_texts(trajectories, ReferenceTokens(agent.layout), generator())
    stored = [trajectories.prompts, trajectories.tokens, trajectories.switch, trajectories.examples]
    assert {ids.dtype for ids in [*stored, targets.prompts, targets.tokens]} == {torch.int64}

    writer = agent.policy.start(Texts.from_ids([[3] * 4] * 2, [[], []], max_new_tokens=T), [{}, {}], agent.layout)
    assert writer.next(torch.zeros(2, dtype=torch.float64))[0].dtype == torch.int64
    observations, _ = envs.reset(seed=0)
    assert {observations.dtype, envs.single_observation_space.dtype, agent.predict(observations)[0].dtype} == {
        np.dtype(np.int64)
    }
    assert envs.single_action_space.dtype == np.int64


class CountingTokenizer(PreTrainedTokenizerFast):
    """Counts the calls for each text."""

    calls: ClassVar[Counter[str]] = Counter()

    def __call__(self, text: Any, *rest: Any, **more: Any) -> Any:
        self.calls.update([text] if isinstance(text, str) else text)
        return super().__call__(text, *rest, **more)


def test_each_text_is_tokenised_once():
    """Data were tokenised three times, each time with another padding side set on the shared tokenizer."""
    tokenizer = CountingTokenizer(
        tokenizer_object=toy_tokenizer(V).backend_tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.calls.clear()
    before = tokenizer.padding_side, tokenizer.truncation_side
    examples = [Example(f"w{word} w3", (f"w4 w{word}",)) for word in range(2, 10)]
    envs = text_envs(examples, tokenizer)
    agent = agent_of("ppo", envs, policy=toy_policy(tokenizer=tokenizer), target_coef=0.1)
    agent.learn(4)
    data = {example.prompt for example in examples}
    data |= {f" {reference}" for example in examples for reference in example.references}
    ours = {text: count for text, count in tokenizer.calls.items() if text in data}
    # The codec also tries a reference behind each of its anchors, once; other texts are not of the data.
    tried = {f"{anchor}{text}" for anchor in ANCHORS for text in data}
    assert all(tokenizer.calls[text] <= 1 for text in tried)
    assert not [text for text in tokenizer.calls if "w4" in text and text not in data | tried]
    assert len(ours) > 8  # prompts and references
    prompts = {example.prompt for example in examples}
    assert {count for text, count in ours.items() if text in prompts} == {1}
    assert {count for text, count in ours.items() if text not in prompts} <= {1, 2}  # once more to check its length
    assert (tokenizer.padding_side, tokenizer.truncation_side) == before


@pytest.mark.parametrize("word", ["gc.collect", "empty_cache", "padding_side =", "load_metric"])
def test_sources_do_not_contain(word):
    """The inner loop emptied CUDA's cache; metrics and data sets were scripts, which `datasets` no longer loads."""
    assert len(SOURCES) > 60
    assert [path.name for path in SOURCES if word in path.read_text()] == []
    assert [path.name for path in SOURCES if "max_new_tokens" in path.read_text()]  # control


def test_guide_on_the_reference_model_uses_its_own_weights():
    """Where the guide was the reference model, the guide's tokens were sampled from the policy."""
    policy = toy_policy()
    config = PPOPlusPlusConfig(**NUMBERS | {"epochs": 4})
    agent = PPOPlusPlus(policy, Guide(policy, temperature=3.0), toy_envs(), config)
    original = LMPolicy(copy.deepcopy(policy.model), policy.tokenizer)
    agent.learn(3)
    expected = texts_of(Guide(original, temperature=3.0))
    assert same(texts_of(agent.guide), expected)
    assert not same(texts_of(Guide(policy, temperature=3.0)), expected)  # control: the policy has moved


def texts_of(actor: Any) -> Trajectories:
    return collect(toy_envs(), Plan(rollout=actor), episodes=8, generator=generator(3))


@pytest.mark.parametrize("kind", ["ppo-pp", "aggrevated", "lols-ppo-pp", "lols-aggrevated", "d2lols-before"])
def test_rollin_prob_is_a_probability_for_every_algorithm(kind):
    """`tau` was a probability in one algorithm and a number of iterations in another."""
    _, config_type, own = KINDS[kind]
    with pytest.raises(ValueError, match=r"rollin_prob must be in \[0, 1\], got 20"):
        config_type(rollin_prob=20)
    assert "tau" not in {field.name for field in fields(config_type)}
    agent = agent_of(kind, rollin_prob=0.3)
    assert {agent.plan(iteration).rollin_prob for iteration in (0, 8, 9, 30)} == {0.3}
    chances = [name for name in own if name.endswith("_prob")]
    for name in chances:
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got 20"):
            config_type(**{name: 20})


def test_aggrevated_iterations_of_d2lols_is_a_count():
    """See above; `rollin_prob` is the same before and after the change of algorithm."""
    agent = agent_of("d2lols-before", aggrevated_iterations=3, rollin_prob=0.3, aggrevated_rollin_prob=0.7)
    assert [agent.plan(iteration).critic for iteration in range(5)] == ["guide"] * 3 + ["policy"] * 2
    assert [agent.plan(iteration).rollin_prob for iteration in range(5)] == [0.7] * 3 + [0.3] * 2


@pytest.mark.parametrize("kind", ["bc", *KINDS])
def test_single_process_trains(kind, monkeypatch):
    """Training in a single process failed."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    agent = BC(toy_policy(), toy_envs(), BCConfig(minibatch_size=8)) if kind == "bc" else agent_of(kind)
    assert learned(agent, 1).iteration == 1
    assert not torch.distributed.is_initialized()


def test_imdb_reference_is_the_rest_of_the_review(tmp_path):
    """The reference was the whole review, so learning its likelihood made the policy repeat the prompt."""
    words = [f"w{word}" for word in range(2, 12)]
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": " ".join(words), "label": 1}) + "\n")
    envs = gym.make_vec(
        "tril/IMDB-v0",
        num_envs=2,
        autoreset_mode="Disabled",
        dataset=str(tmp_path),
        tokenizer=toy_tokenizer(V),
        max_prompt_length=6,
        max_new_tokens=12,
        reward=None,
    )
    _, infos = envs.reset(seed=0)
    assert infos["prompt"][0] == "w2 w3 w4 w5 w6"
    assert list(infos["references"][0]) == ["w7 w8 w9 w10 w11"]

    policy = OneToken(P)
    trajectories = collect(envs, replace(agent_of("ppo").plan(0), rollout=policy), episodes=2, generator=generator())
    targets = reference_texts(trajectories, ReferenceTokens(TextLayout.of(envs)), generator())
    assert targets.tokens[0][targets.is_token[0]].tolist() == [7, 8, 9, 10, 11, EOS]
    assert targets.prompts[0][targets.is_prompt[0]].tolist() == [2, 3, 4, 5, 6]
