"""Lines of the logs: collected in memory, and written by a thread."""
