"""Commands that write a network in another precision: a file, or a new version of a bundle."""
