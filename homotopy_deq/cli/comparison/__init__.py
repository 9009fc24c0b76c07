"""Train families of models with one budget, and show them beside each other."""
