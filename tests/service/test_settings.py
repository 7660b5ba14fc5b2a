"""Settings, the limits of processors, and the format of log lines."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from normfold.service.errors import SettingsError
from normfold.service.logs import FACTS, REQUEST_ID, JsonFormatter, TextFormatter
from normfold.service.runtime.cpu_limits import available_processors
from normfold.service.runtime.providers.session_request import as_text
from normfold.service.settings import Settings, load_settings


def test_every_field_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_environment_is_read_and_arguments_override_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_PORT", "81")
    monkeypatch.setenv("NORMFOLD_HOST", "::1")
    settings = load_settings(port=82, host=None)
    assert (settings.port, settings.host) == (82, "::1")


@pytest.mark.parametrize(
    ("name", "near"), [("NORMFOLD_PROT", "'NORMFOLD_PORT'"), ("normfold_max_body_byte", "'NORMFOLD_MAX_BODY_BYTES'")]
)
def test_unknown_variable_is_rejected_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"{name!r} is not known; did you mean {near}"):
        load_settings()


def test_variable_of_another_command_is_no_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_CLIENT_KEY", "secret")
    assert load_settings().keys is None
    monkeypatch.setenv("NORMFOLD_CLIENT_KEYS", "keys.json")
    with pytest.raises(SettingsError, match="'NORMFOLD_CLIENT_KEYS' is not known"):
        load_settings()


def test_unknown_variable_without_a_near_match_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_QQQQQQQQ", "1")
    with pytest.raises(SettingsError, match=r"known are NORMFOLD_ACCESS_LOG, .*NORMFOLD_REPOSITORY"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "x"), ("PORT", "65536"), ("PROVIDER", "tpu"), ("MAX_BODY_BYTES", "0"), ("INTRA_OP_THREADS", "0")],
)
def test_invalid_value_names_variable_or_argument(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"NORMFOLD_{name}", value)
    with pytest.raises(SettingsError, match=f"^NORMFOLD_{name} is wrong: "):
        load_settings()
    with pytest.raises(SettingsError, match=f"^NORMFOLD_{name} is wrong: "):
        load_settings(**{name.lower(): None})  # as a command that has this option, and was not given it
    with pytest.raises(SettingsError, match=f"^`{name.lower()}` is wrong: ") as caught:
        load_settings(**{name.lower(): value})
    assert caught.value.on_command_line({}).startswith(f"--{name.lower().replace('_', '-')} is wrong: ")


def test_provider_options_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_PROVIDER", "cuda")
    monkeypatch.setenv("NORMFOLD_PROVIDER_OPTIONS", '{"gpu_mem_limit": 1000, "use_tf32": true, "a": "b", "c": 0.5}')
    monkeypatch.setenv("NORMFOLD_DEVICE_ID", "1")
    settings = load_settings()
    assert settings.device_id == 1
    assert as_text(settings.provider_options) == {"gpu_mem_limit": "1000", "use_tf32": "True", "a": "b", "c": "0.5"}


@pytest.mark.parametrize("option", ["enable_cuda_graph", "trt_cuda_graph_enable"])
@pytest.mark.parametrize("value", [1, True, "1", "true", "True"])
def test_provider_options_cannot_turn_on_graphs_for_all_runs(option: str, value: str | int | bool) -> None:
    with pytest.raises(SettingsError, match=f"`provider_options` is wrong: {option} cannot be turned on for all runs"):
        load_settings(provider="cuda", provider_options={option: value})


@pytest.mark.parametrize("value", [0, False, "0", "False"])
def test_provider_options_may_turn_graphs_off(value: str | int | bool) -> None:
    options = {"enable_cuda_graph": value}
    assert load_settings(provider="cuda", provider_options=options).provider_options == options


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_tf32_is_rejected_where_no_provider_uses_it(provider: str) -> None:
    assert load_settings(provider=provider, tf32="off").tf32 == "off"
    with pytest.raises(SettingsError, match=f"the provider '{provider}' does not use it"):
        load_settings(provider=provider, tf32="on")


@pytest.mark.parametrize("text", ["gpu_mem_limit=1", "[1]", '{"a": [1]}', '{"a": null}'])
def test_provider_options_that_are_not_a_json_object_are_rejected(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NORMFOLD_PROVIDER", "cuda")
    monkeypatch.setenv("NORMFOLD_PROVIDER_OPTIONS", text)
    with pytest.raises(
        SettingsError,
        match="^NORMFOLD_PROVIDER_OPTIONS is wrong: it must be a JSON object of plain values",
    ):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "provider"),
    [
        ("PROVIDER_OPTIONS", '{"a": 1}', "auto"),
        ("PROVIDER_OPTIONS", '{"a": 1}', "cpu"),
        ("DEVICE_ID", "1", "cpu"),
        ("DEVICE_ID", "1", "openvino"),
        ("DEVICE_ID", "-1", "cuda"),
    ],
)
def test_options_that_the_provider_does_not_use_are_rejected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, provider: str
) -> None:
    monkeypatch.setenv("NORMFOLD_PROVIDER", provider)
    monkeypatch.setenv(f"NORMFOLD_{name}", value)
    with pytest.raises(SettingsError, match=f"^NORMFOLD_{name} "):
        load_settings()


@pytest.mark.parametrize("provider", ["cpu", "auto", "openvino"])
def test_default_options_are_valid_with_every_provider(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv("NORMFOLD_PROVIDER_OPTIONS", "{}")
    monkeypatch.setenv("NORMFOLD_DEVICE_ID", "0")
    assert load_settings(provider=provider).provider_options == {}


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.example", ("https://a.example",)),
        (" https://A.example:8443 ,http://localhost:3000,", ("https://a.example:8443", "http://localhost:3000")),
    ],
)
def test_origins_are_joined_by_commas(monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...]) -> None:
    monkeypatch.setenv("NORMFOLD_CORS_ORIGINS", value)
    assert load_settings().cors_origins == origins


@pytest.mark.parametrize("value", ["a.example", "https://a.example/", "https://a.example/x", '["https://a.example"]'])
def test_invalid_origin_is_rejected(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NORMFOLD_CORS_ORIGINS", value)
    with pytest.raises(
        SettingsError, match="is wrong: '.*' is neither \\* nor an origin like https://app.example:8443"
    ):
        load_settings()


def test_prefix_and_trusted_proxies_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_ROOT_PATH", "/ml/")
    monkeypatch.setenv("NORMFOLD_FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1,")

    settings = load_settings(proxy_headers=True)

    assert (settings.root_path, settings.proxy_headers) == ("/ml", True)
    assert settings.forwarded_allow_ips == ("10.0.0.0/8", "::1")
    assert load_settings(forwarded_allow_ips="*").forwarded_allow_ips == ("*",)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ROOT_PATH", "ml", "'ml' is not a path like /ml"),
        ("ROOT_PATH", "//evil.example", "'//evil.example' is not a path like /ml"),
        ("ROOT_PATH", "/a/../b", "'/a/../b' is not a path like /ml: .*, without '//' and '..'[.]$"),
        ("FORWARDED_ALLOW_IPS", "nginx", "'nginx' is neither an IP address"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8", "'10.0.0.1/8' is neither an IP address"),
    ],
)
def test_invalid_prefix_or_proxy_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(f"NORMFOLD_{name}", value)
    with pytest.raises(SettingsError, match=f"NORMFOLD_{name} is wrong: {says}"):
        load_settings()


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def cgroup(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "sys/fs/cgroup/cpu,cpuacct"
QUOTAS = {
    "v2": ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
    "v2, quota above": (
        "0::/a/b\n",
        {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"},
        3,
    ),
    "v2, in a container": ("0::/../../outside\n", {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    "v2, none": ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
    "v2, less than one": ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    "v1": (
        "9:cpuset:/\n4:cpu,cpuacct:/docker/x\n",
        {f"{V1}/docker/x/cpu.cfs_quota_us": "400000", f"{V1}/docker/x/cpu.cfs_period_us": "100000"},
        4,
    ),
    "v1, path of the host": (
        "4:cpu,cpuacct:/docker/x\n",
        {f"{V1}/cpu.cfs_quota_us": "200000", f"{V1}/cpu.cfs_period_us": "100000"},
        2,
    ),
    "v1, none": ("4:cpu,cpuacct:/\n", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, 8),
    "damaged": ("0::/\n", {"sys/fs/cgroup/cpu.max": "what\n"}, 8),
    "no cgroup": ("", {}, 8),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_available_processors_follow_the_cgroup_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    membership, files, expected = QUOTAS[case]
    monkeypatch.setattr("normfold.service.runtime.cpu_limits._affinity", lambda: 8)
    assert available_processors(cgroup(tmp_path, membership, files)) == expected


def test_available_processors_follow_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.service.runtime.cpu_limits._affinity", lambda: 1)
    assert available_processors(cgroup(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000"})) == 1
    assert available_processors(tmp_path / "nothing") == 1


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("service.test", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_log_line_has_the_request_id_and_fields() -> None:
    token = REQUEST_ID.set("r-1")
    try:
        line = JsonFormatter().format(record("two\nlines", **{FACTS: {"status": 200}}))
    finally:
        REQUEST_ID.reset(token)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "info",
        "logger": "service.test",
        "message": "two\nlines",
        "request_id": "r-1",
        "status": 200,
    }


def test_json_log_line_holds_the_traceback() -> None:
    try:
        raise ZeroDivisionError("planted")
    except ZeroDivisionError:
        failed = record("failed", exc_info=sys.exc_info())
    fields = json.loads(JsonFormatter().format(failed))
    assert "planted" in fields["traceback"]
    assert "request_id" not in fields


def test_text_log_line_has_time_level_and_message() -> None:
    assert TextFormatter().format(record("hello")).endswith("INFO    hello")


@pytest.mark.parametrize(
    ("given", "hosts"),
    [("127.0.0.1", ("127.0.0.1",)), ("127.0.0.1,::1", ("127.0.0.1", "::1")), (" 0.0.0.0 , :: ", ("0.0.0.0", "::"))],
)
def test_host_may_be_several_joined_by_commas(monkeypatch: pytest.MonkeyPatch, given: str, hosts: tuple[str]) -> None:
    monkeypatch.setenv("NORMFOLD_HOST", given)
    assert load_settings().hosts == hosts


@pytest.mark.parametrize("given", ["", " "])
def test_host_that_is_empty_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    with pytest.raises(SettingsError, match="^`host` is wrong: it is empty; leave it out"):
        load_settings(host=given)
    monkeypatch.setenv("NORMFOLD_HOST", given)
    with pytest.raises(SettingsError, match="^NORMFOLD_HOST is wrong: it is empty; leave it out"):
        load_settings()


@pytest.mark.parametrize("given", [",", "127.0.0.1,", "127.0.0.1,,::1"])
def test_host_without_an_address_between_commas_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="has an empty address"):
        load_settings(host=given)


@pytest.mark.parametrize("given", ["66", "668", "rw-", "1777", ""])
def test_uds_permissions_that_are_not_octal_are_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="is not octal"):
        load_settings(uds_permissions=given)
