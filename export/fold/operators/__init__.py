"""One file per operator family: how an affine passes it, or is absorbed."""
