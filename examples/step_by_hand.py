"""Step an environment by hand: write a text token by token, then restart in the middle of it.

Shows observations, actions, rewards and infos; no agent and no torch needed.
"""

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)


def main(example: int = 3) -> float:
    env = gym.make("tril/CommonGen-v0", render_mode="ansi")
    tokenizer = env.unwrapped.tokenizer
    eos = env.metadata["text"]["eos_token_ids"][0]

    # Reset to a given example, and write its first reference.
    observation, info = env.reset(seed=0, options={"example": example})
    print(info["prompt"])
    print("tokens of the prompt:", observation[observation >= 0])
    tokens = tokenizer(" " + info["references"][0], add_special_tokens=False)["input_ids"]
    for token in [*tokens, eos]:
        observation, reward, terminated, truncated, info = env.step(token)
    print(env.render())
    print(f"{info['finish_reason']}, {len(info['tokens'])} tokens, reward {reward:.3f} from {info['scores']}\n")
    assert terminated
    assert not truncated  # only limits outside the task truncate, such as a TimeLimit wrapper
    whole = reward

    # Restart in the middle of the same text: no step is needed, and the cost does not depend on the length.
    half = tokens[: len(tokens) // 2]
    observation, info = env.reset(options={"example": example, "completion": half})
    print(env.render())

    # Continue differently: end the text.
    observation, reward, terminated, truncated, info = env.step(eos)
    print(env.render())
    assert terminated
    assert info["tokens"] == [*half, eos]
    print(f"reward of half of the text {reward:.3f}, of the whole text {whole:.3f}")
    return whole - reward


if __name__ == "__main__":
    main()
