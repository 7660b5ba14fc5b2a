"""File formats and types that training, export and serving share: manifest, preprocessing, monitor, errors."""
