"""The roles of versions: what starting, ending and promoting change, and what worker processes exchange."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from normfold.service.repository.roles import ROLES_NAME, Candidate, Roles, RoleState, RolloutKind
from normfold.service.rollout_options import RolloutOption, parse_rollouts
from normfold.service.settings import Settings
from tests.support.service import LogRecords


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_roles_of_each_change(kind: RolloutKind) -> None:
    started = RoleState().started(kind, 2, 0.5)
    assert started.candidate(kind) == Candidate(2, 0.5)
    assert [started.role(version) for version in (1, 2)] == ["serving", kind]
    ended = started.finished(kind)
    assert (ended.candidate(kind), ended.role(2), ended.promoted) == (None, "ended", ())
    promoted = started.with_promoted(kind)
    assert (promoted.candidate(kind), promoted.role(2), promoted.promoted) == (None, "serving", (2,))
    again = ended.started(kind, 2, 0.1)
    assert (again.role(2), again.ended) == (kind, ())
    other = started.started(kind, 3, 0.1)
    assert [other.role(version) for version in (2, 3)] == ["ended", kind]


def test_roles_survive_json() -> None:
    state = RoleState(Candidate(2, 0.5), Candidate(3, 1.0), (4, 5), (6,))
    for one in (state, RoleState()):
        assert RoleState.from_record(orjson.loads(orjson.dumps(one.to_record()))) == one


def test_roles_begin_with_the_options() -> None:
    settings = Settings(shadow="digits=2,rows=3:0.25", canary="digits=4:0.05")  # type: ignore[arg-type]
    states = Roles(settings).states
    assert states["digits"] == RoleState(Candidate(2, 1.0), Candidate(4, 0.05))
    assert states["rows"] == RoleState(Candidate(3, 0.25))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("digits", "is not NAME=VERSION:SHARE"),
        ("=2:0.1", "is not NAME=VERSION:SHARE"),
        ("../x=2:0.1", "is not NAME=VERSION:SHARE"),
        ("digits=:0.1", "names no version"),
        ("digits=0:0.1", "names no version"),
        ("digits=-1:0.1", "names no version"),
        ("digits=two:0.1", "names no version"),
        ("digits=2", "has no share"),
        ("digits=2:", "not a number from 0 to 1"),
        ("digits=2:x", "not a number from 0 to 1"),
        ("digits=2:-0.1", "must be from 0 to 1"),
        ("digits=2:1.01", "must be from 0 to 1"),
        ("digits=2:inf", "must be from 0 to 1"),
        ("digits=2:nan", "must be from 0 to 1"),
    ],
)
def test_wrong_option_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_rollouts([text], None)


def test_option_of_a_model_that_is_given_twice_is_refused() -> None:
    assert parse_rollouts(["a=2:0", "b=2:1"], None)["b"] == RolloutOption("b", 2, 1.0)
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_rollouts(["a=2:0", "a=3:1"], None)


def test_version_cannot_be_the_shadow_and_the_canary() -> None:
    with pytest.raises(ValueError, match="cannot be its shadow and its canary"):
        Settings(shadow="digits=2", canary="digits=2:0.1")  # type: ignore[arg-type]


def test_change_by_request_outlasts_a_restart_until_the_options_change(tmp_path: Path) -> None:
    def roles(**options: str) -> Roles:
        return Roles(Settings(state_dir=tmp_path, **options))  # type: ignore[arg-type]

    first = roles(canary="digits=2:0.05")
    first.set("digits", first.of("digits").with_promoted("canary"))
    first.set("rows", RoleState().started("shadow", 3, 1.0))

    again = roles(canary="digits=2:0.05")
    assert again.of("digits") == RoleState(promoted=(2,))
    assert again.of("rows") == RoleState(Candidate(3, 1.0))
    assert roles(canary="digits=2:0.5").of("digits") == RoleState(canary=Candidate(2, 0.5))
    assert roles().of("digits") == RoleState()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digits": 1}', '{"digits": {"roles": {"shadow": 1}}}', "\xff"])
def test_broken_file_of_roles_leaves_the_options(tmp_path: Path, text: str) -> None:
    (tmp_path / ROLES_NAME).write_text(text)
    assert Roles(Settings(state_dir=tmp_path, shadow="digits=2")).of("digits").role(2) == "shadow"  # type: ignore[arg-type]


def test_roles_that_cannot_be_saved_still_hold(tmp_path: Path, lines: LogRecords) -> None:
    roles = Roles(Settings(state_dir=tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    roles.set("digits", RoleState().started("shadow", 2, 1.0))
    assert roles.of("digits").role(2) == "shadow"
    assert "hold until the service ends" in lines.records[-1].getMessage()
