"""Facts about a graph (constants, shapes, opsets), and edits that keep it valid."""
