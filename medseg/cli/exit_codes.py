"""What a command's exit code says; `medseg --help` explains them."""

OK, ERROR, USAGE, SOME_FAILED, STOPPED, TERMINATED = 0, 1, 2, 3, 130, 143
