"""The learner: rows to gradients, and the algorithms that make rows from groups."""
