"""Tables: their files, the values in their cells, and the encoding of a row for a network."""
