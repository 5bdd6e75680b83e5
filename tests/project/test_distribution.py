"""The source distribution has every file of the repository, so that its tests run; the wheel has the package's data."""

import shutil
import subprocess
import sys
import tarfile
import zipfile

import paths
import pytest

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
NOT_SOURCE = {
    ".git",
    ".venv",
    "runs",
    "build",
    "dist",
    "wandb",
    "__pycache__",
    "shared",
    ".hypothesis",
    ".pytest_cache",
}


def repository_files():
    """Return the tracked files; of an unpacked distribution, all."""
    if (paths.ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True)
        return {name for name in listed.stdout.splitlines() if (paths.ROOT / name).is_file()}
    found = (path.relative_to(paths.ROOT) for path in paths.ROOT.rglob("*") if path.is_file())
    made = {"PKG-INFO", "setup.cfg"}
    return {
        path.as_posix()
        for path in found
        if not NOT_SOURCE & set(path.parts) and path.name not in made and "egg-info" not in str(path)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both in a copy of the repository; return a function from the kind to the file."""
    folder = tmp_path_factory.mktemp("distribution")
    for name in repository_files():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.ROOT / name, folder / "source" / name)

    def build(kind):
        command = [sys.executable, "-W", "ignore", "-c", BUILD, f"build_{kind}", str(folder)]
        done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder / done.stdout.splitlines()[-1]

    return build


def test_the_sdist_has_what_its_tests_need(built):
    with tarfile.open(built("sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert repository_files() - names == set()


def test_the_wheel_has_the_data_of_the_package(built):
    with zipfile.ZipFile(built("wheel")) as archive:
        names = set(archive.namelist())
    package = {name for name in repository_files() if name.startswith("tril_gym/")}
    assert package - names == set()
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
