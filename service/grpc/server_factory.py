"""The gRPC server, if its packages are installed: they come with the extra `grpc`, and are imported here only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.contract.errors import MissingPackageError
from normfold.service.inference.byte_budget import ByteBudget
from normfold.service.inference.infer_call import InferResources
from normfold.service.inference.steps import RequestSteps
from normfold.service.network.tls import Certificates
from normfold.service.proxy.forwarding import Forwarding
from normfold.service.repository.repository import Repository
from normfold.service.settings import Settings
from normfold.service.workers.coordinator import Coordinator

if TYPE_CHECKING:
    from normfold.service.grpc.server import GrpcServer


def open_grpc(
    settings: Settings,
    resources: InferResources,
    steps: RequestSteps,
    forwarding: Forwarding,
    bodies: ByteBudget,
    repository: Repository,
    coordinator: Coordinator,
    certificates: Certificates | None,
) -> GrpcServer | None:
    """Return the gRPC server, which does not listen yet; None if the settings have no port for it.

    Raises:
        MissingPackageError: the extra `grpc` is not installed.
    """
    if settings.grpc_port is None:
        return None
    try:
        from normfold.service.grpc.server import GrpcServer
    except ImportError:
        raise MissingPackageError("grpcio", "grpc", "gRPC (NORMFOLD_GRPC_PORT)") from None
    return GrpcServer(settings, resources, steps, forwarding, bodies, repository, coordinator, certificates)
