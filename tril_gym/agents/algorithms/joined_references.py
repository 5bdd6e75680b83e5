"""Groups that references join: the plan of LUFFY, and of imitation of the best texts, whoever wrote them."""

from __future__ import annotations

from tril_gym.agents.actors.references import References
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.plan import Plan


def joined_by_references(policy: Actor, *, texts: int, given: int) -> Plan:
    """Return the plan of groups of `texts` texts, the last `given` of which are references of the prompt."""
    parts = ((Plan(rollout=References(), is_given=True), given),) if given else ()
    return Plan(rollout=policy, texts_per_prompt=texts - given, parts=parts)
