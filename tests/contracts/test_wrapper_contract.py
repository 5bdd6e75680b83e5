"""Wrappers: scores and observations, equal for single and vector environments, transparent to all else."""

import copy
import functools
import json
import pickle
import textwrap
import warnings

import gymnasium as gym
import numpy as np
import pytest
from contract_checks import bare, native_and_sync, same
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from tril_gym.data import Example
from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_config, toy_tokenizer
from tril_gym.experiment.metrics import metrics_by_name
from tril_gym.registration import make_text_env, make_text_vector_env
from tril_gym.rewards import Score
from tril_gym.testing.vector_steps import equal_steps, random_actions
from tril_gym.utils.batched_infos import row_of
from tril_gym.wrappers import ActionMasking, TextObservation, TextReward, WholeText, WithoutInfo, terms
from tril_gym.wrappers.text_space import AnyText

MODES = ["NextStep", "SameStep", "Disabled"]
TOKEN, EOS = 5, 1


class CountWords(Score):
    """A score, the number of words, that records its calls."""

    name = "words"
    slow = False

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, references, extras):
        self.calls.append(list(completions))
        return np.array([len(completion.split()) for completion in completions], dtype=np.float64)


class SlowWords(CountWords):
    slow = True


def toy(**keywords):
    return TextEnv(toy_config(**keywords).without_reward())


def toys(n=3, mode="Disabled", **keywords):
    return TextVectorEnv(toy_config(**keywords).without_reward(), n, autoreset_mode=mode)


@pytest.fixture(params=[toy, toys], ids=["single", "vector"])
def env(request):
    return request.param()


def float_tokens(env):
    wrappers = gym.wrappers.vector if isinstance(env, TextVectorEnv) else gym.wrappers
    return wrappers.DtypeObservation(env, np.float32)


# ---- TextReward


def test_rewards_do_not_go_around_a_wrapper_that_drops_what_they_read(env):
    with pytest.raises(ValueError, match="drops inside of it: extras, prompt, references; put WithoutInfo outside"):
        TextReward(ActionMasking(WithoutInfo(env, keep=["completion"])), CountWords())
    with pytest.raises(ValueError, match="WholeText reads infos that WithoutInfo drops inside of it: prompt"):
        WholeText(WithoutInfo(env))


def test_reward_is_added_once_on_the_last_step():
    score = CountWords()
    env = TextReward(toy(max_new_tokens=3), score, weight=0.5)
    _, info = env.reset(seed=0)
    assert "scores" not in info
    steps = [env.step(TOKEN) for _ in range(3)]
    assert [step[1] for step in steps] == [0.0, 0.0, 1.5]
    assert type(steps[-1][1]) is float
    assert [step[4].get("scores") for step in steps] == [None, None, {"words": 3.0}]
    assert type(steps[-1][4]["scores"]["words"]) is float
    assert score.calls == [["w5 w5 w5"]]


def test_score_gets_prompt_completion_references_and_extras():
    seen = []

    def spy(prompts, completions, references, extras):
        seen.append((prompts, completions, references, extras))
        return np.zeros(len(prompts))

    examples = [Example("w2", references=["w3", "w4"], label=1, extras={"concepts": ["w2"]})]
    tokenizer = bare("tril/Toy-v0").tokenizer
    make = {"dataset": examples, "tokenizer": tokenizer, "reward": spy, "max_new_tokens": 2}
    env, envs = make_text_env("tril/IMDB-v0", **make), make_text_vector_env("tril/IMDB-v0", 2, **make)
    env.reset(seed=0), envs.reset(seed=0)
    env.step(TOKEN), env.step(EOS), envs.step([TOKEN, EOS]), envs.step([TOKEN, 0])

    def read(completion, finish_reason):
        extras = {"concepts": ["w2"], "label": 1, "finish_reason": finish_reason}
        return (["w2"], [completion], [["w3", "w4"]], [extras])

    same(seen[0], read("w5", "stop"))
    same(seen[1], read("", "stop"))
    same(seen[2], read("w5 w5", "length"))
    assert "finish_reason" not in examples[0].extras


