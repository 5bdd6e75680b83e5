"""The checks of actors and guides pass on ours, and notice actors that are broken on purpose."""

import pytest
import torch
from doubles import EOS, OneToken, toy_envs, toy_policy

from tril_gym.agents import Actor, Guide, Writer
from tril_gym.testing import ConformanceError, check_actor, check_guide


class FromDraws(Writer):
    """Writes the token that a uniform chooses among 16, of which each has probability 1/16."""

    def __init__(self, texts):
        self.prompts = texts.prompts.sum(1)

    def next(self, draws):
        tokens = (self.prompts + (draws * 16).long()) % 16
        return tokens, torch.full(draws.shape, 1 / 16).log()

    def keep(self, rows):
        self.prompts = self.prompts[rows]


class Uniform(Actor):
    """An actor whose writer a subclass breaks."""

    writer = FromDraws

    def start(self, texts, infos, layout):
        return self.writer(texts)


def actor_of(broken):
    """Return an actor with this writer, under its name."""
    return type(broken.__name__, (Uniform,), {"writer": broken})()


class NoStart:
    pass


class NeverFits(Uniform):
    def check(self, layout):
        raise ValueError("too few positions")


class GlobalRandomness(FromDraws):
    def next(self, draws):
        tokens, logprobs = super().next(draws)
        return tokens + 0 * int(torch.randint(16, (1,))), logprobs


class OwnRandomness(FromDraws):
    generator = torch.Generator().manual_seed(0)

    def next(self, draws):
        return torch.randint(16, draws.shape, generator=self.generator), None


class ReadsItsNeighbours(FromDraws):
    def next(self, draws):
        return super().next(draws.mean() + 0 * draws)


class ReadsItsRow(FromDraws):
    def next(self, draws):
        tokens, _ = super().next(draws)
        return (tokens + torch.arange(len(tokens))) % 16, None


class IgnoresKeep(FromDraws):
    def next(self, draws):
        self.prompts = self.prompts[: len(draws)]
        return super().next(draws)

    def keep(self, rows):
        pass


class SortsRows(FromDraws):
    def keep(self, rows):
        super().keep(rows.sort().values)


class ChangesTexts(Uniform):
    def start(self, texts, infos, layout):
        texts.prompts[0] = 3
        return super().start(texts, infos, layout)


class ChangesInfos(Uniform):
    def start(self, texts, infos, layout):
        for info in infos:
            info["references"] = []
        return super().start(texts, infos, layout)


class OneTokenForAll(FromDraws):
    def next(self, draws):
        return torch.tensor([2]).expand(1), None


class Floats(FromDraws):
    def next(self, draws):
        return super().next(draws)[0].double(), None


class OutsideTheVocabulary(FromDraws):
    def next(self, draws):
        return super().next(draws)[0] * 0 + 15 + (draws > 2), torch.full(draws.shape, 0.5)


class WrongLogprobs(FromDraws):
    def next(self, draws):
        tokens, logprobs = super().next(draws)
        return tokens, logprobs - 1


class NoPair(FromDraws):
    def next(self, draws):
        return super().next(draws)[0]


class BreaksItsMinimum(FromDraws):
    min_new_tokens = 3

    def next(self, draws):
        return torch.full(draws.shape, EOS), None


class BeginsAgain(Uniform):
    def start(self, texts, infos, layout):
        if texts.is_token.any():
            raise RuntimeError("there is a text already")
        return super().start(texts, infos, layout)


@pytest.mark.parametrize(
    ("actor", "message"),
    [
        (NoStart(), "has a start method, and fits the environment; found: TypeError"),
        (NeverFits(), "fits the environment; found: ValueError: too few positions"),
        (actor_of(GlobalRandomness), "an actor uses no global random generator; found: it uses that of torch"),
        (actor_of(OwnRandomness), "two writers of the same texts write the same for the same uniforms"),
        (actor_of(ReadsItsNeighbours), "depends on its own prompt and uniforms alone, here that of row 0"),
        (actor_of(ReadsItsRow), "depends on its own prompt and uniforms alone, here that of row 1"),
        (actor_of(IgnoresKeep), "depends on its own prompt and uniforms alone"),
        (actor_of(SortsRows), "in the order that it is given"),
        (ChangesTexts(), "does not change texts and infos; found: .*'prompts'"),
        (ChangesInfos(), "does not change texts and infos; found: .*'references'"),
        (actor_of(OneTokenForAll), "one token for each of 6 texts, int64 in 0 … 15"),
        (actor_of(Floats), "one token for each of 6 texts, int64 in 0 … 15"),
        (actor_of(OutsideTheVocabulary), "log-probabilities are one number for each text, in nats, 0 or less"),
        (actor_of(WrongLogprobs), "is that with which it is drawn, here token 0; found: probability 0.0230"),
        (actor_of(NoPair), "returns \\(tokens, log-probabilities or None\\)"),
        (actor_of(BreaksItsMinimum), "with min_new_tokens 3 writes no EOS before that"),
        (BeginsAgain(), "continues texts that are begun; found: RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ * (not isinstance(value, str)),
)
def test_a_broken_rule_is_named(actor, message):
    with pytest.raises(ConformanceError, match=f"broken rule: .*{message}"):
        check_actor(actor, toy_envs(6))


class OneTokenTexts(OneToken):
    def __init__(self):
        super().__init__(EOS)


def test_rules_of_guides_are_named():
    with pytest.raises(ConformanceError, match="found: rollins of \\[0, 0, 0, 0, 0, 0, 0\\] tokens"):
        check_guide(OneTokenTexts(), toy_envs(6))
    policy = toy_policy()

    class Trains(Guide):
        def start(self, *arguments):
            with torch.no_grad():
                next(self.policy.model.parameters()).mul_(1.0001)
            return super().start(*arguments)

    with pytest.raises(ConformanceError, match=r"does not change while it writes|for the same uniforms"):
        check_guide(Trains(policy), toy_envs(6))


def test_actors_of_ours_pass():
    policy = toy_policy()
    check_actor(actor_of(FromDraws), toy_envs(6))
    check_actor(policy, toy_envs(6))
    check_actor(policy, toy_envs(6, min_new_tokens=5))
    check_actor(OneToken(5, lengths=(5,)), toy_envs(6))


def test_guides_of_ours_pass():
    def count_on(prompts, completions):
        return [
            "w5 " * (len(prompt.split()) + (not completion))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    for guide in (
        Guide(toy_policy(), top_p=0.9, temperature=2.0),
        Guide(toy_policy("t5")),
        Guide(toy_policy(dtype=torch.bfloat16)),
        Guide.references(),
        Guide.from_callable(count_on),
    ):
        check_guide(guide, toy_envs(6, rule="stop"))
