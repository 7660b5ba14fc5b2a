"""`normfold serve --tls-cert`: HTTP and gRPC, certificates of clients, and a certificate that is renewed."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

import normfold
from normfold.cli.announcement import announce
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.command import environment_without_settings, in_one_line, run_serve, serving_process
from tests.support.raw_http import Authority, IssuedCertificate, open_unix_client
from tests.support.waiting import wait_for, wait_until_ready

ROWS = np.arange(200_000, dtype=np.float32).reshape(-1, 2)
"""A body over the size from which it is read past the parser, and a response over that of one write."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    BundleWriter(folder).identity("FP32", "same", (-1, 2))
    return folder


@pytest.mark.parametrize(
    ("tcp", "grpc_port", "auth", "says"),
    [
        (False, None, "required", ["nothing uses TLS"]),
        (False, 1, "required", ["only gRPC uses TLS"]),
        (True, None, "optional", []),
        (True, 1, "required", []),
        (True, 1, "optional", ["gRPC asks clients for no certificate"]),
        (False, 1, "optional", ["only gRPC uses TLS", "gRPC asks clients for no certificate"]),
    ],
)
def test_tls_that_does_less_than_it_seems_is_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tcp: bool,
    grpc_port: int | None,
    auth: Literal["required", "optional"],
    says: list[str],
) -> None:
    certificate = tmp_path / "certificate.pem"
    settings = Settings(tls_cert=certificate, tls_client_ca=certificate, tls_client_auth=auth, grpc_port=grpc_port)
    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as listener:
        listener.bind(("127.0.0.1", 0) if tcp else str(tmp_path / "service.sock"))
        announce([listener], as_json=False, settings=settings)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))


@contextlib.contextmanager
def serving_tls(
    repository: Path, issued: IssuedCertificate, *options: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Serve with TLS on a free port, with gRPC, until ready."""
    ports = ("--port", "0", "--grpc-port", "0", "--provider", "cpu")
    with serving_process(repository, *ports, *issued.options, *options, **variables) as (process, facts):
        yield process, facts


def https_client(facts: dict[str, Any], context: ssl.SSLContext) -> httpx.Client:
    return httpx.Client(base_url=facts["url"], verify=context, timeout=20, trust_env=False)


def infer_over_grpc(facts: dict[str, Any], credentials: grpc.ChannelCredentials) -> bool:
    tensor = triton_grpc.InferInput("input", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    args = [("grpc.use_local_subchannel_pool", 1)]
    address = f"127.0.0.1:{facts['grpc_port']}"
    with triton_grpc.InferenceServerClient(address, ssl=True, creds=credentials, channel_args=args) as client:
        return bool((client.infer("same", [tensor]).as_numpy("output") == ROWS).all())


def seen_by_http(facts: dict[str, Any]) -> bytes | None:
    """Return the certificate that a new connection of HTTP gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((facts["host"], facts["port"]), timeout=20) as connection,
        context.wrap_socket(connection) as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True)


