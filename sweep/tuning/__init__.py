"""`w2s tune`: search over the settings of a method, on the plan, store and cluster of a sweep."""
