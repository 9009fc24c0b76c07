"""Products with a change of some entries, at the cost of these entries."""
