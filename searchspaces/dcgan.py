"""What is worth trying with DCGAN, in the words of the command line, and what to spend on it."""

SEARCH = {
    "learning_rate": "5e-5..1e-2",  # Radford et al. 2016 found 1e-3 too high at 64 pixels; digits want 2e-3 to 4e-3
    "beta1": "0,0.5,0.9",  # and 0.9 unstable, where 0.5 was not
    "width": "32,64,96",
    "upsample": "transposed,nearest",
}

BUDGET = {"trials": 16, "scheduler": "asha", "steps": "2000"}
