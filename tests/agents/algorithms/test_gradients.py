"""Each algorithm's gradient, in a real update of a real agent, is that of its paper's loss, written by hand.

An update has two steps: at the first one π is π_old, at the second one it is not; π_ref is another policy at both.
"""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from one_update import T, certain, collected, flat, greedy, logits_of, move, paid, small_agent, updated


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def tokens_mean(rows):
    """Return the mean over all tokens of the texts of rows, (L,) each."""
    return torch.cat(list(rows)).mean()


def leave_one_out(rewards):
    return [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]


def centred(rewards):
    return [reward - mean(rewards) for reward in rewards]


def standardised(rewards):
    spread = math.sqrt(sum(value**2 for value in centred(rewards)) / (len(rewards) - 1))
    return [value / (spread + 1e-4) for value in centred(rewards)]


def with_advantages(groups, advantages, *, kl=0.0, form="k1"):
    """Return pairs of a text and its advantage."""
    found = [advantages([sum(text.less_kl(kl, form)) for text in group]) for group in groups]
    return [pair for group, gains in zip(groups, found, strict=True) for pair in zip(group, gains, strict=True)]


def surrogate(text, advantage, *, low=0.2, high=0.2):
    """min(ρ A, clip(ρ) A) of each token"""
    ratio = (text.new - text.old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def k3(text):
    return (text.ref - text.new).exp() - 1 - (text.ref - text.new)


def rloo(groups, form="k1"):
    return -mean(surrogate(*row).sum() for row in with_advantages(groups, leave_one_out, kl=0.3, form=form))


def grpo(groups, high=0.2):
    rows = with_advantages(groups, standardised)
    return -mean((surrogate(text, a, high=high) - 0.4 * k3(text)).mean() for text, a in rows)


def dr_grpo(groups):
    return -mean(surrogate(*row).sum() / T for row in with_advantages(groups, centred))


def dapo(groups, high=0.28):
    kept = [group for group in groups if len({text.reward for text in group}) > 1]
    assert 0 < len(kept) < len(groups)
    return -tokens_mean(surrogate(*row, high=high) for row in with_advantages(kept, standardised))


def gspo(groups, low=3e-4, high=4e-4):
    def gain(text, advantage):
        ratio = (text.new - text.old).mean().exp()
        return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)

    return -mean(gain(*row) for row in with_advantages(groups, standardised))


def cispo(groups):
    rows = with_advantages(groups, standardised)
    return -tokens_mean((t.new - t.old).exp().clamp(max=1.28).detach() * a * t.new for t, a in rows)


def luffy(groups):
    """GRPO with π/(π + γ) in place of the ratio in given texts, which pay no KL."""

    def gain(text, advantage):
        shaped = text.new.exp() / (text.new.exp() + 0.2)
        return (advantage * shaped if text.given else surrogate(text, advantage) - 0.4 * k3(text)).mean()

    assert all([text.given for text in group] == [False, False, True] for group in groups)
    return -mean(gain(*row) for row in with_advantages(groups, standardised))


def luffy_of_texts(groups):
    """GSPO with given texts; the KL is paid by the policy's own alone."""
    total = 0.0
    for text, advantage in with_advantages(groups, centred, kl=0.3):
        if text.given:
            total += (advantage * text.new.exp() / (text.new.exp() + 0.1)).mean()
        else:
            ratio = (text.new - text.old).mean().exp()
            total += torch.minimum(ratio * advantage, ratio.clamp(0.95, 1.05) * advantage)
    return -total / sum(map(len, groups))


def to_go(rewards, gamma=1.0):
    return torch.tensor(
        [sum(gamma**k * pay for k, pay in enumerate(rewards[t:])) for t in range(len(rewards))], dtype=torch.float64
    )


def reinforce_pp(groups, gamma=1.0):
    texts = [text for (text,) in groups]
    gains = [to_go(text.less_kl(0.3), gamma) for text in texts]
    every = torch.cat(gains)
    centre, spread = every.mean(), every.std(correction=0) + 1e-8
    return -tokens_mean(surrogate(text, (gain - centre) / spread) for text, gain in zip(texts, gains, strict=True))


