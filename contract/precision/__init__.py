"""The precision of a bundle's network: its record, and what export and service check it with."""
