"""Keys, scopes and rate limits: who may call what."""
