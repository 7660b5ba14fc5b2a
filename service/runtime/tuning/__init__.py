"""Options of a session on a GPU, and CUDA graphs: tried, compared and timed while a model loads."""
