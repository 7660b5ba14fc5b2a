"""Certificates of the service: which files are refused, and what a reload changes."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from normfold.service.errors import SettingsError, TlsError
from normfold.service.network.tls import Certificates
from normfold.service.network.tls_check import handshake
from normfold.service.settings import load_settings
from tests.support.raw_http import Authority, IssuedCertificate, openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def issued(authority: Authority) -> IssuedCertificate:
    return authority.issue()


def load(certificate: Path, key: Path | None, **more: object) -> Certificates:
    return Certificates(load_settings(tls_cert=certificate, tls_key=key, **more))


def shake_hands(
    certificates: Certificates,
    context: ssl.SSLContext,
    name: str | None = None,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLObject:
    """Return the side of a client after a handshake in memory, and after the tickets of TLS 1.3."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    server.write(b"x")
    assert client.read() == b"x"
    return client


def seen_certificate(certificates: Certificates, name: str | None = None) -> bytes | None:
    """Return the certificate that a client sees, whether it names the host or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return shake_hands(certificates, context, name).getpeercert(binary_form=True)


def test_tls_certificate_and_key_in_two_files_are_used(issued: IssuedCertificate) -> None:
    certificates = load(issued.certificate, issued.key)
    assert seen_certificate(certificates) == issued.der
    assert certificates.description.startswith("of 'localhost', valid until 20")


def test_tls_certificate_and_key_in_one_file_are_used(issued: IssuedCertificate, tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    path.write_bytes(issued.key.read_bytes() + issued.certificate.read_bytes())
    assert seen_certificate(load(path, None)) == issued.der


@pytest.mark.parametrize(
    "arguments",
    [
        ("-algorithm", "ed25519"),
        pytest.param(("-algorithm", "RSA"), marks=pytest.mark.slow),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    ],
)
def test_tls_key_of_any_algorithm_is_used(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    openssl("genpkey", *arguments, "-out", key)
    openssl("req", "-x509", "-key", key, "-subj", "/CN=x", "-days", "1", "-out", certificate)
    assert seen_certificate(load(certificate, key)) == IssuedCertificate(certificate, key).der


def missing(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    return folder / "nothing.pem", issued.key


def missing_key(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    return issued.certificate, folder / "nothing.key"


def folder_as_key(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    return issued.certificate, folder


def swapped(issued: IssuedCertificate, _: Authority, _folder: Path) -> tuple[Path, Path]:
    return issued.key, issued.certificate


def certificate_as_key(issued: IssuedCertificate, _: Authority, _folder: Path) -> tuple[Path, Path]:
    return issued.certificate, issued.certificate


def binary_certificate(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    (folder / "certificate.der").write_bytes(issued.der)
    return folder / "certificate.der", issued.key


def broken_certificate(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    text = issued.certificate.read_text().splitlines()
    (folder / "broken.pem").write_text("\n".join([text[0], text[1][::-1], *text[2:]]))
    return folder / "broken.pem", issued.key


def cut_key(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    (folder / "cut.key").write_text(issued.key.read_text()[:80])
    return issued.certificate, folder / "cut.key"


def empty_key(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    (folder / "empty.key").touch()
    return issued.certificate, folder / "empty.key"


def other_key(issued: IssuedCertificate, authority: Authority, _: Path) -> tuple[Path, Path]:
    return issued.certificate, authority.issue("other").key


def encrypted_key(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    openssl("pkey", "-in", issued.key, "-aes128", "-passout", "pass:secret", "-out", folder / "encrypted.key")
    return issued.certificate, folder / "encrypted.key"


def encrypted_traditional_key(issued: IssuedCertificate, _: Authority, folder: Path) -> tuple[Path, Path]:
    target = folder / "encrypted.key"
    openssl("ec", "-in", issued.key, "-aes128", "-passout", "pass:secret", "-out", target)
    return issued.certificate, target


def expired(_: IssuedCertificate, authority: Authority, _folder: Path) -> tuple[Path, Path]:
    found = authority.issue_dated("expired", "20200101000000Z", "20210101000000Z")
    return found.certificate, found.key


def not_valid_yet(_: IssuedCertificate, authority: Authority, _folder: Path) -> tuple[Path, Path]:
    found = authority.issue_dated("early", "20980101000000Z", "20990101000000Z")
    return found.certificate, found.key


def certificate_of_clients(_: IssuedCertificate, authority: Authority, _folder: Path) -> tuple[Path, Path]:
    found = authority.issue("client-only", "-addext", "extendedKeyUsage=clientAuth")
    return found.certificate, found.key


Faulty = Callable[[IssuedCertificate, Authority, Path], tuple[Path, Path]]


@pytest.mark.parametrize(
    ("make", "setting", "problem"),
    [
        (missing, "tls_cert", "cannot be read: No such file or directory"),
        (missing_key, "tls_key", "cannot be read: No such file or directory"),
        (folder_as_key, "tls_key", "cannot be read: Is a directory"),
        (swapped, "tls_cert", "holds no certificate in PEM form"),
        (certificate_as_key, "tls_key", "holds no private key in PEM form"),
        (binary_certificate, "tls_cert", "holds no certificate in PEM form"),
        (broken_certificate, "tls_cert", "cannot be used with the key"),
        (cut_key, "tls_cert", "cannot be used with the key"),
        (empty_key, "tls_key", "holds no private key in PEM form"),
        (other_key, "tls_cert", "begins with a certificate of another key"),
        (encrypted_key, "tls_key", "has a passphrase"),
        (encrypted_traditional_key, "tls_key", "has a passphrase"),
        (expired, "tls_cert", "would be refused by clients: certificate has expired"),
        (not_valid_yet, "tls_cert", "would be refused by clients: certificate is not yet valid"),
        (certificate_of_clients, "tls_cert", "would be refused by clients: unsuitable certificate purpose"),
    ],
)
def test_tls_files_that_cannot_be_used_are_one_sentence(
    make: Faulty, setting: str, problem: str, issued: IssuedCertificate, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(TlsError) as caught:
        load(*make(issued, authority, tmp_path))
    assert caught.value.setting == setting
    assert problem in str(caught.value)
    assert str(caught.value).count(". ") == 0
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("content", "problem"), [(b"", "holds no certificate"), (None, "cannot be read")])
def test_tls_client_authorities_that_cannot_be_used_are_one_sentence(
    content: bytes | None, problem: str, issued: IssuedCertificate, tmp_path: Path
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TlsError, match=f"of `tls_client_ca` {problem}"):
        load(issued.certificate, issued.key, tls_client_ca=path)


@pytest.mark.parametrize("setting", ["tls_key", "tls_client_ca"])
def test_tls_setting_without_a_certificate_is_refused(setting: str, issued: IssuedCertificate) -> None:
    with pytest.raises(SettingsError, match="it needs a certificate, `tls_cert`") as caught:
        load_settings(**{setting: issued.key})
    assert "it needs a certificate, --tls-cert, which is not set" in caught.value.on_command_line({})


def test_tls_reload_changes_new_connections_and_keeps_the_old_certificate_if_it_fails(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(first.certificate.read_bytes())
    key.write_bytes(first.key.read_bytes())
    certificates = load(certificate, key)
    before = certificates.pem

    certificate.write_bytes(second.certificate.read_bytes())
    with pytest.raises(TlsError, match="begins with a certificate of another key"):
        certificates.reload()
    assert seen_certificate(certificates) == seen_certificate(certificates, "localhost") == first.der
    assert certificates.pem is before

    key.write_bytes(second.key.read_bytes())
    certificates.reload()
    assert seen_certificate(certificates) == seen_certificate(certificates, "localhost") == second.der
    assert certificates.pem.key == second.key.read_bytes()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_checks_the_certificate_of_a_client_in_every_connection(
    authority: Authority, issued: IssuedCertificate, version: ssl.TLSVersion
) -> None:
    certificates = load(issued.certificate, issued.key, tls_client_ca=authority.certificate)
    context = authority.client_context(authority.issue("known"))
    context.maximum_version = version
    first = shake_hands(certificates, context, "localhost")
    assert not shake_hands(certificates, context, "localhost", first.session).session_reused
    assert certificates.context.session_stats()["number"] == 0


def test_tls_is_1_2_or_newer(issued: IssuedCertificate) -> None:
    context = load(issued.certificate, issued.key).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_handshake_rejects_a_context_of_another_certificate(authority: Authority, issued: IssuedCertificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other = authority.issue("another")
    context.load_cert_chain(other.certificate, other.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, issued.certificate)
