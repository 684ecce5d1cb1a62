"""The area under the precision-recall curve by trapezoids: the other AUPR in use, beside average precision.

OpenOOD and pytorch-ood integrate the curve linearly between its points, from recall 0 and precision 1; average precision
(`metrics.aupr_in`, scikit-learn's recommendation) is a step sum. The two differ by little, but by more than rounding.
"""

import numpy as np

from negprompt_cli.engine.metrics.detection import AcceptanceCurve


def trapezoid_aupr(curve: AcceptanceCurve) -> float:
    """Return the area with the accepted class of the curve positive; mirror the curve for OOD positive. In [0, 1]."""
    hits, alarms = curve.accepted_id[1:], curve.accepted_ood[1:]
    precision = np.concatenate([[1.0], hits / (hits + alarms)])
    recall = curve.accepted_id / curve.n_id
    return float(np.dot(np.diff(recall), precision[1:] + precision[:-1])) / 2
