"""Adapters that come with the harness; each is reached by name only, like a stranger's."""
