"""Authorization: keys, their scopes and rate limits."""
