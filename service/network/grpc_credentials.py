"""Credentials of a gRPC server, which asks for the latest certificate at every handshake."""

from __future__ import annotations

import grpc

from normfold.service.network.tls import Certificates, Pem
from normfold.service.settings import Settings


def server_credentials(certificates: Certificates, settings: Settings) -> grpc.ServerCredentials:
    """Return credentials that follow certificates which are loaded again.

    gRPC cannot ask for a certificate of the client and do without: `optional` asks for none.
    """
    in_use = certificates.pem
    requires_client = settings.tls_client_ca is not None and settings.tls_client_auth == "required"

    def fetch_changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal in_use
        latest = certificates.pem
        if latest is in_use:
            return None
        in_use = latest
        return _configuration(latest)

    return grpc.dynamic_ssl_server_credentials(_configuration(in_use), fetch_changed, requires_client)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)