CRITIC_FREE = {
    "rloo": ("rloo", {"texts_per_prompt": 4, "kl_coef": 0.3}, rloo),
    "rloo, k2": (
        "rloo",
        {"texts_per_prompt": 4, "kl_coef": 0.3, "kl_estimator": "k2"},
        partial(rloo, form="k2"),
    ),
    "grpo": ("grpo", {"texts_per_prompt": 4, "kl_coef": 0.4}, grpo),
    "grpo, higher clip": (
        "grpo",
        {"texts_per_prompt": 3, "kl_coef": 0.4, "clip_range_high": 0.5},
        partial(grpo, high=0.5),
    ),
    "dr-grpo": ("dr-grpo", {"texts_per_prompt": 4}, dr_grpo),
    "dapo": ("dapo", {"texts_per_prompt": 2}, dapo),
    "gspo": ("gspo", {"texts_per_prompt": 4}, gspo),
    "gspo, wide": (
        "gspo",
        {"texts_per_prompt": 4, "clip_range": 0.05, "clip_range_high": 0.2},
        partial(gspo, low=0.05, high=0.2),
    ),
    "cispo": ("cispo", {"texts_per_prompt": 4}, cispo),
    "reinforce-pp": ("reinforce-pp", {"kl_coef": 0.3}, reinforce_pp),
    "reinforce-pp, discounted": ("reinforce-pp", {"kl_coef": 0.3, "gamma": 0.8}, partial(reinforce_pp, gamma=0.8)),
    "luffy": (
        "grpo",
        {"texts_per_prompt": 3, "given_texts": 1, "given_shaping": 0.2, "kl_coef": 0.4},
        luffy,
    ),
    "luffy, ratios of texts": (
        "gspo",
        {"texts_per_prompt": 3, "given_texts": 1, "advantage": "centred", "clip_range": 0.05, "clip_range_high": None}
        | {"kl_coef": 0.3},
        luffy_of_texts,
    ),
}


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_without_a_critic(name):
    algorithm, numbers, loss = CRITIC_FREE[name]
    updated(small_agent(algorithm, **numbers)).check(loss)


def test_the_texts_and_the_steps_put_losses_to_the_test():
    update = updated(small_agent("grpo", texts_per_prompt=4))
    groups = update.scored(update.texts, 1)
    texts = [replace(text, new=text.new.detach()) for group in groups for text in group]
    assert len({len(text.tokens) for text in texts}) > 3
    assert len({len(text.prompt) for text in texts}) == 3
    moved = torch.cat([text.new - text.old for text in texts])
    distance = torch.cat([text.new - text.ref for text in texts])
    assert float((moved.abs() > 0.2).double().mean()) > 0.2  # ratios beyond the clip
    assert float((distance - moved).abs().max()) > 0.3
    first = update.scored(update.texts, 0)[0][0]
    assert float((first.new - first.old).detach().abs().max()) < 1e-12


def ratio(text):
    return (text.new - text.old).exp()


def mean_ratio(text):
    return (text.new - text.old).mean(0, keepdim=True).exp()


