"""HTTP requests of `Client`, and the messages in them."""
