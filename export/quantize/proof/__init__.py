"""The proof of a network of lower precision: how far it is from the folded float32 network, how fast, how large."""
