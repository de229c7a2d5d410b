"""From result records and published numbers to tables."""
