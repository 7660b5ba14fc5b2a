"""Tables with numbers, texts and missing values."""
