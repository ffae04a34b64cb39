"""Recommended search space and budget for Wide-ResNet, in the syntax of the command line."""

SEARCH = {
    "widen_factor": "1,2,4,8,10",  # Zagoruyko and Komodakis 2016: wider was better at every depth, up to 10 or 12
    "depth": "16,22,28,40",  # and deeper only up to 28 if it is wide; fast.ai's record run of 2018 was a WRN-22
    "convs_per_block": "1,2",  # 2 best in the paper, of 1 to 4; 3 needs a depth of 9n + 4
    "kernel_size": "3,5",  # 3 in the paper; fast.ai's lesson searched it too
    "width_multiplier": "1.5,2",  # 2 in the paper
    "layer_order": "norm_act_conv,conv_norm_act,conv_act_norm",  # the first in the paper; searched in the lesson
    "dropout": "0,0.1,0.2,0.3",  # 0.3 in the paper
    "learning_rate": "0.01..3",  # its peak; 0.1 in the paper, 3 in Smith 2018 with one_cycle
    "schedule": "one_cycle,step,cosine,linear",
    "cycle_ratio": "20,50",  # of one_cycle: 20 in the lesson's notebook, 50 in its record run
    "cycle_tail": "0.2,0.15",  # of one_cycle: 20 % in the notebook, 15 % in the record run
}

BUDGET = {"trials": 16, "scheduler": "asha", "epochs": "20"}
