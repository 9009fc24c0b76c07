"""Look at a trained model: its figures, its predictions, its ways to an answer."""
