"""What a linear classifier reads out of a code: how much of the labels lies open in it."""

import warnings

import numpy as np


def linear_probe(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> float:
    """Accuracy on the test rows of a logistic regression fitted to the others.

    Features are standardised by the training rows; ridge penalty 1/2 ||w||^2 (C = 1).

    Args:
      features: floating `[n, ...]`, flattened.
      labels: `[n]`, classes.
      test_features: `[m, ...]`.
      test_labels: `[m]`.

    Returns:
      The share of test rows whose class is found.

    Raises:
      ValueError: rows and labels differ in number, or there are fewer than two classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(features) != len(labels) or len(test_features) != len(test_labels):
        raise ValueError(
            f"{len(features)} and {len(test_features)} rows with {len(labels)} and "
            f"{len(test_labels)} labels; expected a label for each row"
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(f"the labels are all {labels[0]}; expected two classes or more")
    scaler = StandardScaler()
    rows = np.asarray(features, np.float64).reshape(len(features), -1)
    tested = np.asarray(test_features, np.float64).reshape(len(test_features), -1)
    rows = scaler.fit_transform(rows)
    with warnings.catch_warnings():
        # 300 steps are near enough; more move the accuracy less than another draw of rows would.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=1.0, max_iter=300).fit(rows, labels)
    return float(np.mean(fitted.predict(scaler.transform(tested)) == test_labels))


def chance(labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy of always saying the class that is most frequent among the first labels."""
    classes, counts = np.unique(labels, return_counts=True)
    return float(np.mean(test_labels == classes[np.argmax(counts)]))
