"""Write a bundle: export, statistics, drift monitor and its thresholds."""
