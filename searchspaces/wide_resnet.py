"""Recommended search space and budget for Wide-ResNet, in the syntax of the command line."""

SEARCH = {
    "widen_factor": "1,2,4,8,10",  # Zagoruyko and Komodakis 2016: wider was better at every depth, up to 10 or 12
    "depth": "16,22,28,40",  # and deeper only up to 28 if it is wide
    "dropout": "0,0.1,0.2,0.3",  # 0.3 in the paper
    "learning_rate": "0.01..3",  # its peak; 0.1 in the paper, 3 in Smith 2018 with one_cycle
    "schedule": "one_cycle,step,cosine,linear",
}

BUDGET = {"trials": 16, "scheduler": "asha", "epochs": "20"}
