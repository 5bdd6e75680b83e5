"""Switches do not cut characters where the rollout actor reads text."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from doubles import generator
from text_doubles import (
    Dictates,
    Says,
    byte_tokenizer,
    completions,
    encoded,
    text_envs,
    write,
)

from tril_gym.agents import (
    Guide,
    Plan,
)
from tril_gym.agents.collection.collector import EpisodeRandomness
from tril_gym.agents.collection.cuts import UniformCut, switch_points
from tril_gym.utils.text_codec import TextCodec

ACCENTS = "né 😀a €😀"


class TestSwitch:
    """The policy writes bytes; a switch may fall between two of one character."""

    @staticmethod
    def plan(rollout: Any, ids: list[int], **settings: Any) -> Plan:
        return Plan(rollout=rollout, rollin=Dictates([ids]), rollin_prob=1.0, learn_on="rollin", **settings)

    @pytest.mark.parametrize("mode", ["Disabled", "NextStep"])
    def test_switch_inside_a_character_moves_to_its_start(self, mode):
        tokenizer = byte_tokenizer(merges=0)
        ids = encoded(tokenizer, ACCENTS)
        assert len(ids) == len(ACCENTS.encode())
        envs, says = text_envs(tokenizer, mode=mode), Says(["!"])
        moved = write(envs, self.plan(Guide.from_callable(says), [*ids, 1]), episodes=64)
        token = write(envs, self.plan(Dictates([[*ids, 1]]), [*ids, 1]), episodes=64)  # control: a guide on tokens

        # Bytes before each character, by hand: n é ␣ 😀 a ␣ € 😀 are 1 2 1 4 1 1 3 4 bytes.
        starts = [0, 1, 3, 4, 8, 9, 10, 13, 17]
        expected = [max(start for start in starts if start <= h) for h in token.switch.tolist()]
        assert moved.switch.tolist() == expected
        assert not torch.equal(moved.switch, token.switch)
        assert set(token.switch.tolist()) - set(starts)  # the control does cut characters

        assert [text for _, texts in says.asked for text in texts] == [ACCENTS.encode()[:h].decode() for h in expected]
        assert [text.rstrip("!") for text in completions(moved)] == [ACCENTS.encode()[:h].decode() for h in expected]
        columns = torch.arange(30)
        assert torch.equal(moved.is_rollin, columns < moved.switch.unsqueeze(1))
        assert torch.equal(moved.old_logprobs, torch.where(moved.is_rollin, -0.5, 0.0).double())

    def test_switches_move_as_well_where_lengths_are_known_beforehand(self):
        class WritesToTheLimit(Dictates):
            def start(self, *arguments: Any) -> Any:
                writer = super().start(*arguments)
                writer.min_new_tokens = 30
                return writer

        tokenizer, says = byte_tokenizer(merges=0), Guide.from_callable(Says(["!"]))
        ids = encoded(tokenizer, ACCENTS + "😀😀a")
        assert len(ids) == 30 - 4
        ids += encoded(tokenizer, "a€")
        plan = self.plan(says, ids)
        known, unknown = (
            write(text_envs(tokenizer), replace(plan, rollin=actor([ids])), episodes=64)
            for actor in (WritesToTheLimit, Dictates)
        )
        assert completions(known) == completions(unknown)
        assert torch.equal(known.switch, unknown.switch)

    def test_cut_first_character_leaves_no_rollin(self):
        tokenizer = byte_tokenizer(merges=0)
        ids = encoded(tokenizer, "😀")
        says = Says(["dog"])
        trajectories = write(text_envs(tokenizer), self.plan(Guide.from_callable(says), [*ids, 1]), episodes=32)
        assert set(trajectories.switch.tolist()) == {0, 4}
        assert not trajectories.is_rollin[trajectories.switch == 0].any()
        assert set(completions(trajectories)) == {" dog", "😀dog"}

    def test_invalid_bytes_do_not_move_the_switch(self):
        """The rest of the text does not make them one, so there is nothing to keep whole."""
        tokenizer = byte_tokenizer(merges=0)
        first, *_, last = encoded(tokenizer, "😀")
        x = encoded(tokenizer, "x")[0]
        garbage = [x, first, x, last, last, x, first]
        envs = text_envs(tokenizer)
        text, token = (
            write(envs, self.plan(guide, [*garbage, 1]), episodes=32)
            for guide in (Guide.from_callable(Says(["!"])), Dictates([[*garbage, 1]]))
        )
        assert torch.equal(text.switch, token.switch)
        assert len(text.switch.unique()) == 7

    def test_merges_across_characters(self):
        tokenizer = byte_tokenizer()
        codec = TextCodec(tokenizer)
        byte = {character: encoded(tokenizer, character) for character in " é"}
        ids = [*byte[" "], *byte["é"], *byte[" "]]
        assert len(byte["é"]) == 2
        assert [codec.character_start(ids, end) for end in range(5)] == [0, 1, 1, 3, 4]

    def test_full_rollin_is_not_moved(self):
        tokenizer = byte_tokenizer(merges=0)
        ids = [*encoded(tokenizer, "n😀"), 1]
        plan = self.plan(Guide.from_callable(Says(["!"])), ids, cut=UniformCut(allow_full=True))
        trajectories = write(text_envs(tokenizer), plan, episodes=32)
        assert set(trajectories.switch.tolist()) == {1, 5, 6}
        assert set(completions(trajectories)) == {"n!", "n😀!", "n😀"}

    def test_other_switches_follow_switch_points(self):
        """What the tests above call unmoved is the plain rule of `switch_points`."""
        tokenizer = byte_tokenizer(merges=0)
        ids = [*encoded(tokenizer, ACCENTS), 1]
        token = write(text_envs(tokenizer), self.plan(Dictates([ids]), ids), episodes=8)
        draws = EpisodeRandomness.draw(8, 30, generator(1)).switch.numpy()
        assert token.switch.tolist() == switch_points(np.full(8, len(ids)), draws).tolist()
