"""One page of mathematics: at π = π_old many losses take the same first step, that of the policy gradient.

Every expectation is exact, over all texts or all pairs of them. Each loss has a control that is nearly it and does not
take that step.
"""

import pytest
import torch
from tabular import IS_TOKEN, REWARDS, N, expected_gradient, logprobs, policy_gradient, table
from tabular import text_logprobs as text_logprobs_of

from tril_gym.functional.group_advantages import leave_one_out, less_group_mean, standardised
from tril_gym.functional.losses import policy_loss
from tril_gym.functional.pair_losses import p3o_loss, rebel_loss, text_logprobs
from tril_gym.functional.policy_losses import apa_loss, length_weights
from tril_gym.functional.returns import gae
from tril_gym.functional.text_losses import a_lol_loss, a_star_loss

ETA, LAMBDA, BETA = 0.7, 0.5, 0.3
PAIR = torch.zeros(2, dtype=torch.int64)  # group ids of two texts of one prompt


class Batch:
    """Some texts, their rewards, and their log-probabilities under π with gradient, and under π_old = π_ref without."""

    def __init__(self, policy, rows, other=None):
        self.rewards, self.learn = REWARDS[rows], IS_TOKEN[rows]
        self.logprobs = logprobs(policy)[rows]
        self.old = (logprobs(policy) if other is None else logprobs(other))[rows].detach()

    def clip(self, advantages, norm="sum"):
        weights = length_weights(self.learn, norm, max_length=2)
        wide = advantages.unsqueeze(1).expand_as(self.learn)
        return policy_loss(
            self.logprobs, self.old, wide, self.learn, clip_range=0.2, weights=weights, count=len(self.learn)
        )

    def ppo(self):
        """Return PPO's loss with a critic that says 0."""
        rewards, nothing = torch.zeros_like(self.old), torch.zeros_like(self.old)
        rewards[torch.arange(len(rewards)), self.learn.sum(1) - 1] = self.rewards
        advantages, _ = gae(rewards, nothing, nothing[:, 0], self.learn, gamma=1.0, gae_lambda=0.95)
        return policy_loss(self.logprobs, self.old, advantages, self.learn, clip_range=0.2, count=len(self.learn))

    def moved(self, *, per_token=False):
        """Return D of each text."""
        difference = torch.where(self.learn, self.logprobs - self.old, 0.0)
        return text_logprobs(difference, self.learn, per_token=per_token)

    def rebel(self, **kind):
        first, second = self.moved(**kind)
        return rebel_loss((first - second).view(1), -self.rewards.diff(), eta=ETA)

    def p3o(self, clip, sign=1.0):
        first, second = self.moved()
        return p3o_loss(first.view(1), sign * second.view(1), -self.rewards.diff(), clip_range=0.2, clip=clip, count=1)

    def apa(self):
        wide = self.rewards.unsqueeze(1).expand_as(self.learn)
        return apa_loss(self.logprobs, self.old, wide, self.learn, temperature=LAMBDA, count=len(self.learn))

    def a_lol(self, advantages):
        return a_lol_loss(self.logprobs, self.old, advantages, self.learn, variant="ratio")

    def a_star(self):
        return a_star_loss(self.moved(), self.rewards, beta=BETA)


# name: texts of a batch, the constant by which the policy gradient is multiplied, the loss, and its control
CASES = {
    "reinforce": (1, -1.0, lambda b: b.clip(b.rewards), lambda b: b.clip(b.rewards, "text")),
    "rloo": (2, -1.0, lambda b: b.clip(leave_one_out(b.rewards, PAIR)), lambda b: b.clip(b.rewards - b.rewards.max())),
    "grpo without std and length": (
        2,
        -0.5,
        lambda b: b.clip(less_group_mean(b.rewards, PAIR)),
        lambda b: b.clip(standardised(b.rewards, PAIR)),
    ),
    "p3o, clipped apart": (2, -1.0, lambda b: b.p3o("separate"), lambda b: b.p3o("separate", sign=-1.0)),
    "p3o, clipped jointly": (2, -1.0, lambda b: b.p3o("joint"), lambda b: b.p3o("joint", sign=-1.0)),
    "rebel": (2, -4 * ETA, lambda b: b.rebel(), lambda b: b.rebel(per_token=True)),
    "apa": (1, -2 / LAMBDA, lambda b: b.apa(), None),
    "a-lol, unfiltered": (1, -1.0, lambda b: b.a_lol(b.rewards), lambda b: b.a_lol(b.rewards.clamp(min=0))),
    "a*-po": (1, -2 * BETA, lambda b: b.a_star(), None),
}


@pytest.mark.parametrize("name", CASES)
def test_first_step_is_the_policy_gradient(name):
    texts, constant, loss, control = CASES[name]
    policy = table()
    right = constant * policy_gradient(policy, REWARDS)

    def error(of, other=None):
        found = expected_gradient(policy, lambda rows: of(Batch(policy, rows, other)), texts=texts)
        return float((found - right).abs().max())

    assert error(loss) < 1e-9
    # The control: a loss that is nearly this one, or this one with π away from its anchor.
    assert (error(loss, table(1)) if control is None else error(control)) > 1e-2


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[0] == 2])
def test_pairs_and_groups_are_invariant_to_a_constant(name):
    _, _, loss, _ = CASES[name]
    policy, rows = table(), torch.tensor([1, 4])

    def step(shift, of=loss):
        batch = Batch(policy, rows)
        batch.rewards = batch.rewards + shift
        return torch.autograd.grad(of(batch), policy)[0]

    assert torch.allclose(step(3.0), step(0.0), atol=1e-12)
    # The control: PPO with a critic at 0, which a constant moves.
    assert (step(3.0, Batch.ppo) - step(0.0, Batch.ppo)).abs().max() > 0.1


def test_dr_po_ascends_the_value_of_the_references_states():
    # The reference is the text 1 2: its states, the prompt and that after 1, begin half of the texts each.
    policy = table()
    begun = [1, 2, 3]  # the texts that continue 1
    after = policy.log_softmax(-1)[1].exp() @ REWARDS[begun]
    value = 0.5 * (text_logprobs_of(policy).exp() @ REWARDS) + 0.5 * after
    right = -torch.autograd.grad(value, policy)[0]

    def step(learns_rollin):
        total = torch.zeros_like(policy)
        for rows, h in (range(N), 0), (begun, 1):
            for row in rows:
                batch = Batch(policy, torch.tensor([row]))
                weight = 0.5 * batch.old[0, h:][batch.learn[0, h:]].sum().exp()
                batch.learn = batch.learn & (torch.arange(2) >= (0 if learns_rollin else h))
                total = total + weight * torch.autograd.grad(batch.clip(batch.rewards), policy)[0]
        return total

    assert torch.allclose(step(learns_rollin=False), right, atol=1e-12)
    assert (step(learns_rollin=True) - right).abs().max() > 1e-2  # the control: the reference's token is taught too
