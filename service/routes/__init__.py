"""HTTP routes: each parses its request, calls the service, and returns the response."""
