"""Pages that a command writes for a person to read: one HTML file each, complete in itself."""
