"""What is kept between runs is read only if nobody but its user and root can have written it."""

import os
import stat

import pytest

from nplrp import cache

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users and modes are POSIX's")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "made" / "here"
    cache.make(place)
    return place


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_folders_are_private_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        cache.make(tmp_path / "kept")
        cache.write(tmp_path / "kept", "a", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "kept" / "a").stat().st_mode) == 0o600
    assert cache.read(tmp_path / "kept", "a") == b"content"


def test_a_file_is_replaced_whole(folder):
    for content in (b"first", b"second"):
        cache.write(folder, "a", content)
        assert cache.read(folder, "a") == content
    assert [path.name for path in folder.iterdir()] == ["a"]
    with pytest.raises(FileNotFoundError):
        cache.read(folder, "b")


def belong_to_another(path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize("how", ["owner", "group", "others", "link"])
def test_what_somebody_else_could_have_written(folder, what, how, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_told", set())
    cache.write(folder, "a", b"planted")
    path = folder if what == "folder" else folder / "a"
    if how == "owner":
        belong_to_another(path, monkeypatch)
    elif how == "link":
        path.rename(path.with_name("theirs"))
        path.symlink_to(path.with_name("theirs"))
    else:
        path.chmod(0o720 if how == "group" else 0o702)
    for _ in range(2):
        with pytest.raises(cache.ForeignError):
            cache.read(folder, "a")
    if what == "folder":
        with pytest.raises(cache.ForeignError):
            cache.make(folder)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{path}: ")
    assert "set NPLRP_CACHE" in line


def test_pipes_and_devices_are_not_waited_for(folder, tmp_path):
    os.mkfifo(folder / "pipe")
    with pytest.raises(cache.ForeignError, match="no plain file"):
        cache.read(folder, "pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        cache.read(tmp_path / "pipe", "a")
    with pytest.raises(OSError):
        cache.make(tmp_path / "pipe")


def test_hashes_are_remembered_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("NPLRP_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_told", set())
    assert cache.remembered_hash("key", lambda: "0" * 64) == "0" * 64
    assert cache.remembered_hash("key", lambda: "1" * 64) == "0" * 64
    (tmp_path / "hashes").chmod(0o777)
    assert cache.remembered_hash("key", lambda: "1" * 64) == "1" * 64
