"""What our command lines return to the shell. One table, whichever package the command belongs to."""

OK = 0
SOME_FAILED = 1  # done, but some images could not be scored or written
FAILED = 1  # of `python -m refl` and `python -m smallworld`: not done, for the reason that is printed
USAGE = 2  # the command line or a setting is wrong
MODEL = 3  # a model cannot be found, downloaded, loaded, run or trained
STOP_RULE = 3  # of `python -m refl train`: ended by the stop rule, with a result
INTERRUPTED = 130  # as shells report SIGINT; those of other signals are `interrupts`' 128 + number
PIPE_CLOSED = 141  # as shells report SIGPIPE
