"""Recommended search space and budget for WGAN, in the syntax of the command line."""

SEARCH = {
    "n_critic": "1,2,5,10",  # 5 in Arjovsky et al. 2017
    "n_critic_warmup": "0,100",  # 0 saves 2,850 critic steps in a run of 3,000 steps
    "clip": "0.003..0.1",  # 0.01 in the paper
    "learning_rate": "1e-5..1e-3",  # 5e-5 in the paper; 1e-4 in fast.ai's lesson of 2018
    "schedule": "constant,step",  # a tenth for the second half, by the budget: 1e-4, then 1e-5 in the lesson
    "head": "conv,pool",  # pool: an untested idea of the lesson
    "critic_norm": "true,false",
}

BUDGET = {"trials": 16, "scheduler": "asha", "steps": "1000", "decay_at": "0.5", "decay_factor": "0.1"}
