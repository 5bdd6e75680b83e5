"""Ids and text: texts that are cut anywhere and continued."""

import pytest
from text_doubles import (
    SENTENCES,
    TOKENIZERS,
    Dictates,
    Says,
    byte_tokenizer,
    completions,
    encoded,
    metaspace_tokenizer,
    text_envs,
    write,
)

from tril_gym.agents import (
    Guide,
    Plan,
)
from tril_gym.utils.text_codec import TextCodec


class TestContinuations:
    """Text is cut anywhere and joined again."""

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_both_parts_decode_to_the_whole_text(self, name):
        tokenizer = TOKENIZERS[name]()
        codec = TextCodec(tokenizer)
        for sentence in SENTENCES:
            for place in range(1, len(sentence)):
                begun = codec.ids(f" {sentence[:place]}")
                rest = codec.ids(sentence[place:], after=begun)
                assert tokenizer.decode(begun + rest) == tokenizer.decode(begun) + sentence[place:]
                assert codec.text(begun + rest) == f" {sentence}"

    def test_control_plain_encoding_does_not(self):
        """Control: within a word a word mark would be one too many."""
        tokenizer = metaspace_tokenizer()
        begun = encoded(tokenizer, " the do")
        assert tokenizer.decode(begun + encoded(tokenizer, "g runs")) == "the do g runs"
        assert tokenizer.decode(begun + TextCodec(tokenizer).ids("g runs", after=begun)) == "the dog runs"

    @pytest.mark.parametrize("name", ["unigram", "merges"])
    def test_unknown_text_keeps_its_space(self, name):
        tokenizer = TOKENIZERS[name]()
        codec = TextCodec(tokenizer)
        begun = encoded(tokenizer, " the do")
        unknown = tokenizer.unk_token_id
        assert codec.ids("ß runs", after=begun)[0] == unknown
        assert codec.ids(" ß runs", after=begun)[:2] == [tokenizer.convert_tokens_to_ids("▁"), unknown]

    @pytest.mark.parametrize("name", ["unigram", "merges"])
    def test_a_word_after_an_unknown_one_is_finished(self, name):
        tokenizer = TOKENIZERS[name]()
        begun = encoded(tokenizer, " ß the do")
        assert tokenizer.unk_token_id in begun
        assert tokenizer.decode(begun + TextCodec(tokenizer).ids("g runs", after=begun)).endswith(" the dog runs")

    def test_ids_beyond_the_tokenizer_decode_to_nothing(self):
        tokenizer = byte_tokenizer()
        dog = encoded(tokenizer, " dog")
        assert TextCodec(tokenizer).text([len(tokenizer) + 5, *dog, 0]) == " dog"

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_begun_texts_are_continued_in_the_environment(self, name):
        """The policy writes pieces, the guide sees the text behind its prompt, the joined text is what both said."""
        tokenizer, says = TOKENIZERS[name](), Says(["ing.", " on.", ", and on."])
        whole = encoded(tokenizer, " the dog runs in the park")
        plan = Plan(rollout=Guide.from_callable(says), rollin=Dictates([[*whole, 1]]), rollin_prob=0.8)
        trajectories = write(text_envs(tokenizer, max_new_tokens=60), plan, episodes=32)
        begun = [text for _, texts in says.asked for text in texts]
        assert {text[:1] for text in begun} == {"", " "}
        assert len(set(begun)) > 5
        for text, found in zip(begun, completions(trajectories), strict=True):
            said = text + says.answer(text) if text else f" {says.answer(text)}"
            assert found == said
