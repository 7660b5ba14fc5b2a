"""What is known of a graph (constants, shapes, opsets), and rewrites that prepare a fold."""
