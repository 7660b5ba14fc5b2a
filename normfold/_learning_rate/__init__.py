"""`normfold.find_learning_rate`."""
