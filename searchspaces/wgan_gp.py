"""Recommended search space and budget for WGAN-GP, in the syntax of the command line."""

SEARCH = {
    "n_critic": "1,2,5",  # 5 in Gulrajani et al. 2017
    "penalty": "1..100",  # 10 in the paper
    "penalty_sides": "two,one",  # two in the paper; some textbooks have one
    "head": "conv,pool",  # pool: an untested idea of fast.ai's lesson of 2018
    "learning_rate": "2e-5..4e-3",  # 1e-4 in the paper, 2e-4 for its residual networks
    "beta1": "0,0.5",  # 0 in the paper; 0.5 in its experiments with many architectures
    "width": "32,64,96",
}

BUDGET = {"trials": 16, "scheduler": "asha", "steps": "1000"}
