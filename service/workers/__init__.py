"""Several worker processes that act as one service: state they share, how they start and stop."""
