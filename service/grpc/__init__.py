"""gRPC: the service of the Open Inference Protocol, health and reflection, beside HTTP in the same process."""
