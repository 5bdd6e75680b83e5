"""Atomic writers: a failure changes nothing, leftovers are removed, files of the user are kept."""

import json
import tempfile
from pathlib import Path

import pytest

from tril_gym.utils import atomic_files


def write_version(text: str):
    def fill(folder: Path) -> None:
        (folder / "mark.json").write_text(text)

    return fill


def fail(path: Path) -> None:
    (path / "half" if path.is_dir() else path).write_text("half")
    raise RuntimeError("disk full")


def test_a_folder_replaces_an_older_one_of_its_kind(tmp_path):
    folder = tmp_path / "new" / "saved"
    for text in ("1", "2"):
        atomic_files.write_folder(folder, write_version(text), mark="mark.json")
    assert (folder / "mark.json").read_text() == "2"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    folder = tmp_path / "saved"
    atomic_files.write_folder(folder, write_version("1"), mark="mark.json")
    with pytest.raises(RuntimeError, match="disk full"):
        atomic_files.write_folder(folder, fail, mark="mark.json")
    assert [path.name for path in folder.iterdir()] == ["mark.json"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_whose_replacement_fails_has_its_name_again(tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    atomic_files.write_folder(folder, write_version("1"), mark="mark.json")
    rename = Path.rename

    def stopped(path, target):  # between the two renamings
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        atomic_files.write_folder(folder, write_version("2"), mark="mark.json")
    assert (folder / "mark.json").read_text() == "1"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_the_user_is_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains other files"):
        atomic_files.write_folder(tmp_path, write_version("1"), mark="mark.json")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "figures.json"
    atomic_files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="disk full"):
        atomic_files.replace_file(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_of_killed_writers_are_removed(tmp_path):
    """Each draft has a name of its own, so two writers never share one."""
    for _ in range(2):  # a killed writer: the block is never left
        draft = Path(tempfile.mkdtemp(prefix=".config.yaml.", suffix=atomic_files.DRAFT, dir=tmp_path))
        (draft / "config.yaml").write_text("half")
    with atomic_files.scratch_folder(tmp_path / "config.yaml") as other:
        assert atomic_files.is_draft(other)
    for name in ("config.yaml", ".hidden", "mine.draft"):
        (tmp_path / name).touch()
    atomic_files.remove_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", ".hidden", "mine.draft"}
    atomic_files.remove_drafts(tmp_path / "nowhere")


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic_files, "flush", lambda path: flushed.append((path.name, (tmp_path / "saved").exists())))
    atomic_files.write_folder(tmp_path / "saved", write_version("1"), mark="mark.json")
    assert flushed[:2] == [("mark.json", False), ("new", False)]
    assert flushed[2:] == [(tmp_path.name, True)]  # then the name


def test_a_link_is_replaced_and_moves_with_its_target(tmp_path):
    home = tmp_path / "home"
    for name in ("1", "2"):
        (home / name).mkdir(parents=True)
        (home / name / "mark").write_text(name)
        atomic_files.replace_link(home / "newest", home / name)
        assert (home / "newest" / "mark").read_text() == name
    home.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "newest" / "mark").read_text() == "2"
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == ["1", "2", "newest"]


def test_a_folder_in_a_forbidden_one_is_refused(forbidden):
    with pytest.raises(ValueError, match=r"cannot be created: .*forbidden is no folder that you may write to"):
        atomic_files.write_folder(forbidden / "new" / "model", lambda folder: None)


def test_a_folder_in_a_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes.txt is no folder that you may write to"):
        atomic_files.write_folder(tmp_path / "notes.txt" / "model", lambda folder: None)
