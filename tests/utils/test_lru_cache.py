from tril_gym.utils.lru_cache import LRUCache


def test_missing_results_are_computed_once_in_one_call():
    calls = []

    def lengths(keys):
        calls.append(keys)
        return [len(key) for key in keys]

    cache = LRUCache(size=8)
    assert cache.get_many(["a", "bb", "a"], lengths) == [1, 2, 1]
    assert cache.get_many(["bb", "ccc"], lengths) == [2, 3]
    assert cache.get_many(["a"], lengths) == [1]
    assert calls == [["a", "bb"], ["ccc"]]


def test_the_least_recently_used_result_is_dropped():
    cache = LRUCache(size=2)
    for key in "ab":
        cache.get(key, lambda key=key: key)
    cache.get("a", lambda: "never computed")
    cache.get("c", lambda: "c")
    assert cache.get("a", lambda: "new") == "a"
    assert cache.get("b", lambda: "new") == "new"


def test_one_batch_may_exceed_the_size():
    cache = LRUCache(size=2)
    assert cache.get_many(range(5), lambda keys: [key * key for key in keys]) == [0, 1, 4, 9, 16]
    assert cache.get(4, lambda: "new") == 16
    assert cache.get(0, lambda: "new") == "new"
