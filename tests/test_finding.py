"""Which files of a folder are read: patterns, links, what is hidden, and what can't be looked at."""

import pytest
from conftest import deny_listing

from server.folders.finding import find_sources
from server.folders.ignoring import PatternError, rules_for
from server.folders.watching import is_remote
from server.incoming import Skips


def make(folder, *names, **contents):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents.get(name, f"words in {name}"))


def look(folder, *patterns, gits=True):
    skips = Skips()
    found = find_sources([folder], skips.add, rules=rules_for(patterns, gits))
    names = [source.path.relative_to(folder).as_posix() for source in found.sources]
    return names, found, [(each.source, each.reason) for each in skips.first]


def test_patterns_are_those_of_gitignore(tmp_path):
    make(tmp_path, "a.md", "b.txt", "drafts/c.md", "sub/drafts/d.md", "sub/a.md", "deep/er/e.txt")
    assert look(tmp_path, "drafts/")[0] == ["a.md", "b.txt", "deep/er/e.txt", "sub/a.md"]
    assert look(tmp_path, "/a.md", "*.txt", "!b.txt")[0] == [
        "b.txt",
        "drafts/c.md",
        "sub/a.md",
        "sub/drafts/d.md",
    ]
    assert look(tmp_path, "**/er/*.txt", "sub/*")[0] == ["a.md", "b.txt", "drafts/c.md"]
    _, found, _ = look(tmp_path, "drafts/", "b.txt")
    assert found.left_out == 3


def test_files_of_patterns_hold_from_their_folder_on_and_the_nearest_counts_most(tmp_path):
    make(tmp_path, "a.txt", "sub/a.txt", "sub/b.txt", "sub/deep/a.txt")
    (tmp_path / ".gitignore").write_text("a.txt\n")
    (tmp_path / "sub/.twopassignore").write_text("# not this\n!a.txt\n/b.txt\n")
    assert look(tmp_path)[0] == ["sub/a.txt", "sub/deep/a.txt"]
    assert look(tmp_path, gits=False)[0] == ["a.txt", "sub/a.txt", "sub/deep/a.txt"]
    assert look(tmp_path, "deep")[0] == ["sub/a.txt"]
    assert look(tmp_path, "!/a.txt")[0] == ["a.txt", "sub/a.txt", "sub/deep/a.txt"]


def test_twopassignore_counts_more_than_gitignore_beside_it(tmp_path):
    make(tmp_path, "a.txt", "b.txt")
    (tmp_path / ".gitignore").write_text("*.txt\n")
    (tmp_path / ".twopassignore").write_text("!b.txt\n")
    assert look(tmp_path)[0] == ["b.txt"]


def test_what_is_hidden_is_counted_and_its_patterns_are_not_asked(tmp_path):
    make(tmp_path, "a.txt", ".git/config.txt", ".obsidian/x.md", ".hidden.txt")
    names, found, skipped = look(tmp_path)
    assert (names, found.hidden, skipped) == (["a.txt"], 3, [])


def test_a_bad_pattern_is_named_and_the_others_hold(tmp_path):
    make(tmp_path, "a.txt", "b.txt")
    (tmp_path / ".twopassignore").write_text("a.txt\n!\n")
    names, _, [(source, reason)] = look(tmp_path)
    assert names == ["b.txt"]
    assert source == str(tmp_path / ".twopassignore") and reason.startswith("its line 2 is no pattern: ")
    with pytest.raises(PatternError):
        rules_for(["!"])


def test_links_are_followed_to_files_of_the_same_folder_only(tmp_path):
    make(tmp_path, "in/a.txt", "out/b.txt")
    (tmp_path / "in/inside.txt").symlink_to(tmp_path / "in/a.txt")
    (tmp_path / "in/outside.txt").symlink_to(tmp_path / "out/b.txt")
    (tmp_path / "in/folder").symlink_to(tmp_path / "out")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    names, found, skipped = look(tmp_path / "in")
    assert (names, found.links, skipped) == (["a.txt"], 3, [])


def test_a_folder_of_any_depth_is_walked(tmp_path):
    here = tmp_path
    for _ in range(200):
        here = here / "d"
        here.mkdir()
    (here / "a.txt").write_text("deep")
    assert look(tmp_path)[0] == ["d/" * 200 + "a.txt"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    make(tmp_path, "a.txt", "shut/b.txt")
    deny_listing(monkeypatch, "shut")
    names, found, skipped = look(tmp_path)
    assert names == ["a.txt"]
    assert skipped == [(str(tmp_path / "shut"), "may not be read: permission denied")]
    assert found.unlisted == [tmp_path / "shut"]


def test_a_file_name_with_all_that_a_name_may_have_is_found(tmp_path):
    names = [
        "  spaces .txt",
        "new\nline.txt",
        "quote'\".txt",
        "ünï.txt",
        "#1.md",
        "%41.txt",
        "-x.txt",
        "😀.md",
    ]
    for name in names:
        (tmp_path / name).write_text("x")
    assert sorted(look(tmp_path)[0]) == sorted(names)


def test_a_network_disk_is_recognised(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nnas:/share /mnt/my\\040nas nfs4 rw 0 0\ntmpfs /mnt/my\\040nas/tmp tmpfs rw 0 0\n"
    )
    from pathlib import Path

    assert is_remote(Path("/mnt/my nas/notes"), mounts)
    assert not is_remote(Path("/mnt/my nas/tmp/x"), mounts)
    assert not is_remote(Path("/home/me"), mounts)
    assert not is_remote(Path("/home/me"), tmp_path / "none")
