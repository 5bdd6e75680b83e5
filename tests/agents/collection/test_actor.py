"""What an actor or a writer can do is declared, and a plain class has the defaults."""

from typing import Any

import pytest
import torch
from doubles import EOS, G, OneToken, P, foreign_envs, generator, policy_of, shown
from torch import Tensor

from tril_gym.agents import AggreVaTeD, AggreVaTeDConfig, Guide, Plan, PPOPlusPlus, PPOPlusPlusConfig, collect
from tril_gym.agents.collection.actor import Actor, Writer, as_actor, as_writer
from tril_gym.functional.sampling import Decoding


class PlainWriter:
    """Writes g, and EOS as the sixth token."""

    def __init__(self, written: Tensor) -> None:
        self.written = written
        self.is_closed = False

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        self.written = self.written + 1
        return torch.where(self.written == 6, EOS, G), None

    def keep(self, rows: Tensor) -> None:
        self.written = self.written[rows]

    def close(self) -> None:
        self.is_closed = True


class PlainActor:
    """An actor that inherits nothing."""

    def start(self, texts: Any, infos: Any, layout: Any) -> PlainWriter:
        self.writer = PlainWriter(texts.lengths)
        return self.writer


def test_plain_classes_write_as_subclasses_do(autoreset_mode):
    plain = PlainActor()
    found, expected = (
        collect(
            foreign_envs(8, mode=autoreset_mode),
            Plan(rollout=OneToken(P, lengths=(7,)), rollin=guide, rollin_prob=0.6),
            episodes=16,
            generator=generator(1),
        )
        for guide in (plain, OneToken(G, lengths=(6,)))
    )
    assert shown(found) == shown(expected)
    assert any("g" in text for text in shown(found))
    assert plain.writer.is_closed


def test_a_plain_class_has_the_defaults():
    actor, writer = as_actor(PlainActor()), as_writer(PlainWriter(torch.zeros(2)))
    assert isinstance(actor, Actor)
    assert isinstance(writer, Writer)
    assert (actor.can_continue, actor.needs_references, actor.reads_text(None)) == (True, False, False)
    actor.check(None)
    assert (writer.min_new_tokens, writer.values) == (0, None)


def test_a_plain_class_may_define_what_has_a_default():
    class Reads(PlainActor):
        can_continue = False

        def reads_text(self, layout: Any) -> bool:
            return layout == "text"

        def check(self, layout: Any) -> None:
            raise ValueError("no room")

    class Knows(PlainWriter):
        min_new_tokens = 3

        def next(self, draws: Tensor) -> tuple[Tensor, None]:
            self.values = self.written / 2
            return super().next(draws)

    actor, writer = as_actor(Reads()), as_writer(Knows(torch.tensor([1.0, 2.0])))
    assert (actor.can_continue, actor.reads_text("text"), actor.reads_text("ids")) == (False, True, False)
    with pytest.raises(ValueError, match="no room"):
        actor.check(None)
    assert (writer.min_new_tokens, writer.values) == (3, None)
    writer.next(torch.zeros(2))
    assert writer.values.tolist() == [0.5, 1.0]


def test_a_plain_guide_may_have_a_memory_which_is_saved(tmp_path):
    class Remembers(PlainActor):
        texts = 0

        def remember(self, trajectories: Any) -> None:
            self.texts += len(trajectories)

        def state_dict(self) -> dict[str, int]:
            return {"texts": self.texts}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.texts = state["texts"]

    guide, again = Remembers(), Remembers()
    agent = PPOPlusPlus(policy_of("gpt2"), guide, foreign_envs(4), PPOPlusPlusConfig(check_model=False))
    agent.learn(1, progress=False)
    agent.save(tmp_path / "agent")
    PPOPlusPlus.load(tmp_path / "agent", envs=foreign_envs(4), guide=again)
    assert guide.texts == again.texts == 4


def test_an_actor_of_both_parts_reports_its_metrics_once():
    class Counts(OneToken):
        calls = 3

        def metrics(self) -> dict[str, float]:
            calls, self.calls = self.calls, 0
            return {"calls": calls}

    actor = Counts(G)
    assert Plan(rollin=actor, rollin_prob=0.5, rollout=actor).metrics() == {"calls": 3}
    part = Plan(rollout=Counts(P))
    assert Plan(rollout=OneToken(G), parts=((part, 1),)).metrics() == {"calls": 3}


def shown_by(actor: Actor) -> list[list[int]]:
    return collect(foreign_envs(4), Plan(rollout=actor), episodes=8, generator=generator(1)).tokens.tolist()


def test_subclasses_are_not_wrapped():
    actor = OneToken(G)
    assert as_actor(actor) is actor
    assert Plan(rollout=actor).rollout is actor


@pytest.mark.parametrize("thing", [None, "references", lambda prompts, completions: completions])
def test_what_cannot_write_is_refused(thing):
    with pytest.raises(TypeError, match=r"an actor has a start method, got .*Guide\.from_callable\(f\)"):
        Plan(rollout=thing)


class TestAgents:
    def test_a_plain_guide_trains(self):
        agent = PPOPlusPlus(policy_of("gpt2"), PlainActor(), foreign_envs(4), PPOPlusPlusConfig(rollin_prob=0.6))
        rollins = []
        agent.learn(1, callbacks=[lambda report: rollins.append(report.metrics["rollin/share"])])
        assert rollins[0] > 0

    def test_a_guide_is_asked_whether_it_fits(self):
        class Large(OneToken):
            def check(self, layout: Any) -> None:
                raise ValueError(f"too large for {layout.vocab_size}")

        with pytest.raises(ValueError, match="too large for 24"):
            PPOPlusPlus(policy_of("gpt2"), Large(G), foreign_envs(4), PPOPlusPlusConfig())

    def test_a_guide_that_cannot_continue_finishes_no_texts(self):
        class Begins(OneToken):
            can_continue = False

        with pytest.raises(ValueError, match="aggrevated lets its guide finish texts"):
            AggreVaTeD(policy_of("gpt2"), Begins(G), foreign_envs(4), AggreVaTeDConfig())
        PPOPlusPlus(policy_of("gpt2"), Begins(G), foreign_envs(4), PPOPlusPlusConfig())

    @pytest.mark.parametrize("needs", [False, True])
    def test_a_guide_says_whether_it_needs_references(self, needs):
        guide = OneToken(G)
        guide.needs_references = needs
        agent = PPOPlusPlus(policy_of("gpt2"), guide, foreign_envs(4), PPOPlusPlusConfig())
        assert agent.needs_references is needs

    def test_a_policy_that_decodes_greedily_is_a_greedy_guide(self, tmp_path):
        policy, envs = policy_of("gpt2", seed=1).with_decoding(Decoding(greedy=True)), foreign_envs(4)
        agent = PPOPlusPlus(policy_of("gpt2"), policy, envs, PPOPlusPlusConfig(check_model=False))
        agent.save(tmp_path / "agent")
        again = PPOPlusPlus.load(tmp_path / "agent", envs=envs)
        expected = shown_by(policy)
        assert shown_by(agent.guide) == shown_by(again.guide) == expected
        assert shown_by(Guide(policy)) != expected  # control: it samples by default
