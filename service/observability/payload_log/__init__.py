"""The payload log: a sample of requests and answers with their tensors, in files that are rotated."""
