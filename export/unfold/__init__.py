"""Give a folded network a BatchNormalization behind each layer again, for further training elsewhere."""
