"""Load on a service of the Open Inference Protocol: `normfold.bench`."""
