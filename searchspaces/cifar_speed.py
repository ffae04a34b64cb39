"""Recommended search space and budget for cifar_speed, in the syntax of the command line."""

SEARCH = {
    "widths": "32:128:128,64:256:256,96:384:384,128:384:384",  # Jordan 2024: the second for 94 %, the last for 95 %
    "learning_rate": "0.3..4",  # its peak; published: 1.5, in units of a mean loss
    "bias_scale": "1,8,64",
    "label_smoothing": "0,0.1,0.2",
    "crop_padding": "1,2,4",
    "cycle_peak": "0.1,0.23,0.4",
    "cycle_ratio": "5,20,50",  # 5 published; 20 in fast.ai's lesson 12 of 2018, 50 in its record run
    "cycle_tail": "0.2,0.15",  # 20 % in both; 15 % in the record run
    "cycle_momentum": "0.85:0.85,0.95:0.85",  # published; the lesson
    "lookahead": "0,5,10",
}

BUDGET = {"trials": 24, "scheduler": "asha", "epochs": "8"}
