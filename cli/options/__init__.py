"""Options that several commands share, and the rules for their values."""
