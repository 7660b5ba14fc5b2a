"""HTML pages that commands write, each a self-contained file."""