def test_rewards_of_terms_add_up():
    for env in (TextReward(toy(), CountWords(), weight=2.0), TextReward(toys(1), CountWords(), weight=2.0)):
        env = TextReward(env, "rouge_l", weight=10.0)
        env = TextReward(env, CountWords(), weight=-1.0, name="length")
        assert [(term.name, term.weight) for term in terms(env)] == [
            ("words", 2.0),
            ("rouge_l", 10.0),
            ("length", -1.0),
        ]
        env.reset(seed=0)
        is_vector = not isinstance(env, gym.Env)
        for action in (TOKEN, TOKEN, EOS):
            _, reward, _, _, info = env.step([action] if is_vector else action)
        scores = {name: float(np.ravel(info["scores"][name])[0]) for name in ("words", "rouge_l", "length")}
        assert (scores["words"], scores["length"]) == (2.0, 2.0)
        assert scores["rouge_l"] > 0
        assert float(np.ravel(reward)[0]) == pytest.approx(2.0 * 2 + 10.0 * scores["rouge_l"] - 2)


def test_score_adds_to_the_reward_of_the_environment():
    env = TextReward(TextEnv(toy_config(dense=True)), CountWords())
    env.reset(seed=0)
    assert env.step(TOKEN)[1] == 1 / 8
    assert env.step(EOS)[1] == 1.0


def test_keyword_reward_replaces_the_reward_of_toy():
    for reward, expected in (("default", [1 / 8, 0.0]), (None, [1 / 8, 0.0]), (CountWords(), [0.0, 1.0])):
        env = make_text_env("tril/Toy-v0", dense=True, reward=reward)
        env.reset(seed=0)
        assert [env.step(TOKEN)[1], env.step(EOS)[1]] == expected
        assert env.metadata["text"]["dense_reward"] is (reward in (None, "default"))


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'words'"):
        TextReward(TextReward(toy(), CountWords()), CountWords())
    with pytest.raises(ValueError, match="'words'"):
        TextReward(SyncVectorEnv([lambda: TextReward(toy(), CountWords())]), CountWords())


@pytest.mark.parametrize("mode", MODES)
def test_vector_reward_equals_single(mode):
    native, sync = native_and_sync("tril/CommonGen-v0", 3, mode, reward={"rouge_l": 0.5, "concept_coverage": 1.0})
    assert equal_steps(native, sync, steps=40, seed=0, eos_prob=0.2) > 10
    assert (
        [term.name for term in terms(native)] == [term.name for term in terms(sync)] == ["rouge_l", "concept_coverage"]
    )


@pytest.mark.parametrize("mode", MODES)
def test_scores_read_numbers_of_several_kinds_as_they_are(mode):
    """Gymnasium gives the numbers of all rows in its batched infos the type of the first one."""
    read = []

    def reads(completion, extras):
        read.append(extras)
        return 0.0

    rows = [{"prompt": "w2", "answer": answer, "more": {"x": answer}} for answer in (3, 2.5, True)]
    settings = {"tokenizer": toy_tokenizer(16), "reward": None, "max_new_tokens": 1}
    makers = [lambda row=row: gym.make("tril/Text-v0", dataset=[row], **settings) for row in rows]
    envs = TextReward(SyncVectorEnv(makers, autoreset_mode=mode), reads)
    envs.reset(seed=0)
    envs.step(np.array([5, 5, 5]))
    assert [extras["answer"] for extras in read] == [extras["more"]["x"] for extras in read] == [3, 2.5, True]
    assert [type(extras["answer"]) for extras in read] == [int, float, bool]


@pytest.mark.parametrize("mode", MODES)
def test_reward_around_sync_vector_env(mode):
    """The wrapper around SyncVectorEnv equals SyncVectorEnv over wrapped environments."""
    around = TextReward(SyncVectorEnv([toy] * 3, autoreset_mode=mode), CountWords())
    inside = SyncVectorEnv([lambda: TextReward(toy(), CountWords())] * 3, autoreset_mode=mode)
    assert equal_steps(around, inside, steps=200, seed=0, eos_prob=0.2) > 50


