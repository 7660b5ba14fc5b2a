"""Queue the requests of a model, form batches of them, and run these in time."""
