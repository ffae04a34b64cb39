"""Recommended search space and budget for DCGAN, in the syntax of the command line."""

SEARCH = {
    "learning_rate": "5e-5..1e-2",  # Radford et al. 2016 found 1e-3 too high at 64 pixels; digits need 2e-3 to 4e-3
    "beta1": "0,0.5,0.9",  # they found 0.9 unstable, and 0.5 stable
    "width": "32,64,96",
    "upsample": "transposed,nearest,bilinear,bicubic",  # fast.ai's lesson 12 of 2018 asks for upsampling
    "head": "conv,pool",  # pool: an untested idea of the lesson
}

BUDGET = {"trials": 16, "scheduler": "asha", "steps": "2000"}
