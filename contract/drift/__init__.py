"""Files of drift monitoring: the monitor of a bundle, and the samples that a service stores."""
