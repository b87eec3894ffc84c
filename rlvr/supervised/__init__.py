"""Training on given examples: `run` is the loop, `examples` what it learns, `held_out` what it is measured by."""
