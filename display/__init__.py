"""Results for people to read: HTML pages and terminal tables."""
