"""What several subcommands share.

    workbench        devices, model and images of a configuration, each loaded once
    artifact_file    the artifact that a command starts from, opened once
    training_data    the images that a stage learns from
    learning         the training core: from features to prompts, without files
    resuming         a training's checkpoints
    outputs          what is written, and when it may be replaced
    score_inputs     what scores compare with; `measure` takes them on whole sets, `scorer` on single images
    thresholds       a threshold from held-out images

Belongs here: a helper of two or more files of `steps`. A helper of one file lives in that file.
May import: everything below `steps`; never a file of `steps` itself, and never `cli`.
Neighbours: `steps` has one file per subcommand; `data` reads and writes the files.
"""
