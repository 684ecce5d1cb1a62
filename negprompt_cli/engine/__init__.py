"""The method as pure tensor functions. Nothing here reads files or knows the command line.

    clip               the frozen CLIP (wrapper of an open_clip model)
    model_identity     name and digest of a CLIP
    prompt_learners    contexts, their encoding and training
    losses             the objectives of stage 1 and stage 2
    scores             ID scores of images; `mcm_extended` is NegPrompt's
    judgement          prediction, score and verdict for single images
    metrics            AUROC, FPR95 and the like, thresholds
    parallel           work shared by several processes
    devices            choice of device and precision

May import: `errors`; never `data`, `steps` or `cli`.
"""
