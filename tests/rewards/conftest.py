import pytest
from reward_examples import Example


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """Use one temporary cache folder for the whole run, so that fits are shared."""
    folder = tmp_path_factory.getbasetemp() / "tril_gym_cache"
    monkeypatch.setenv("TRIL_GYM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def captions():
    """Return train examples for document frequencies."""
    return [
        Example("dog ball", ("a dog runs after a ball", "the dog chases the ball")),
        Example("cat mat", ("a cat sits on the mat",)),
        Example("dog cat", ("a dog looks at the cat", "the dog and the cat sleep")),
        Example("girl ball", ("a girl throws a ball .",)),
    ]


@pytest.fixture(scope="session")
def reviews():
    """Return labelled train examples that any classifier can separate."""
    good, bad = ("great", "lovely", "superb", "moving"), ("awful", "boring", "dreadful", "stupid")
    examples = []
    for i in range(60):
        words = (bad, good)[i % 2]
        examples.append(
            Example(
                f"this film is {words[i // 2 % 4]} and",
                (f"i found the plot {words[i // 3 % 4]} , the cast {words[i // 5 % 4]} too",),
                label=i % 2,
            )
        )
    return examples
