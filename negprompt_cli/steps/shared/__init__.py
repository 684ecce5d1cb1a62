"""Helpers that several subcommands share.

    workbench        devices, model and images of a configuration, each loaded once
    artifact_file    the artifact that a command starts from, opened once
    training_data    the training images of a stage
    learning         the training core: from features to prompts, without files
    resuming         a training's checkpoints
    outputs          the output files, and when they may be replaced
    score_inputs     what scores compare images with; `measure` scores whole sets, `scorer` single images
    thresholds       a threshold from held-out images

A helper belongs here if two or more files of `steps` use it. A helper of one file is in that file.
May import: everything below `steps`; never a file of `steps` itself, and never `cli`.
Neighbours: `steps` has one file per subcommand; `data` reads and writes the files.
"""
