"""The request path of inference, from headers to response."""
