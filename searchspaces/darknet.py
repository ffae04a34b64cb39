"""Recommended search space and budget for Darknet, in the syntax of the command line.

Most of it is what fast.ai's lesson 12 of 2018 searched: filters, convolutions of a layer, groups and their sizes, the
divisor of the inner channels, the order of norm, activation and convolution.
"""

SEARCH = {
    "blocks": "1:2:4:6:3,1:2:8:8:4,2:2:2:2:2,1:2:3:2:1,2:4:6",  # the lesson; Darknet-53; even; small; three groups
    "first_width": "8,16,32",
    "width_multiplier": "1.5,2",  # 2 in the lesson
    "inner": "0.25,0.5,1,2",  # 0.5 in YOLOv3; Zagoruyko and Komodakis 2016 found narrowing worse
    "kernel_size": "3,5",  # 3 in the lesson
    "convs_per_block": "2,3",  # 2 in the lesson; a third one as in its account of wide networks
    "layer_order": "conv_norm_act,norm_act_conv,conv_act_norm",  # the lesson found the second slightly better
    "norm_momentum": "0.01,0.1",  # 0.01 in the lesson
    "stride_one": "-1,0,1",  # the lesson names the first group, but uses the second
    "learning_rate": "0.003..0.3",  # its peak; the lesson uses 1.3, which diverges here
    "cycle_ratio": "20,50",  # 20 in the lesson's notebook, 50 in its record run
    "cycle_tail": "0.2,0.15",  # 20 % in the notebook, 15 % in the record run
}

BUDGET = {"trials": 16, "scheduler": "asha", "epochs": "10"}
