"""What a reverse proxy in front of the service says about a request."""