def test_one_call_for_all_texts_of_a_step():
    score = CountWords()
    envs = TextReward(toys(4, "NextStep"), score)
    envs.reset(seed=0)
    envs.step([TOKEN] * 4)
    envs.step([EOS, TOKEN, EOS, EOS])
    assert score.calls == [["w5", "w5", "w5"]]


def test_same_step_scores_are_in_final_info():
    envs = TextReward(toys(2, "SameStep"), CountWords())
    envs.reset(seed=0)
    envs.step([TOKEN, TOKEN])
    _, rewards, _, _, infos = envs.step([EOS, TOKEN])
    assert rewards.tolist() == [1.0, 0.0]
    assert "scores" not in infos
    assert infos["final_info"]["scores"]["words"].tolist() == [1.0, 0.0]
    assert infos["final_info"]["scores"]["_words"].tolist() == [True, False]


def test_a_truncated_text_is_not_scored():
    score = CountWords()
    env = TextReward(gym.wrappers.TimeLimit(toy(), 2), score)
    env.reset(seed=0)
    env.step(TOKEN)
    _, reward, _, truncated, info = env.step(TOKEN)
    assert (reward, truncated, score.calls) == (0.0, True, [])
    assert "scores" not in info


@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize("wrapper", [lambda env: TextReward(env, "rouge_l"), ActionMasking, TextObservation])
def test_transparent_to_seeds_and_restarts(wrapper, n):
    make = toy if n is None else lambda: toys(n)
    plain, wrapped = make(), wrapper(make())

    def tokens(observation):
        return (
            observation
            if isinstance(observation, np.ndarray)
            else observation.get("tokens", observation.get("observation"))
        )

    options = {"example": 3} if n is None else {"example": np.full(n, 3)}
    for keywords in ({"seed": 3}, {}, {"seed": 9, "options": options}, {}):
        a, b = plain.reset(**keywords), wrapped.reset(**keywords)
        same(a[0], tokens(b[0]))
        same(a[1], b[1])
    assert plain.np_random_seed == wrapped.np_random_seed
    assert wrapped.metadata is wrapped.unwrapped.metadata
    if n is not None:
        assert wrapped.autoreset_mode is AutoresetMode.DISABLED
        same(wrapped.call("action_masks"), plain.call("action_masks"))
        assert wrapped.get_attr("examples") == plain.get_attr("examples")


class Broken(Score):
    name = "broken"

    def __init__(self, result):
        self.result = result

    def __call__(self, prompts, completions, references, extras):
        return self.result(completions)


def divide(completions):
    raise ZeroDivisionError("division by zero")


def refuse(completions):
    raise ValueError("no verbs")


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (divide, RuntimeError, "'broken' failed on the text 'w5'.*division by zero"),
        (refuse, ValueError, "'broken' failed on the text 'w5'.*no verbs"),
        (lambda texts: np.full(len(texts), np.nan), RuntimeError, "'broken' gave nan for the text 'w5'"),
        (lambda texts: np.full(len(texts), -np.inf), RuntimeError, "'broken' gave -inf for the text 'w5'"),
        (lambda texts: np.zeros(len(texts) + 1), RuntimeError, "'broken' must give"),
        (lambda texts: 1.0, RuntimeError, "'broken' must give"),
        (lambda texts: ["good"] * len(texts), RuntimeError, "'broken' must give"),
    ],
)
@pytest.mark.parametrize("n", [None, 2])
def test_errors_name_the_broken_reward(result, error, message, n):
    env = TextReward(toy() if n is None else toys(n), Broken(result))
    env.reset(seed=0)
    env.step(TOKEN if n is None else [TOKEN] * n)
    with pytest.raises(error, match=message):
        env.step(EOS if n is None else [EOS] * n)


def test_an_info_that_lacks_what_rewards_read_is_named():
    class WithoutExtras(gym.Wrapper):
        def step(self, action):
            *results, info = self.env.step(action)
            return *results, {key: value for key, value in info.items() if key != "extras"}

    env = TextReward(WithoutExtras(toy()), CountWords())
    env.reset(seed=0)
    env.step(TOKEN)
    with pytest.raises(ValueError, match="the text 'w5': the last info of the text has no 'extras'; rewards read"):
        env.step(EOS)


