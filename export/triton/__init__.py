"""Models of a Triton repository as bundles, and bundles with the configuration that Triton reads."""
