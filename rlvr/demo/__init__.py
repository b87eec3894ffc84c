"""The embedded default: a tiny model and word problems, on which RL visibly works on two cores."""
