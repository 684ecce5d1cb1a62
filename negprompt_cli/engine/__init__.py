"""The method as pure tensor functions; no files, no command line.

    clip               the frozen CLIP (wrapper of an open_clip model)
    model_identity     name and digest of a CLIP
    prompt_learners    contexts, their encoding and training
    losses             what stage 1 and stage 2 minimise
    scores             ID scores of images; `mcm_extended` is NegPrompt's
    judgement          prediction, score and verdict of single images
    metrics            AUROC, FPR95 and the like, thresholds
    parallel           several processes
    devices            device and precision, decided in one place
May import: `errors`; never `data`, `steps` or `cli`.
"""