def test_errors_show_the_text_with_the_bad_score():
    envs = TextReward(toys(3), Broken(lambda texts: np.array([0.0, np.nan, 0.0])))
    envs.reset(seed=0)
    envs.step([7, 8, 9])
    with pytest.raises(RuntimeError, match="the text 'w8'"):
        envs.step([EOS] * 3)


def test_import_errors_are_not_wrapped():
    def needs_package(completions):
        raise ImportError("pip install something")

    env = TextReward(toy(), Broken(needs_package))
    env.reset(seed=0)
    with pytest.raises(ImportError, match="pip install something"):
        env.step(EOS)


def test_settings_are_for_rewards_by_name():
    with pytest.raises(ValueError, match="by name"):
        TextReward(toy(), CountWords(), settings={"a": 1})
    with pytest.raises(ValueError, match="no_such_setting"):
        TextReward(toy(), "rouge_l", settings={"no_such_setting": 1})


def test_a_named_reward_fits_on_the_train_split():
    """Document frequencies are those of the train split, whatever the split of the environment."""
    rewards = {}
    for split in ("train", "validation"):
        env = make_text_env("tril/CommonGen-v0", split=split, reward="cider_d", max_new_tokens=2)
        rewards[split] = terms(env)[0].score
    text = (["p"], ["a dog runs."], [["a dog runs in the park."]], [{}])
    assert rewards["train"](*text) == rewards["validation"](*text)
    train = bare("tril/CommonGen-v0").examples
    own = make_text_env("tril/CommonGen-v0", dataset=list(train[:5]), reward="cider_d")
    assert terms(own)[0].score(*text) != rewards["train"](*text)


@pytest.mark.parametrize("of_class", [True, False])
def test_a_fitted_class_of_ones_own_has_the_folder_of_its_name(of_class, tmp_path):
    own = "name = 'mine'" if of_class else "pass"
    made = "" if of_class else "self.name = 'mine'"
    code = f"""
        import numpy as np
        from tril_gym.rewards import Score

        class Longest(Score):
            {own}

            def __init__(self, train=None, fitted=None):
                self.where = fitted
                {made}

            def __call__(self, prompts, completions, references, extras):
                return np.zeros(len(completions))
        """
    (tmp_path / "own.py").write_text(textwrap.dedent(code))
    (tmp_path / "fitted" / "mine").mkdir(parents=True)
    reward = f"{tmp_path / 'own.py'}:Longest"
    env = make_text_env("tril/Toy-v0", reward=reward, fitted_rewards=tmp_path / "fitted")
    assert terms(env)[0].score.score.where == tmp_path / "fitted" / "mine"
    (metric,) = metrics_by_name([reward], {}, env, fitted=tmp_path / "fitted")
    assert metric.score.where == tmp_path / "fitted" / "mine"


def test_fitted_rewards_are_loaded_from_their_folder(tmp_path):
    env = make_text_env("tril/CommonGen-v0", reward={"cider_d": 1.0, "rouge_l": 1.0})
    text = (["p"], ["a dog runs."], [["a dog runs in the park."]], [{}])
    before = terms(env)[0].score(*text)
    terms(env)[0].score.save(tmp_path / "cider_d")
    other = [Example("concepts: a. sentence:", references=["a b c"])]
    again = make_text_env(
        "tril/CommonGen-v0", dataset=other, reward={"cider_d": 1.0, "rouge_l": 1.0}, fitted_rewards=tmp_path
    )
    assert terms(again)[0].score(*text) == before
    again = gym.make("tril/CommonGen-v0", reward="cider_d", fitted_rewards=tmp_path)
    assert json.loads(again.spec.to_json())["kwargs"]["fitted_rewards"] == str(tmp_path)


# ---- deferred rewards


