"""`reset` begins an episode in any state, and refuses states that do not exist."""

import numpy as np
import pytest
from contract_checks import EOS, TOKEN, bare, rng_states, same, toy_envs


def test_restart_begins_after_the_given_completion():
    env = bare("tril/Toy-v0")
    env.reset(seed=0)
    state = env.np_random.bit_generator.state
    observation, info = env.reset(options={"example": 3, "completion": np.array([7, 8])})
    assert env.np_random.bit_generator.state == state, "nothing was drawn"
    assert observation[4:].tolist() == [7, 8] + [-1] * 6
    plain, plain_info = env.reset(options={"example": 3})
    same(info, plain_info)
    assert (plain[4:] == -1).all()
    env.reset(options={"example": 3, "completion": [7, 8]})
    for _ in range(5):
        assert not env.step(TOKEN)[2]
    assert env.step(TOKEN)[4]["tokens"] == [7, 8] + [TOKEN] * 6, "the given completion counts towards the length"


def test_example_minus_one_draws_as_usual():
    env, other = bare("tril/Toy-v0"), bare("tril/Toy-v0")
    same(env.reset(seed=0, options={"example": -1}), other.reset(seed=0))
    envs, others = toy_envs(), toy_envs()
    drawn, _ = envs.reset(seed=0, options={"example": np.array([-1, 3, -1])})
    plain, _ = others.reset(seed=0)
    same(drawn[[0, 2]], plain[[0, 2]])
    assert [a == b for a, b in zip(rng_states(envs), rng_states(others), strict=True)] == [True, False, True]


def test_vector_restart_of_all_and_of_masked_rows():
    envs = toy_envs()
    completions = np.full((3, 8), -1)
    completions[0, :2], completions[2, :7] = [7, 8], 9
    states = None
    envs.reset(seed=0)
    states = rng_states(envs)
    observations, infos = envs.reset(options={"example": np.array([4, 5, 4]), "completion": completions})
    assert rng_states(envs) == states
    same(observations[:, 4:], completions)
    assert infos["example"].tolist() == [4, 5, 4]
    result = envs.step([TOKEN] * 3)
    assert result[2].tolist() == [False, False, True]
    assert result[4]["tokens"][2] == [9] * 7 + [TOKEN]
    # options of rows outside the mask are not read
    completions[1:] = EOS
    observations, infos = envs.reset(
        options={
            "example": np.array([4, 999, -5]),
            "completion": completions,
            "reset_mask": np.array([True, False, False]),
        }
    )
    assert infos["_example"].tolist() == [True, False, False]
    same(observations[0, 4:], completions[0])
    assert observations[1, 4] == TOKEN


BAD_RESTARTS = [
    ({"completion": [7]}, "needs options\\['example'\\]"),
    ({"example": 64}, "0 … 63, or -1 to draw one, got 64"),
    ({"example": -2}, "got -2"),
    ({"example": 1.0}, "integers"),
    ({"example": 1, "completion": [7] * 8}, "at most 7 tokens.*got 8"),
    ({"example": 1, "completion": [7, EOS]}, "EOS"),
    ({"example": 1, "completion": [7, 16]}, "token 16"),
    ({"example": 1, "completion": [7, -2]}, "token -2"),
    ({"example": 1, "completion": [-1, 7]}, "only after its last token"),
    ({"example": 1, "completion": [7.5]}, "integers"),
    ({"example": -1, "completion": [7]}, "name the example"),
]


@pytest.mark.parametrize("name", ["examples", "Example", "completions", "mask"])
@pytest.mark.parametrize("make", [lambda: bare("tril/Toy-v0"), toy_envs])
def test_misspelled_options_are_refused(make, name):
    env = make()
    with pytest.raises(ValueError, match=rf"options\['{name}'\] would be ignored \(did you mean '"):
        env.reset(options={name: np.array([1, 1, 1])})
    env.reset(options={"of_a_wrapper": 1})


@pytest.mark.parametrize(("options", "message"), BAD_RESTARTS)
def test_invalid_restarts_change_nothing(options, message):
    env = bare("tril/Toy-v0")
    before, _ = env.reset(seed=0)
    state = env.np_random.bit_generator.state
    with pytest.raises(ValueError, match=message):
        env.reset(seed=1, options=options)
    assert env.np_random.bit_generator.state == state
    assert env.step(TOKEN)[0][:4].tolist() == before[:4].tolist(), "the text continues"


@pytest.mark.parametrize(("options", "message"), BAD_RESTARTS)
def test_invalid_vector_restarts_change_nothing(options, message):
    envs = toy_envs()
    envs.reset(seed=0)
    states = rng_states(envs)
    rows = {"example": np.array([1, options["example"], 1])} if "example" in options else {}
    if "completion" in options:
        completion = np.array(options["completion"])
        rows["completion"] = np.full((3, 8), -1, dtype=completion.dtype)
        rows["completion"][1, : len(completion)] = completion
    with pytest.raises(ValueError, match=message) as error:
        envs.reset(seed=1, options=rows)
    assert rng_states(envs) == states
    if "got" in message or "token" in message:
        assert "row 1" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": 1}, r"\(3,\), got \(\)"),
        ({"example": [1, 2]}, r"\(3,\), got \(2,\)"),
        ({"example": [1, 2, 3], "completion": [1, 2, 3]}, r"shape \(3, 8\)"),
        ({"example": [1, 2, 3], "completion": [[7], [7, 8], []]}, "pad with -1"),
    ],
)
def test_vector_restarts_of_another_shape_are_refused(options, message):
    envs = toy_envs()
    with pytest.raises(ValueError, match=message):
        envs.reset(seed=0, options=options)
    with pytest.raises(ValueError, match="one index"):
        bare("tril/Toy-v0").reset(options={"example": [1, 2]})
