"""The OpenAPI document, and a page that displays it without any other server."""
