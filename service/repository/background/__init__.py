"""What is done to the models of a repository again and again while they serve."""
