"""The checks after the worker's packages were installed on top of an engine's."""

from builder.install import PackageFile, changed_files, changed_packages, missing_packages


def test_a_changed_and_a_lost_package_are_named():
    assert changed_packages({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "2.1", "d": "4"}) == [
        "b was 2 in the engine's image and is 2.1 now.",
        "c was 3 in the engine's image and is gone now.",
    ]


def test_an_overwritten_file_is_named_if_its_content_changed():
    before = {"/a/x.py": PackageFile("a", "1"), "/a/y.py": PackageFile("a", "2")}
    added = {
        "/a/x.py": PackageFile("b", "1"),
        "/a/y.py": PackageFile("b", "3"),
        "/b.py": PackageFile("b", "4"),
    }
    assert changed_files(before, added) == ["b overwrites /a/y.py of a in the engine's image."]


def test_a_missing_package_is_named_if_this_platform_needs_it():
    lock = (
        "Foo_x==1 ; sys_platform == 'linux' \\\n    --hash=sha256:0\nbar==2 ; sys_platform == 'x'\n"
    )
    assert missing_packages(lock, {}) == ["Foo_x is in the lock and not in the image."]
    assert missing_packages(lock, {"foo-x": "1"}) == []
