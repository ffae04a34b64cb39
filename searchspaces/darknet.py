"""Recommended search space and budget for Darknet, in the syntax of the command line."""

SEARCH = {
    "blocks": "1:2:4:6:3,1:2:8:8:4,2:2:2:2:2,1:2:3:2:1",  # fast.ai's lesson 12 of 2018; Darknet-53; even; small
    "first_width": "8,16,32",
    "inner": "0.25,0.5,1,2",  # 0.5 in YOLOv3; Zagoruyko and Komodakis 2016 found narrowing worse
    "stride_one": "-1,0,1",  # the lesson names the first group, but uses the second
    "learning_rate": "0.003..0.3",  # its peak; the lesson uses 1.3, which diverges here
}

BUDGET = {"trials": 12, "scheduler": "asha", "epochs": "10"}
