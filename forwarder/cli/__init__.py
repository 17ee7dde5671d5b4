"""The verbs of the command line and their exit codes; thin: what they do lives below."""