def test_deferred_rewards_arrive_with_the_last_row():
    score = CountWords()
    envs = TextReward(toys(3), score, weight=2.0, defer=True)
    envs.reset(seed=0)
    quiet = [envs.step([EOS, TOKEN, TOKEN]), envs.step([0, TOKEN, EOS])]
    assert all((step[1] == 0).all() and not np.any(step[4].get("scores", {}).get("_words", False)) for step in quiet)
    assert score.calls == []
    _, rewards, terminated, _, infos = envs.step([0, EOS, 0])
    assert [sorted(call) for call in score.calls] == [["", "w5", "w5 w5"]], "one call"
    assert rewards.tolist() == [0.0, 4.0, 2.0], "idle rows get their rewards too"
    assert terminated.tolist() == [False, True, False]
    assert infos["scores"]["words"].tolist() == [0.0, 2.0, 1.0]
    assert infos["scores"]["_words"].tolist() == [True] * 3
    assert infos["_completion"].tolist() == [False, True, False]
    _, rewards, *_ = envs.step([0, 0, 0])
    assert rewards.tolist() == [0.0] * 3, "once"


def test_deferred_rewards_have_the_same_sum():
    totals = []
    for defer in (True, False):
        envs = TextReward(toys(5), CountWords(), defer=defer)
        rng, total = np.random.default_rng(0), np.zeros(5)
        envs.reset(seed=0)
        for _ in range(8):
            total += envs.step(random_actions(rng, envs, 0.3))[1]
        totals.append(total.tolist())
    assert totals[0] == totals[1]
    assert len(set(totals[0])) > 1


@pytest.mark.parametrize(
    ("score", "defer", "offer", "mode", "is_deferred"),
    [
        (SlowWords, None, True, "Disabled", True),
        (SlowWords, None, False, "Disabled", False),
        (SlowWords, False, True, "Disabled", False),
        (CountWords, None, True, "Disabled", False),
        (CountWords, True, False, "Disabled", True),
        (SlowWords, None, True, "NextStep", False),
        (SlowWords, None, True, "SameStep", False),
    ],
)
def test_when_rewards_are_deferred(score, defer, offer, mode, is_deferred):
    envs = TextReward(toys(2, mode), score(), defer=defer)
    envs.reset(seed=0, options={"defer": True} if offer else None)
    envs.step([TOKEN, TOKEN])
    assert envs.step([EOS, TOKEN])[1].tolist() == [0.0 if is_deferred else 1.0, 0.0]
    assert envs.step([TOKEN, EOS])[1].tolist() == [1.0 if is_deferred else 0.0, 2.0]


def test_the_defer_option_is_valid_until_the_next_reset():
    envs = TextReward(toys(2), SlowWords())
    envs.reset(seed=0, options={"defer": True})
    envs.step([EOS, EOS])
    envs.reset()
    envs.step([TOKEN, TOKEN])
    assert envs.step([EOS, TOKEN])[1].tolist() == [1.0, 0.0]


def test_rows_with_deferred_rewards_cannot_be_reset():
    envs = TextReward(toys(2), CountWords(), defer=True)
    envs.reset(seed=0)
    envs.step([EOS, TOKEN])
    with pytest.raises(ValueError, match=r"rows \[0\].*'words'"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="must have shape"):
        envs.reset(options={"reset_mask": np.zeros(5, bool)})
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step([0, TOKEN])
    assert envs.step([0, EOS])[1].tolist() == [0.0, 1.0]
    envs.reset()  # a batch that is abandoned
    envs.step([EOS, TOKEN])
    envs.reset()
    envs.step([TOKEN, TOKEN])
    assert envs.step([EOS, EOS])[1].tolist() == [1.0, 1.0]


def test_defer_needs_mode_disabled():
    for mode in ("NextStep", "SameStep"):
        with pytest.raises(ValueError, match="Disabled"):
            TextReward(toys(2, mode), CountWords(), defer=True)
    with pytest.raises(ValueError, match="defer must be True or False, got 'no'"):
        TextReward(toys(2), CountWords(), defer="no")
    with pytest.raises(ValueError, match="vector"):
        TextReward(toy(), CountWords(), defer=True)


# ---- the observation wrappers


KEEPING = functools.partial(WithoutInfo, keep=["finish_reason"])
RLLIB = functools.partial(ActionMasking, key="observations", dtype=np.float32)