OUTSIDE = {
    "grpo": ({"clip_range": 0.3}, lambda text: (ratio(text) - 1).abs() > 0.3),
    "dapo": (
        {"clip_range": 0.1, "clip_range_high": 0.3, "drop_groups": False},
        lambda text: (ratio(text) < 0.9) | (ratio(text) > 1.3),
    ),
    "gspo": (
        {"clip_range": 0.1, "clip_range_high": 0.2},
        lambda text: (mean_ratio(text) < 0.9) | (mean_ratio(text) > 1.2),
    ),
    "cispo": ({"clip_range_high": 0.3}, lambda text: ratio(text) > 1.3),
    "a-lol": ({}, lambda text: (text.new - text.ref).sum(0, keepdim=True).expm1().abs() > 0.9),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_clip_fraction_is_the_share_of_tokens_or_texts_whose_ratio_is_outside(name):
    numbers, is_outside = OUTSIDE[name]
    update = updated(small_agent(name, **numbers), noise=0.02)
    shares = []
    for step in (0, 1):
        groups = update.scored(update.selected, step)
        shares.append(float(torch.cat([is_outside(text) for group in groups for text in group]).double().mean()))
    assert shares[0] != shares[1]
    assert 0 < shares[1] < 1
    assert update.metrics["policy/clip_fraction"] == pytest.approx(mean(shares))


def test_given_texts_have_no_ratio_to_clip():
    update = updated(small_agent("grpo", texts_per_prompt=3, given_texts=1), noise=0.02)
    own = [text for group in update.scored(update.texts, 1) for text in group if not text.given]
    outside = torch.cat([(ratio(text) - 1).abs() > 0.2 for text in own]).double().mean()
    # The mean of two steps; at the first one all ratios are 1.
    assert update.metrics["policy/clip_fraction"] == pytest.approx(float(outside) / 2)


@pytest.mark.parametrize(
    ("name", "numbers"), [("cispo", {"texts_per_prompt": 3, "given_texts": 1}), ("a-star-po", {}), ("a-lol", {})]
)
def test_a_part_without_tokens_to_learn_has_no_loss(name, numbers):
    """A process that has no text of a minibatch reads one for the others' sake."""
    update = updated(small_agent(name, **numbers))
    learner = update.agent.learner
    loss, terms = learner.epochs.policy_terms(
        learner.experience.without_tokens_to_learn(), learner.experience.counts, entropies="none"
    )
    assert float(loss.detach()) == 0.0
    assert float(flat(torch.autograd.grad(loss, update.agent.policy.parameters())).norm()) == 0.0
    assert {name: float(term.detach()) for name, term in terms.items()} == dict.fromkeys(terms, 0.0)


def remax(groups, old):
    total = 0.0
    for (text,) in groups:
        rewards = text.less_kl(0.3)
        rewards[-1] -= sum(paid(text.prompt, greedy(old, text.prompt)))
        total += surrogate(text, to_go(rewards)).sum()
    return -total / len(groups)


def test_remax():
    update = updated(small_agent("remax", kl_coef=0.3))
    update.check(lambda groups: remax(groups, update.old))


def likelihood(groups, best):
    """RAFT: the best texts of each group, ties in their order."""
    kept = [text for group in groups for text in sorted(group, key=lambda text: -text.reward)[:best]]
    return -tokens_mean(text.new for text in kept)


@pytest.mark.parametrize(("best", "given"), [(1, 0), (2, 1)])
def test_raft(best, given):
    agent = small_agent("raft", texts_per_prompt=4, best_texts=best, given_texts=given)
    updated(agent).check(partial(likelihood, best=best))


def values_of(critic, text):
    """Return V before each token."""
    hidden = critic.model(torch.tensor([text.prompt + text.tokens]), output_hidden_states=True).hidden_states[-1][0]
    return (hidden[len(text.prompt) - 1 : -1] @ critic.head.weight[0] + critic.head.bias[0]).tolist()


def gae(text, values, *, kl):
    """A_t of each token, by γ = 1 and λ = 0.95; nothing follows the last."""
    rewards, after = text.less_kl(kl), [*values[1:], 0.0]
    deltas = [reward + following - value for reward, following, value in zip(rewards, after, values, strict=True)]
    return to_go(deltas, 0.95)


def written(text):
    """Return a text with the log-probabilities of what the policy wrote alone."""
    return replace(text, new=text.new[text.start :], old=text.old[text.start :], ref=text.ref[text.start :])


class WithCritic:
    """An update of an agent whose critic has other weights than at its start."""

    def __init__(self, name, **numbers):
        agent = small_agent(name, **numbers)
        critic, _ = agent.learner.critic("policy")
        move(critic.parameters(), 0.1, seed=7)
        self.critic, self.kl = copy.deepcopy(critic), numbers["kl_coef"]
        self.update = updated(agent)

    def advantages(self, groups, *, whiten):
        """Return the advantages of the tokens that the policy wrote, of each text."""
        texts = [text for group in groups for text in group]
        found = [gae(text, values_of(self.critic, text), kl=self.kl)[text.start :] for text in texts]
        every = torch.cat(found)
        return [(gain - every.mean()) / (every.std(correction=0) + 1e-8) if whiten else gain for gain in found]

    def check(self, gain, *, whiten=True):
        """Compare with the mean of a loss of texts and advantages over the tokens that the policy wrote."""

        def loss(groups):
            texts = [text for group in groups for text in group]
            rows = zip(map(written, texts), self.advantages(groups, whiten=whiten), strict=True)
            return tokens_mean(gain(text, advantage) for text, advantage in rows)

        self.update.check(loss)


APA = {
    "apa": ({"kl_coef": 0.3}, lambda t, a: (t.new - t.old - a / 0.5) ** 2),
    "apa, to the reference policy": (
        {"kl_coef": 0.0, "apa_anchor": "reference", "apa_temperature": 0.8},
        lambda t, a: (t.new - t.ref - a / 0.8) ** 2,
    ),
    "awr": ({"kl_coef": 0.3, "policy_loss": "awr"}, lambda t, a: -t.new * (a / 0.5).exp()),
}


@pytest.mark.parametrize("name", APA)
def test_apa(name):
    numbers, loss = APA[name]
    WithCritic("apa", **numbers).check(loss)


def test_dr_po_learns_on_what_the_policy_wrote_after_a_reference():
    case = WithCritic("dr-po", kl_coef=0.3, rollin_prob=1.0)
    starts = {text.start for group in case.update.texts for text in group}
    assert len(starts) > 2
    case.check(lambda text, gain: -surrogate(text, gain), whiten=False)


def vineppo(groups, values, every, kl=0.3, scale=1.0):
    """PPO by A_t = rewards up to the next state + its value − the value of the state before, in units of `scale`."""
    rows = []
    for (text,), known in zip(groups, values, strict=True):
        rewards, gains = text.less_kl(kl), []
        for t in range(len(rewards)):
            state, following = t // every * every, t // every * every + every
            after = known[following] if following < len(rewards) else 0.0
            gains.append((sum(rewards[t:following]) + after - known[state]) / scale)
        rows.append(surrogate(text, torch.tensor(gains, dtype=torch.float64)))
    return -tokens_mean(rows)


@pytest.mark.parametrize("every", [1, 2])
def test_vineppo(every):
    update = updated(small_agent("vineppo", kl_coef=0.3, rollout_every=every, rollout_texts=2))
    values = update.batch.learned.values.tolist()
    update.check(partial(vineppo, values=values, every=every))


def test_values_by_rollouts_are_scaled_as_rewards_are():
    update = updated(small_agent("vineppo", kl_coef=0.0, rollout_every=2, rollout_texts=2, scale_rewards=True))
    scale = float(torch.tensor([text.reward for (text,) in update.texts]).double().std(correction=0))
    assert update.metrics["reward/scale"] == pytest.approx(scale)
    values = update.batch.learned.values.tolist()
    update.check(partial(vineppo, values=values, every=2, kl=0.0, scale=scale))


def a_lol(groups, model, variant):
    """A-LoL of the texts that are better than the reference policy's, which is certain of one text a prompt."""
    losses = []
    for (text,) in groups:
        advantage = text.reward - sum(paid(text.prompt, greedy(model, text.prompt)))
        moved = text.new - text.ref
        weight = {
            "ratio": moved.sum().exp().clamp(0.1, 1.9),
            "token_ratio": moved.exp().clamp(0.1, 1.9),
            "ref_free": torch.tensor(1.0),
            "kl": torch.tensor(1.0),
        }[variant]
        nats = 0.4 * moved.sum() if variant == "kl" else 0.0
        if advantage > 0:
            losses.append(-advantage * (weight.detach() * text.new).sum() + nats)
    assert 0 < len(losses) < len(groups)
    return mean(losses)


def with_certain_reference(name, **numbers):
    """Return an update whose baselines a certain reference policy wrote."""
    agent = small_agent(name, **numbers)
    with certain(agent.learner.ref_policy):
        batch = collected(agent)
    return updated(agent, batch), agent.learner.ref_policy.model


@pytest.mark.parametrize("variant", ["ratio", "token_ratio", "ref_free", "kl"])
def test_a_lol(variant):
    numbers = {"variant": variant} | ({"kl_coef": 0.4} if variant == "kl" else {})
    update, ref = with_certain_reference("a-lol", **numbers)
    update.check(partial(a_lol, model=ref, variant=variant))


def test_a_lol_of_texts_drawn_by_their_advantages():
    update, ref = with_certain_reference("a-lol", variant="ref_free", draw_by_advantage=True)
    groups = update.selected

    def loss(drawn):
        gains = [text.reward - sum(paid(text.prompt, greedy(ref, text.prompt))) for (text,) in drawn]
        assert min(gains) > 0
        return -mean(gain * text.new.sum() for gain, (text,) in zip(gains, drawn, strict=True))

    update.check(loss, groups)


def a_star(groups, model):
    """A*-PO; V* is the reward of the only text of a certain reference policy."""
    gains = [text.reward - sum(paid(text.prompt, greedy(model, text.prompt))) for (text,) in groups]
    moved = [(text.new - text.ref).sum() for (text,) in groups]
    return mean((0.7 * nats - gain) ** 2 for nats, gain in zip(moved, gains, strict=True))


def test_a_star_po():
    update, ref = with_certain_reference("a-star-po", beta=0.7)
    update.check(partial(a_star, model=ref))


def distilled(groups, guide, form):
    rows = []
    for text in (text for group in groups for text in group):
        theirs = (logits_of(guide, text.prompt, text.tokens) / 0.7).log_softmax(-1).detach()
        own = logits_of(text.model, text.prompt, text.tokens).log_softmax(-1)
        middle = (0.3 * theirs.exp() + 0.7 * own.exp()).log()
        rows.append(
            {
                "label": -own.gather(1, theirs.argmax(1, keepdim=True)).squeeze(1),
                "forward": (theirs.exp() * (theirs - own)).sum(1),
                "reverse": (own.exp() * (own - theirs)).sum(1),
                "jsd": 0.3 * (theirs.exp() * (theirs - middle)).sum(1) + 0.7 * (own.exp() * (own - middle)).sum(1),
            }[form]
        )
    return tokens_mean(rows)


@pytest.mark.parametrize(
    ("name", "form"), [("dagger", "label"), ("gkd", "jsd"), ("gkd", "forward"), ("gkd", "reverse")]
)
def test_distillation(name, form):
    agent = small_agent(name, loss=form, **({"jsd_mix": 0.3} if form == "jsd" else {}))
    updated(agent).check(partial(distilled, guide=agent.guide.policy.model, form=form))
