"""What a key may do, as the service tells it."""

from __future__ import annotations

import pytest

from normfold.service.web.page_files import HASH
from tests.support.service import KeyedService


@pytest.mark.parametrize("scope", ["infer", "admin", "metrics"])
def test_key_of_any_scope_learns_what_it_may(keys: KeyedService, scope: str) -> None:
    assert keys.ask(scope, "GET", "/v2/me").json() == {
        "key": {"id": keys.ids[scope], "name": scope},
        "scopes": [scope],
        "changes": False,
    }


def test_page_needs_no_key_and_me_does(keys: KeyedService) -> None:
    assert keys.ask(None, "GET", "/").status_code == 200
    assert keys.ask(None, "GET", f"/page/{HASH}/app.js").status_code == 200
    assert keys.ask(None, "GET", "/v2/me").status_code == 401
    assert keys.ask("wrong", "GET", "/v2/me").status_code == 401
