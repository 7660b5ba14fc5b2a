"""Worker processes: coordination, shared files, shutdown."""
