"""Queue requests, form batches and run them in threads."""
