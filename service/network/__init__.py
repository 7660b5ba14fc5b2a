"""Sockets, TLS and systemd: how connections reach the service."""