def accepts_over_grpc(facts: dict[str, Any], trusted: bytes, *pair: bytes) -> bool:
    """Return whether a new connection of gRPC is made by a client that trusts a certificate alone."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(trusted, *pair)
    with grpc.secure_channel(f"127.0.0.1:{facts['grpc_port']}", credentials, options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1.5)
        except grpc.FutureTimeoutError:
            return False
        return True


@pytest.mark.slow
def test_tls_serves_every_client(repository: Path, authority: Authority) -> None:
    with serving_tls(repository, authority.issue(), "--workers", "1") as (process, facts):
        assert facts["url"].startswith("https://127.0.0.1:")
        context = authority.client_context()
        with https_client(facts, context) as client:
            wait_until_ready(client)
            body = {"instances": [[1, 2]]}
            assert [client.post("/v1/models/same:predict", json=body).status_code for _ in range(3)] == [200] * 3

        with normfold.Client(facts["url"], ssl_context=context) as own:
            assert (own.infer("same", {"input": ROWS})["output"] == ROWS).all()
            small = own.infer("same", {"input": ROWS[:1]}, binary=False)
            assert (small["output"] == ROWS[:1]).all()

        tensor = triton_http.InferInput("input", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
        with triton_http.InferenceServerClient(
            facts["url"].removeprefix("https://"), ssl=True, ssl_context_factory=authority.client_context
        ) as triton:
            for compression in (None, "gzip"):
                result = triton.infer("same", [tensor], request_compression_algorithm=compression)
                assert (result.as_numpy("output") == ROWS).all()

        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        assert infer_over_grpc(facts, credentials)

        curl = ["curl", "--silent", "--show-error", "--cacert", str(authority.certificate)]
        done = subprocess.run([*curl, f"{facts['url']}/v2"], capture_output=True, text=True, timeout=20, check=True)
        assert json.loads(done.stdout)["name"] == "normfold"
        old = subprocess.run(
            [*curl, "--tls-max", "1.1", "--ciphers", "ALL", f"{facts['url']}/v2"], timeout=20, check=False
        )
        assert old.returncode == 35  # no handshake

        process.terminate()
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "Traceback" not in log
    assert f"Listening on {facts['url']}" in log


@pytest.mark.slow
def test_tls_connection_that_is_no_handshake_harms_no_other(repository: Path, authority: Authority) -> None:
    with serving_tls(repository, authority.issue()) as (process, facts):
        address = (facts["host"], facts["port"])
        for sent in (b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 400, b""):
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(20)
                assert b"HTTP" not in connection.recv(1000)
        with https_client(facts, authority.client_context()) as client:
            assert client.get("/v2/health/live").status_code == 200
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert "Traceback" not in log


@pytest.mark.slow
def test_tls_service_does_not_wait_for_clients_that_keep_connections(repository: Path, authority: Authority) -> None:
    with (
        serving_tls(repository, authority.issue()) as (process, facts),
        https_client(facts, authority.client_context()) as client,
    ):
        wait_until_ready(client)
        client.get("/v2/health/live")  # its connection stays, and is not read
        process.terminate()
        assert process.wait(timeout=8) == 0


@pytest.mark.slow
@pytest.mark.parametrize("auth", ["required", "optional"])
def test_tls_client_certificate_is_checked(repository: Path, authority: Authority, tmp_path: Path, auth: str) -> None:
    known = authority.issue("known")
    stranger = Authority(tmp_path / "strangers").issue("stranger")
    options = ("--tls-client-ca", str(authority.certificate))
    issued = authority.issue()
    with serving_tls(repository, issued, *options, NORMFOLD_TLS_CLIENT_AUTH=auth) as (_, facts):
        with https_client(facts, authority.client_context(known)) as client:
            wait_until_ready(client)
        pair = (known.key.read_bytes(), known.certificate.read_bytes())
        assert infer_over_grpc(facts, grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *pair))

        with https_client(facts, authority.client_context()) as client:
            if auth == "optional":
                assert client.get("/v2/health/live").status_code == 200
            else:
                with pytest.raises(httpx.TransportError):
                    client.get("/v2/health/live")
        with https_client(facts, authority.client_context(stranger)) as client, pytest.raises(httpx.TransportError):
            client.get("/v2/health/live")
        if auth == "required":
            assert not accepts_over_grpc(facts, authority.certificate.read_bytes())

        checked = environment_without_settings(
            NORMFOLD_PORT=str(facts["port"]),
            NORMFOLD_TLS_CERT=str(issued.certificate),
            NORMFOLD_TLS_KEY=str(issued.key),
            NORMFOLD_TLS_CLIENT_CA=str(authority.certificate),
        )
        probe = [sys.executable, "-m", "normfold.service.healthcheck"]
        assert subprocess.run(probe, env=checked, timeout=20, check=False).returncode == 0


def install(issued: IssuedCertificate, target: IssuedCertificate) -> None:
    target.certificate.write_bytes(issued.certificate.read_bytes())
    target.key.write_bytes(issued.key.read_bytes())


@pytest.mark.slow
def test_tls_certificate_is_renewed_under_load_and_a_wrong_one_is_not_taken(
    repository: Path, authority: Authority, tmp_path: Path
) -> None:
    first, second = authority.issue("first"), Authority(tmp_path / "next").issue("second")
    files = IssuedCertificate(tmp_path / "certificate.pem", tmp_path / "key.pem")
    install(first, files)
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_verify_locations(second.certificate.parent / "authority.pem")
    trusts = {one.certificate: (one.certificate.parent / "authority.pem").read_bytes() for one in (first, second)}
    with serving_tls(repository, files, "--workers", "2", "--uds", str(tmp_path / "s")) as (process, facts):
        with https_client(facts, context) as client, open_unix_client(facts["uds"]) as local:
            wait_until_ready(client)
            wait_until_ready(local)  # without TLS
        answers, end = [], threading.Event()

        def ask() -> None:
            with https_client(facts, context) as client:
                for number in range(10**9):
                    if end.is_set():
                        return
                    headers = {"Connection": "close"} if number % 3 == 0 else {}
                    answer = client.post("/v1/models/same:predict", json={"instances": [[1, 2]]}, headers=headers)
                    answers.append(answer.status_code)

        with https_client(facts, context) as kept, contextlib.ExitStack() as stack:
            kept.get("/v2/health/live")
            asking = threading.Thread(target=ask)
            stack.callback(asking.join)
            stack.callback(end.set)
            asking.start()
            install(second, files)
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: {seen_by_http(facts) for _ in range(6)} == {second.der})
            wait_for(lambda: accepts_over_grpc(facts, trusts[second.certificate]))
            assert not any(accepts_over_grpc(facts, trusts[first.certificate]) for _ in range(2))
            assert kept.get("/v2/health/live").status_code == 200

            files.key.write_bytes(first.key.read_bytes())
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            line = next(line for line in process.stderr if "stays in use" in line)
        assert "begins with a certificate of another key" in line
        assert seen_by_http(facts) == second.der
        assert accepts_over_grpc(facts, trusts[second.certificate])
        assert set(answers) == {200}


@pytest.mark.slow
def test_tls_authority_of_clients_is_replaced_by_a_reload(
    repository: Path, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    before, after = authority.issue("before"), other.issue("after")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    with serving_tls(repository, authority.issue(), "--tls-client-ca", str(trusted)) as (process, facts):
        with https_client(facts, authority.client_context(before)) as client:
            wait_until_ready(client)
        trusted.write_bytes(other.certificate.read_bytes())
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        next(line for line in process.stderr if "new connections use the certificate" in line)
        with https_client(facts, authority.client_context(after)) as client:
            assert client.get("/v2/health/live").status_code == 200
        with https_client(facts, authority.client_context(before)) as client, pytest.raises(httpx.TransportError):
            client.get("/v2/health/live")
        pem = authority.certificate.read_bytes()
        assert accepts_over_grpc(facts, pem, after.key.read_bytes(), after.certificate.read_bytes())
        assert not accepts_over_grpc(facts, pem, before.key.read_bytes(), before.certificate.read_bytes())


@pytest.mark.slow
def test_tls_file_that_cannot_be_used_ends_the_command_with_one_sentence(
    repository: Path, authority: Authority
) -> None:
    wrong = IssuedCertificate(authority.issue().certificate, authority.issue("other").key)
    done = run_serve("--repository", str(repository), "--port", "0", "--workers", "2", *wrong.options)
    assert done.returncode == 2
    sentence = in_one_line(done.stderr).replace(" ", "")
    assert f"Thefile'{wrong.certificate}'of--tls-certbeginswithacertificateofanotherkey" in sentence
    assert "Traceback" not in done.stderr
