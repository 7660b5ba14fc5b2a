"""HTTP/1.1 connections, bodies, limits and middleware."""
