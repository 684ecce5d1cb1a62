"""The schema names, with versions, of all files and documents that negprompt writes for programs.

A reader refuses a version that is not its own. The version increases when a field is removed or changes its meaning, not
when a field is added.
"""

# Files.
CHECKPOINT = "negprompt/checkpoint/2"
EVALUATION = "negprompt/evaluation/1"
EXPORT = "negprompt/export/1"
FEATURES = "negprompt/features/1"
LEAVE_OUT = "negprompt/leave-out/1"
PROMPTS = "negprompt/prompts/1"
REPRODUCTION = "negprompt/reproduction/1"
SWEEP = "negprompt/sweep/1"

# Documents on standard output, with --json.
CACHE = "negprompt/cache/1"
CITATION = "negprompt/citation/1"
CALIBRATION = "negprompt/calibration/1"
COMPARISON = "negprompt/comparison/1"
DATA = "negprompt/data/1"
DATA_CHECK = "negprompt/data-check/1"
DATA_CLASSES = "negprompt/data-classes/1"
DATA_DOWNLOAD = "negprompt/data-download/1"
DATA_SAMPLE = "negprompt/data-sample/1"
DEMO = "negprompt/demo/1"
EXPERIMENTS = "negprompt/experiments/1"
FIT = "negprompt/fit/1"
IMPORT = "negprompt/import/1"
INSPECTION = "negprompt/inspection/1"
REPORT = "negprompt/report/1"
SCORE = "negprompt/score/1"
TRAINING = "negprompt/training/1"
TRAINING_SEEDS = "negprompt/training-seeds/1"
TRANSFER = "negprompt/transfer/1"
VERIFICATION = "negprompt/verification/1"
