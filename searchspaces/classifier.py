"""Recommended search space and budget for small classifiers, in the syntax of the command line."""

SEARCH = {
    "model": "mlp_relu,mlp_bn,cnn,residual",
    "optimizer": "sgd,adamw",
    "learning_rate": "1e-3..0.3",  # its peak; 0.1 in He et al. 2016
    "schedule": "one_cycle,cosine,constant",
    "weight_decay": "1e-5..1e-2",  # 1e-4 in He et al. 2016
    "label_smoothing": "0,0.1",
}

BUDGET = {"trials": 20, "scheduler": "asha", "epochs": "10"}
