"""Results: the store, what it asks of file systems, and what is kept beside it."""
