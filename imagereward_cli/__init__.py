"""The command line: what the user typed → a configuration → one function of the core or of the training package."""
