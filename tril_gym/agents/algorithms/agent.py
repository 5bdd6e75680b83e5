"""Agents: a policy, an environment and a learner.

An algorithm is a file with a config and an agent class, whose `plan` says who writes which part of a text and which
part the policy learns from. Its learner updates the policy. Everything else, from training to checkpoints, is common to
all algorithms and defined here.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from tril_gym import __version__
from tril_gym.agents.actors.guide import Guide, as_guide
from tril_gym.agents.actors.model_check import check_training_mode
from tril_gym.agents.actors.policy import LMPolicy, PolicyLike, as_policy
from tril_gym.agents.actors.served_policy import ServedPolicy
from tril_gym.agents.algorithms.batches import BatchSource, CollectNow
from tril_gym.agents.algorithms.overlapped import CollectAhead
from tril_gym.agents.algorithms.report import History
from tril_gym.agents.algorithms.saved_models import describe_guide, save_guide, save_policy, saved_guide, saved_policy
from tril_gym.agents.algorithms.training_loop import learn
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.actor_critic_config import ActorCriticConfig
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.functional.sampling import Decoding
from tril_gym.models.texts import Texts
from tril_gym.utils.atomic_files import write_folder
from tril_gym.utils.config_fields import check_integer, describe_type, unread_fields
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks, current_ranks
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.versions import check_not_newer


class Agent(ABC):
    """Base class of all algorithms.

    Args:
        policy: the language model to train, in place: an `LMPolicy`, a model of `transformers`, or the name or folder
            of one.
        envs: the vector environment to write in.
        config: the hyperparameters; by default the defaults of the config type.
        guide: writes parts of the texts, for algorithms with a guide.
        seed: seed of all randomness in training.
        ranks: the processes that train together, each with a share of the environment's rows; by default those of
            `torch.distributed` where it is initialised. The result depends on their number by rounding alone.
    """

    name: ClassVar[str]  # as on the command line
    config_type: ClassVar[type[OptimizerConfig]]
    learner_type: ClassVar[Any] = ActorCritic  # called with policy, config and layout
    takes_guide: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False  # every example must have a preferred and a rejected text
    guide_finishes: ClassVar[bool] = False  # the guide writes the rollout, so it must be able to continue a text

    def __init__(
        self,
        policy: PolicyLike,
        envs: VectorEnv,
        config: Any = None,
        *,
        guide: Any = None,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        config = self.config_type() if config is None else config
        self.config: Any = config
        if not isinstance(config, self.config_type):
            kind = self.config_type.__name__
            raise TypeError(
                f"{self.name} takes a {kind}, got {describe_type(config)}; write {kind}(learning_rate=1e-5), with other"
                " fields as you like"
            )
        for name, why in unread_fields(type(config), vars(config)).items():
            warnings.warn(f"{name}={getattr(config, name)!r} has no effect: {why}", stacklevel=3)
        self.envs, self.seed = envs, check_integer("seed", seed, 0)
        self.layout = self._layout_of(envs)
        policy = as_policy(policy, self.layout.tokenizer)
        self._check_reward()
        policy.check(self.layout)
        policy.check_ends(self.layout)
        policy.end_texts_at(self.layout.eos_token_ids)
        policy.language_model.check_trainable()
        policy.language_model.prepare_training()
        self.policy = policy.with_decoding(config.decoding())
        if config.check_model:
            policy.check_readings(self.layout, values=config.has_critic)
        self.guide: Any = self._checked_guide(guide)
        self.ranks = current_ranks() if ranks is None else ranks
        self.ranks.share_weights(self._models())
        self.learner: Learner = self.learner_type(self.policy, self.config, self.layout)
        self.learner.join(self.ranks)
        if config.check_model and config.gradient_checkpointing:
            check_training_mode(policy.language_model, self.layout)
        self.generator = torch.Generator().manual_seed(seed)
        self.batches: BatchSource = CollectNow()
        if config.collects_ahead:
            self.batches = CollectAhead(self.policy, self.learner, config, self.layout, self.ranks)
        self.iteration, self.is_whole, self.history = 0, True, History()
        self.writer: ServedPolicy | None = None
        self._check_groups()

    def write_with(self, writer: ServedPolicy) -> None:
        """Let a server with a copy of the policy's weights write what the policy would write, from now on.

        It is not saved: call it again after `load`. Of several processes all call it: the main one hands the weights
        over, and each asks for its own texts.

        Args:
            writer: of this agent's policy.

        Raises:
            ValueError: it does not fit, or nothing corrects that the server's probabilities are not the policy's.
        """
        if writer.policy.model is not self.policy.model:
            raise ValueError(f"the server must write with the weights of this agent's policy, got {writer!r}")
        if not isinstance(self.config, ActorCriticConfig) or self.config.sampling_correction == "none":
            kind = self.config_type.__name__
            raise ValueError(
                f"texts that a server writes are learned from with a correction: {kind}(sampling_correction='token');"
                f" {self.name} {'has it' if issubclass(self.config_type, ActorCriticConfig) else 'has none'}"
            )
        policy, ranks = self.batches.snapshot or self.policy, self.ranks.for_thread()
        writer = ServedPolicy(policy, writer.server, writer.hand_over, ranks=ranks)
        writer.check(self.layout)
        self.writer = writer

    def collection_plan(self, plan: Plan) -> Plan:
        """Return a plan that the texts of an iteration are collected by.

        That of the learner; or one in which the server or a snapshot writes what the policy would write.
        """
        if self.writer is None and self.batches.snapshot is None:
            return self.learner.collection_plan(plan)
        rollin = None if plan.rollin is None else self._in_place_of(plan.rollin)
        return replace(plan, rollin=rollin, rollout=self._in_place_of(plan.rollout))

    def _in_place_of(self, actor: Actor) -> Actor:
        """Return who writes in place of an actor, which may be the policy, with a decoding of its own."""
        if actor is self.policy and self.writer is not None:
            return self.writer
        snapshot = self.batches.snapshot
        if snapshot is None or not isinstance(actor, LMPolicy) or actor.model is not self.policy.model:
            return actor
        return snapshot.with_decoding(actor.decoding)

    def _check_groups(self) -> None:
        """Refuse iterations that do not consist of whole groups."""
        size = self.plan(0).group_size
        if self.episodes % size:
            raise ValueError(
                f"an iteration must have a multiple of texts_per_prompt texts, {size}, got {self.episodes}; use"
                f" episodes_per_iteration {self.episodes + -self.episodes % size} (by default it is num_envs)"
            )

    def _models(self) -> list[Any]:
        """Return the networks of policy and guide."""
        return [self.policy.model, *([self.guide.policy.model] if isinstance(self.guide, Guide) else [])]

    def _layout_of(self, envs: Any) -> TextLayout:
        try:
            return TextLayout.of(envs)
        except TypeError as error:
            order = "policy, guide, envs" if self.takes_guide else "policy, envs"
            raise TypeError(f"{error}; the arguments are {type(self).__name__}({order})") from None

    def _check_reward(self) -> None:
        if self.layout.reward_missing and self.learns_from_rewards:
            raise ValueError(
                f"{self.name} learns from rewards, and this environment has none of its own; name one with --reward, in"
                ' Python gym.make_vec(…, reward=…): a name such as "exact_match", {name: weight}, or a function of your'
                " texts (docs/your_own_reward.md); reward=None says that a wrapper of yours rewards the texts"
            )

    def _checked_guide(self, guide: Any) -> Actor | None:
        if (guide is None) == self.takes_guide:
            raise TypeError(f"{self.name} {'needs a' if self.takes_guide else 'works without a'} guide, got {guide!r}")
        if guide is None:
            return None
        guide = _independent(as_guide(guide, self.layout.tokenizer), self.policy)
        guide.check(self.layout)
        if self.config.check_model:
            guide.check_readings(self.layout)
        if self.guide_finishes and not guide.can_continue:
            raise ValueError(
                f"{self.name} lets its guide finish texts, and {guide!r} can only begin them; use a language model or"
                " a callable as guide, or an algorithm whose guide begins the texts (ppo-pp)"
            )
        return guide

    @property
    def learns_from_rewards(self) -> bool:
        """Whether the rewards of the environment change what is learned."""
        return bool(self.learner_type.needs_rewards and self.config.needs_rewards)

    @property
    def needs_references(self) -> bool:
        """Whether every example must have references."""
        actors = [*self.plan(0).actors, *([] if self.guide is None else [self.guide])]
        return self.learner.needs_references or any(actor.needs_references for actor in actors)

    @property
    def episodes(self) -> int:
        """Texts per iteration."""
        return self.config.episodes_per_iteration or self.envs.num_envs * self.ranks.size

    @abstractmethod
    def plan(self, iteration: int) -> Plan:
        """Return who writes which part in an iteration, counted from 0."""

    def prepare(self, timer: Timer) -> Metrics:
        """Measure what the plan of the coming iteration depends on; by default nothing.

        It is called again where the iteration failed and is repeated, so it draws from the seed and the iteration.

        Args:
            timer: counts the seconds spent in the environment as "score".

        Returns:
            metrics by name.
        """
        return {}

    def own_state(self) -> dict[str, Any]:
        """Return what plans depend on beside the iteration, as plain data."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:  # noqa: B027  most plans depend on the iteration alone
        """Restore what `own_state` returned."""

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"{type(self).__name__} after {self.iteration} iterations of {self.episodes} texts, seed {self.seed}",
                f"  policy  {self.policy!r}",
                *([] if self.guide is None else [f"  guide   {self.guide!r}"]),
                f"  envs    {self.envs!r}",
                f"  plan    {_describe_plan(self.plan(self.iteration), self.policy)}",
                f"  config  {_changes(self.config) or 'defaults'}",
            ]
        )

    learn = learn  # the training loop, a function of what it needs of an agent

    def predict(
        self, observations: np.ndarray, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> tuple[np.ndarray, None]:
        """Return the next tokens for a batch (or a single row) of observations.

        Args:
            observations: (n, P + T) or (P + T,) integers.
            deterministic: take the most probable token instead of sampling.
            generator: source of randomness for sampling.

        Returns:
            actions, (n,) or a scalar array, and None, since there is no hidden state to carry.

        Raises:
            ValueError: sampling without a generator.
        """
        policy = self.policy.with_decoding(Decoding(greedy=True)) if deterministic else self.policy
        batch = torch.from_numpy(np.atleast_2d(observations).astype(np.int64))
        texts = Texts.from_observations(batch, self.layout.max_prompt_length)
        if deterministic:
            draws = torch.zeros(len(batch), dtype=torch.float64)
        elif generator is None:
            raise ValueError("predict(deterministic=False) needs a generator=torch.Generator() to draw from")
        else:
            draws = torch.rand(len(batch), generator=generator, dtype=torch.float64)
        writer = policy.start(texts, [{} for _ in batch], self.layout)
        actions = writer.next(draws)[0].cpu().numpy()
        writer.close()
        return actions.reshape(np.shape(observations)[:-1]), None

    def save(self, folder: str | Path) -> None:
        """Save everything needed to continue training exactly.

        `policy/` loads with `from_pretrained` of `transformers`. For a LoRA policy, `lora/` holds the adapter and the
        name or weights of its base. Not saved are the environment, and a guide that is a function or an actor of your
        own: pass them to `load`. An agent saved in the folder before is replaced atomically. Of several processes all
        call it, and the main one writes.

        Raises:
            ValueError: the folder has other contents.
        """
        policy = self.policy.with_language_model(self.policy.language_model.whole_copy())
        state = {"generator": self.generator.get_state(), "learner": self.learner.state_dict()}
        state |= {"guide": {} if self.guide is None else self.guide.state_dict(), "own": self.own_state()}
        if ahead := self.batches.state_dict():
            state["batches"] = ahead
        if self.ranks.is_main:
            write_folder(Path(folder), partial(self._write, policy, state), mark="agent.json")

    def _write(self, policy: LMPolicy, state: dict[str, Any], folder: Path) -> None:
        save_policy(policy, folder)
        save_guide(self.guide, policy=self.policy, folder=folder / "guide")
        torch.save(state, folder / "learner.pt")
        about = {"version": __version__, "algorithm": self.name, "iteration": self.iteration, "seed": self.seed}
        about |= {"config": asdict(self.config), "guide": describe_guide(self.guide, self.policy)}
        about |= {"layout": self.layout.as_json()}
        (folder / "agent.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        envs: VectorEnv,
        device: str | torch.device = "cpu",
        changes: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
        loading: Mapping[str, Any] | None = None,
        **parts: Any,
    ) -> Self:
        """Load an agent that `save` wrote; it continues as if never stopped.

        Args:
            folder: the saved agent.
            envs: an environment like the one it was trained in.
            device: torch device of the policy and the guide.
            changes: hyperparameters with another value than the saved one.
            trust_remote_code: run code that was saved with the models, as those have that are not part of transformers,
                and ask the server that the folder names as guide.
            loading: keywords by which the policy was loaded and that a saved model does not hold:
                `attn_implementation`, and `device_map`, which takes the place of `device`.
            parts: what could not be saved: `guide=`, if it is a function or an actor of your own, and GAIL's
                `discriminator=`, if it is your own.

        Raises:
            ValueError: the folder holds no agent, one of another algorithm or of a newer version, the guide is missing,
                or `changes` names no hyperparameter.
        """
        folder = Path(folder)
        about = cls._read_about(folder)
        names = [entry.name for entry in fields(cls.config_type)]
        if unknown := sorted(set(changes or {}) - set(names)):
            raise ValueError(
                f"changes names {with_suggestion(unknown[0], names)}, which is no hyperparameter of {cls.name}; use"
                f" fields of {cls.config_type.__name__}, such as learning_rate"
            )
        policy = saved_policy(folder, trust_remote_code=trust_remote_code, loading=loading)
        if "device_map" not in (loading or {}):
            policy.to(device)
        config = cls.config_type(**about["config"] | dict(changes or {}))
        if cls.takes_guide and "guide" not in parts:
            parts["guide"] = saved_guide(folder, about["guide"], policy, trust_remote_code=trust_remote_code)
        agent = cls(policy=policy, envs=envs, config=config, seed=about["seed"], **parts)
        saved = torch.load(folder / "learner.pt", weights_only=True, map_location=policy.device)
        agent.generator.set_state(saved["generator"].cpu())
        agent.learner.load_state_dict(saved["learner"])
        if saved.get("guide"):
            agent.guide.load_state_dict(saved["guide"])
        if config.collects_ahead and "batches" in saved:
            agent.batches.load_state_dict(saved["batches"])
        if saved.get("own"):
            agent.load_own_state(saved["own"])
        agent.iteration = about["iteration"]
        return agent

    @classmethod
    def _read_about(cls, folder: Path) -> dict[str, Any]:
        """Return the description of a saved agent of this algorithm.

        Raises:
            ValueError: there is none, or another algorithm or a newer version wrote it.
        """
        try:
            about: dict[str, Any] = json.loads((folder / "agent.json").read_text(encoding="utf-8"))
            algorithm, numbers = about["algorithm"], about["config"].keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} holds no saved agent (agent.json: {error})") from error
        check_not_newer(str(about.get("version", "0.1.0")), str(folder))
        if algorithm != cls.name:
            raise ValueError(
                f"{folder} holds an agent of {algorithm}, not of {cls.name}; use the class of that algorithm"
            )
        if unknown := sorted(numbers - {entry.name for entry in fields(cls.config_type)}):
            raise ValueError(
                f"{folder / 'agent.json'} has the hyperparameter {unknown[0]!r}, which {cls.name} of tril-gym"
                f" {__version__} does not have; use the version that wrote it"
            )
        return about