@pytest.mark.parametrize("wrapper", [ActionMasking, TextObservation, WithoutInfo])
def test_observation_wrappers_pass_check_env(wrapper):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*")
        check_env(wrapper(bare("tril/CommonGen-v0")))
    env = wrapper(gym.make("tril/Toy-v0"))
    assert type(gym.make(env.spec)) is wrapper


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrapper", [ActionMasking, RLLIB, TextObservation])
def test_observation_wrappers_single_equals_vector(wrapper, mode):
    native, sync = native_and_sync("tril/CommonGen-v0", 2, mode, wrapper, reward=None, min_new_tokens=3)
    assert native.single_observation_space == sync.single_observation_space
    assert native.observation_space == sync.observation_space
    assert native.reset(seed=0)[0] in native.observation_space
    assert equal_steps(native, sync, steps=40, seed=0, eos_prob=0.3) > 10
    around = wrapper(SyncVectorEnv([lambda: bare("tril/CommonGen-v0", min_new_tokens=3)] * 2, autoreset_mode=mode))
    assert equal_steps(native, around, steps=40, seed=0, eos_prob=0.3) > 10


@pytest.mark.parametrize("min_new_tokens", [0, 2])
def test_action_mask_equals_action_masks(min_new_tokens):
    envs = ActionMasking(toys(3, min_new_tokens=min_new_tokens))
    observations, _ = envs.reset(seed=0)
    for actions in ([TOKEN, EOS, TOKEN], [TOKEN] * 3, [TOKEN] * 3):
        masks = observations["action_mask"]
        assert masks.dtype == np.int8
        same(masks.astype(bool), envs.unwrapped.action_masks())
        observations, *_ = envs.step(actions)
    env = ActionMasking(toy(min_new_tokens=8))
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    assert EOS not in {env.action_space.sample(observation["action_mask"]) for _ in range(200)}


def test_masks_advise_against_every_token_that_ends_a_text():
    ends = [EOS, 300]
    envs = bare("tril/CommonGen-v0", eos_token_ids=ends, min_new_tokens=1)
    observation, _ = ActionMasking(envs).reset(seed=0)
    expected = np.ones(len(envs.tokenizer), bool)
    expected[ends] = False
    same(envs.action_masks(), expected)
    same(observation["action_mask"].astype(bool), expected)


@pytest.mark.parametrize("wrapper", [ActionMasking, TextObservation, WholeText])
@pytest.mark.parametrize("inner", [ActionMasking, TextObservation, float_tokens])
def test_wrappers_of_tokens_refuse_other_observations(wrapper, inner, env):
    if (wrapper, inner) == (ActionMasking, float_tokens):
        assert wrapper(inner(env)).reset(seed=0)[0]["observation"].dtype == np.float32
        return
    with pytest.raises(ValueError, match=rf"{wrapper.__name__} reads observations of \(12,\) token ids, .* put"):
        wrapper(inner(env))


def test_masks_are_of_text_environments():
    with pytest.raises(ValueError, match='wraps text environments, whose metadata have a "text"'):
        ActionMasking(gym.make("CartPole-v1"))


def test_action_masks_have_the_names_and_the_type_that_a_library_wants():
    for env in (RLLIB(toy(min_new_tokens=2)), RLLIB(toys(2, min_new_tokens=2))):
        observation, _ = env.reset(seed=0)
        assert list(observation) == ["observations", "action_mask"]
        assert observation["action_mask"].dtype == np.float32
        assert observation["action_mask"][..., EOS].max() == 0
        assert observation in env.observation_space
    assert type(gym.make(RLLIB(gym.make("tril/Toy-v0")).spec).observation_space["action_mask"]) is gym.spaces.Box
    with pytest.raises(ValueError, match="must differ, got 'mask' for both"):
        ActionMasking(toy(), key="mask", mask_key="mask")


