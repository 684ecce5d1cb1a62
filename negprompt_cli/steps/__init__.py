"""The jobs a person asks for: each joins data, engine and artifacts into one function.

A step takes a resolved configuration and paths, reports through a `Progress`, and returns what it made. It prints nothing
and parses nothing, so the command line, the demo and a Python caller all run the very same code.
"""