class GuidedAgent(Agent):
    """Base class of algorithms with a guide that starts or finishes texts.

    Args:
        policy: the language model to train, in place; see `Agent`.
        guide: writes parts of the texts; it is not trained. A language model may be given as the policy may.
        envs: the vector environment to write in.
        config: the hyperparameters; by default the defaults of the config type.
        seed: seed of all randomness in training.
        ranks: see `Agent`.
    """

    takes_guide = True
    guide: Actor

    def __init__(
        self,
        policy: PolicyLike,
        guide: Any,
        envs: VectorEnv,
        config: Any = None,
        *,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(policy, envs, config, guide=guide, seed=seed, ranks=ranks)


def _independent(guide: Actor, policy: LMPolicy) -> Actor:
    """Return the guide, with a frozen model instead of one that it shares with the policy."""
    if isinstance(guide, LMPolicy):
        guide = Guide(guide, **asdict(guide.decoding))
    if isinstance(guide, Guide) and guide.policy.model is policy.model:
        return Guide(policy.frozen_copy(), **guide.settings())
    if isinstance(guide, Guide) and policy.lora is None and guide.policy.shares_base(policy):
        # The guide is an adapter on the model that trains.
        return Guide(policy.with_language_model(guide.policy.language_model.full_copy()), **guide.settings())
    return guide


def _describe_plan(plan: Plan, policy: LMPolicy) -> str:
    """Return in words who writes which part of a text."""
    rollin, rollout = ("policy" if actor is policy else "guide" for actor in (plan.rollin, plan.rollout))
    if plan.rollin is None:
        return f"the {rollout} writes whole texts" if plan.rollout is policy else f"{plan.rollout!r} writes whole texts"
    part = "last token of the rollin" if plan.learn_on == "switch" else plan.learn_on
    return (
        f"the {rollin} begins a text with probability {plan.rollin_prob:g}, the {rollout} finishes it; the policy"
        f" learns on the {part}"
    )


def _changes(config: Any) -> str:
    """Return the hyperparameters that are not the defaults."""
    usual = type(config)()
    changed = [entry.name for entry in fields(config) if getattr(config, entry.name) != getattr(usual, entry.name)]
    return ", ".join(f"{name} {getattr(config, name)}" for name in changed)