def test_without_info_keeps_what_is_named():
    env, kept = WithoutInfo(toy()), WithoutInfo(toy(), keep=["finish_reason"])
    assert env.reset(seed=0)[1] == kept.reset(seed=0)[1] == {}
    assert env.step(EOS)[4] == {}
    assert kept.step(EOS)[4] == {"finish_reason": "stop"}
    envs = WithoutInfo(toys(2), keep=["finish_reason"])
    assert envs.reset(seed=0)[1] == {}
    assert envs.step([EOS, TOKEN])[4].keys() == {"finish_reason", "_finish_reason"}
    envs = WithoutInfo(toys(2, "SameStep"))
    envs.reset(seed=0)
    assert envs.step([EOS, TOKEN])[4].keys() == {"final_obs", "_final_obs"}, "the last observation is no info of a text"
    envs = WithoutInfo(toys(2, "SameStep"), keep=["finish_reason"])
    envs.reset(seed=0)
    infos = envs.step([EOS, TOKEN])[4]
    assert row_of(infos["final_info"], 0) == {"finish_reason": "stop"}
    assert infos["_final_info"].tolist() == [True, False]
    with pytest.raises(ValueError, match=r"got the string 'prompt'; write keep=\['prompt'\]"):
        WithoutInfo(toy(), keep="prompt")


@pytest.mark.parametrize("shared_memory", [True, False])
def test_texts_under_async_vector_env(shared_memory):
    """Gymnasium's own space of texts has neither these characters nor the texts of later steps."""

    def make():
        return TextObservation(gym.make("tril/CommonGen-v0", reward=None))

    processes, sync = AsyncVectorEnv([make] * 2, shared_memory=shared_memory), SyncVectorEnv([make] * 2)
    try:
        same(processes.reset(seed=0), sync.reset(seed=0))
        for tokens in ([300, 40], [301, 500], [320, 1]):
            same(processes.step(np.array(tokens))[:4], sync.step(np.array(tokens))[:4])
    finally:
        processes.close()


def test_wrappers_find_the_tokenizer_around_async_vector_env():
    processes = AsyncVectorEnv([lambda: gym.make("tril/CommonGen-v0", reward=None)] * 2)
    try:
        envs = TextObservation(TextReward(processes, "cider_d"))
        observations, infos = envs.reset(seed=0)
        assert observations["prompt"] == tuple(infos["prompt"])
        assert envs.step(np.array([1, 1]))[4]["scores"]["cider_d"].tolist() == [0.0, 0.0]
    finally:
        processes.close()
    foreign = AsyncVectorEnv([lambda: gym.make("CartPole-v1")])
    try:
        with pytest.raises(ValueError, match="has no tokenizer"):
            TextObservation(foreign)
        foreign.reset(seed=0)  # its process still runs
    finally:
        foreign.close()


def test_a_text_beyond_the_shared_memory_is_refused():
    space = AnyText()
    memory = create_shared_memory(space, n=1)
    write_to_shared_memory(space, 0, "naïve ☕" * 10, memory)
    (text,) = read_from_shared_memory(space, memory, n=1)
    assert text == "naïve ☕" * 10
    with pytest.raises(ValueError, match="make AsyncVectorEnv with shared_memory=False"):
        write_to_shared_memory(space, 0, "x" * 70_000, memory)


def test_text_observation_decodes_prompt_and_completion():
    env = TextObservation(toy())
    observation, info = env.reset(seed=0)
    assert observation["prompt"] == info["prompt"]
    env.step(TOKEN)
    observation, *_ = env.step(EOS)
    assert observation["completion"] == "w5"
    assert observation in env.observation_space
    space = copy.deepcopy(env.observation_space)
    space.seed(0)
    assert space.sample() in space


# ---- copies


def test_wrapped_environments_can_be_copied_and_pickled():
    for wrap in (lambda env: TextReward(env, "rouge_l"), ActionMasking, RLLIB, TextObservation, KEEPING):
        for env in (wrap(toy()), wrap(toys(2))):
            env.reset(seed=0)
            action = TOKEN if isinstance(env, gym.Env) else [TOKEN] * 2
            expected = copy.deepcopy(env).step(action)
            for other in (copy.copy(env), pickle.loads(pickle.dumps(env))):
                assert type(other) is type(env)
            same(pickle.loads(pickle.dumps(env)).step(action), expected)
    env = TextReward(toy(), "rouge_l")
    assert terms(copy.deepcopy(env))[0] is terms(env)[0]
