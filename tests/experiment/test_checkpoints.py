"""Checkpoints: damage is found by checksums, the newest whole one is used, files of others are left alone."""

import json
import logging

import pytest

from tril_gym.experiment.checkpoints import Checkpoints, damage_of


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", unit="iteration")


def fill(text):
    def write(folder):
        (folder / "policy").mkdir(parents=True)
        (folder / "policy" / "model.safetensors").write_text(text)
        (folder / "agent.json").write_text("{}")

    return write


def save(checkpoints, *numbers, keep=9):
    return [checkpoints.save(number, fill(f"weights {number}"), keep=keep) for number in numbers]


def names(checkpoints):
    return [path.name for path in checkpoints.found()]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "policy/model.safetensors is not what was written": lambda path: flip_a_byte(path / "policy" / "model.safetensors"),
    "agent.json is missing": lambda path: (path / "agent.json").unlink(),
    "checksums.json cannot be read": lambda path: (path / "checksums.json").write_text("{"),
    "agent.json is not what": lambda path: (path / "agent.json").write_bytes(b""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_newest_whole_one_is_used_and_the_broken_named(checkpoints, tmp_path, caplog, name):
    save(checkpoints, 1, 2, 3)
    assert damage_of(checkpoints.path(3)) is None
    DAMAGE[name](checkpoints.path(3))
    assert name in damage_of(checkpoints.path(3))
    with caplog.at_level(logging.WARNING):
        again = Checkpoints(tmp_path / "checkpoints", unit="iteration")  # another process has nothing in memory
        assert again.newest_whole() == checkpoints.path(2)
    assert "iteration-000003 is damaged" in caplog.text
    assert name in caplog.text


def test_only_broken_ones_are_refused(checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    for number in (1, 2):
        flip_a_byte(checkpoints.path(number) / "agent.json")
    with pytest.raises(ValueError, match=r"iteration-000002 is damaged .*agent.json.* to start this run over"):
        Checkpoints(tmp_path / "checkpoints", unit="iteration").newest_whole()


def test_a_broken_one_is_replaced(checkpoints):
    save(checkpoints, 1, 2)
    flip_a_byte(checkpoints.path(2) / "agent.json")
    save(checkpoints, 2)
    assert damage_of(checkpoints.path(2)) is None
    assert names(checkpoints) == ["iteration-000001", "iteration-000002"]


def test_none_is_no_error(checkpoints):
    assert checkpoints.newest_whole() is None


def test_what_a_newer_version_wrote_is_refused(checkpoints):
    (path,) = save(checkpoints, 1)
    manifest = json.loads((path / "checksums.json").read_text())
    (path / "checksums.json").write_text(json.dumps(manifest | {"version": "9.0.1"}))
    with pytest.raises(ValueError, match=r"tril-gym 9\.0\.1 wrote .*iteration-000001"):
        damage_of(path)


def test_names_are_exact_and_sorted_by_number(checkpoints):
    save(checkpoints, 999_999, 1_000_000)
    for name in ("iteration-000007.bak", "iteration-7", "iteration-00000x", "step-000009", ".iteration-000008.x"):
        (checkpoints.folder / name).mkdir()
    (checkpoints.folder / "iteration-000006").write_text("a file")
    assert names(checkpoints) == ["iteration-999999", "iteration-1000000"]
    save(checkpoints, 1_000_001, keep=1)
    assert names(checkpoints) == ["iteration-1000001"]
    assert len(list(checkpoints.folder.iterdir())) == 7  # the others are there


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_are_kept_as_asked(checkpoints, keep):
    save(checkpoints, *range(5), keep=keep)
    assert names(checkpoints) == [f"iteration-{number:06d}" for number in range(5 - keep, 5)]


def test_an_old_one_that_is_a_link_is_unlinked(checkpoints, tmp_path):
    (path,) = save(checkpoints, 1)
    path.rename(tmp_path / "archive")
    path.symlink_to(tmp_path / "archive")
    assert checkpoints.newest_whole() == path
    save(checkpoints, 2, 3, keep=2)
    assert names(checkpoints) == ["iteration-000002", "iteration-000003"]
    assert damage_of(tmp_path / "archive") is None


def test_a_failed_save_changes_nothing(checkpoints):
    save(checkpoints, 1)

    def fail(folder):
        fill("half")(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, fail, keep=1)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["iteration-000001"]
