"""Connections of a load generator, by HTTP/1.1 and gRPC: each sends one request at a time."""
