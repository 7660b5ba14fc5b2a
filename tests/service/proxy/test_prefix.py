"""Which texts are prefixes, and which paths lie below one."""

from __future__ import annotations

import pytest

from normfold.service.proxy.prefix import check_prefix, is_under


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        *(("/ml", "/ml"), ("/ml/", "/ml"), ("/a/b-c_d.e~f/0", "/a/b-c_d.e~f/0"), ("/.well-known", "/.well-known")),
        *(("", ""), ("/", "")),
    ],
)
def test_prefix_loses_the_slash_at_its_end(text: str, prefix: str) -> None:
    assert check_prefix(text) == prefix


@pytest.mark.parametrize(
    "text",
    [
        *("ml", "//ml", "//evil.example", "/ml//", "/a//b", "/a/../b", "/..", "/a..b", "/./a", "/a/.", "/ml\n", " /ml"),
        *("/ml ", "/ml?x", "/ml#x", "/m%6c", "/mü", "/a:b", "/a,/b", "https://evil.example", "/\\evil.example", "/a\0"),
        *("/<script>", '/"', "/a;b", "/@"),
    ],
)
def test_other_texts_are_no_prefixes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path like /ml"):
        check_prefix(text)


@pytest.mark.parametrize(
    ("path", "found"),
    [("/ml", True), ("/ml/", True), ("/ml/v2", True), ("/mlx", False), ("/m", False), ("/v2/ml", False), ("/", False)],
)
def test_path_is_under_a_prefix_at_a_slash_alone(path: str, found: bool) -> None:
    assert is_under(path, "/ml") is found
