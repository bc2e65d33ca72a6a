"""What each kind of run does, from its specification and inputs to its results."""
