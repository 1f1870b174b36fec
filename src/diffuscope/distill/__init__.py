"""Many steps become few: what a student network learns from a teacher, and the tasks that train it.

``objectives`` holds the algorithms, as functions of velocity fields. ``task`` and ``trajectories`` run two of them in
the training loop; ``rounding`` trains a student as its file will store it.
"""
