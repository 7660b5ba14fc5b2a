"""Output of results: HTML pages and terminal tables."""
