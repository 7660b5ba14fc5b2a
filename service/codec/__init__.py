"""Decode requests and encode responses: JSON and binary tensors."""
