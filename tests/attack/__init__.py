"""The attack: what strangers' files, texts and requests can do to this project, tried by machine.

    python -m tests.attack --minutes 30 --seed 1

`mutations` makes hostile inputs, `targets` says what they are fed to and which errors are answers, `worker` runs one
target in a process of its own and measures, `faults` kills writers and takes their disk away. A finding is an
exception that is not ours, more than 5 s of processor time or 1 GB of memory for one input, a damaged file of the
user's, or a score that was acknowledged and is gone. Every input is a function of seed, target and number.
"""
