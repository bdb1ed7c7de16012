"""The exercises of lesson 0, scores and probabilities."""

import torch

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    close,
    compare,
    numbers,
)


def _judge_softmax(call: Caller, g: torch.Generator) -> None:
    for n, k in ((3, 4), (4, 4), (1, 6), (5, 2)):
        scores = torch.randn(n, k, generator=g) * 2
        got = as_tensor(call(scores), "probabilities", (n, k), {(k, n): "transposed"})
        s = scores.double()
        e = s.exp()
        want = e / e.sum(1, keepdim=True)
        compare(
            got,
            want,
            {
                "every column sums to 1, but every row has to: sum over the classes, dim=1": e / e.sum(0),
                "all entries together sum to 1, but every row has to": e / e.sum(),
                "these are the logarithms of the probabilities": want.log(),
                "these are the scores themselves": s,
                "these are exponentials that are not yet divided by their sum": e,
                "the scores are divided by their sum without the exponential": s / s.sum(1, keepdim=True),
            },
            ("row", "class"),
        )
    high = torch.tensor([[1000.0, 999.0, 990.0], [-1000.0, -1001.0, -1010.0], [0.0, 1000.0, -1000.0]])
    e = (high.double() - high.double().amax(1, keepdim=True)).exp()
    want = e / e.sum(1, keepdim=True)
    got = as_tensor(call(high), "probabilities", (3, 3), {})
    bad = ~torch.isfinite(got).all(1)
    if bad[1] and not bad[0]:
        raise Wrong(
            "right for small scores, but scores [−1000, −1001, −1010] beside a row of +1000 give "
            f"{numbers(got[1])}, expected {numbers(want[1])}: subtract each row's own maximum, "
            "not that of all rows."
        )
    if bad.any():
        raise Wrong(
            f"right for small scores, but scores [1000, 999, 990] give {numbers(got[0])}, expected "
            f"{numbers(want[0])}: exp(1000) overflows. Subtract each row's maximum first; "
            "the probabilities stay the same."
        )
    compare(got, want, {}, ("row", "class"))


def _judge_raise_probability(call: Caller, g: torch.Generator) -> None:
    for n, k, spread, c in ((3, 5, 2.0, 1), (1, 10, 3.0, 9), (4, 3, 30.0, 0), (2, 1000, 3.0, 321)):
        scores = torch.randn(n, k, generator=g) * spread
        got = as_tensor(
            call(scores, c), "scores", (n, k), {(n,): "one value a row; all scores are asked for"}
        )
        s = scores.double()
        if torch.isnan(got).any():
            raise Wrong(f"expected numbers, got NaN in row {int(torch.isnan(got).any(1).nonzero()[0])}.")
        if bool(((got >= 0) & (got <= 1)).all()) and torch.allclose(got.sum(1), got.new_ones(n), atol=1e-4):
            raise Wrong(
                "each row sums to 1: these are probabilities; scores, before the softmax, are asked for."
            )
        moved = (got[:, c] - s[:, c]).abs() > 1e-4 * (1 + s[:, c].abs())
        if moved.any():
            row = int(moved.nonzero()[0])
            raise Wrong(
                f"the score of class {c} has to stay {s[row, c]:.3g} in row {row}, got {got[row, c]:.3g}: "
                "lower the others instead."
            )
        reached = torch.softmax(got, 1)[:, c]
        if bool((~(reached > 0.99)).any()):  # not <=: an infinite score gives NaN
            row = int((~(reached > 0.99)).nonzero()[0])
            before = torch.softmax(s, 1)[row, c]
            if close(got, s):
                why = "the scores come back unchanged"
            elif row > 0 and bool((reached[:row] > 0.99).all()) and close(got[row], s[row]):
                why = f"row {row} comes back unchanged: do it for every row"
            else:
                why = f"the others are still too high ({k} classes, scores up to {s[row].max():.3g})"
            raise Wrong(
                f"expected a probability above 0.99 for class {c} in row {row}, "
                f"got {reached[row]:.3g} (it was {before:.3g}): {why}."
            )


EXERCISES = {
    "0a": Exercise(
        "softmax(scores)",
        "return exp(s) / Σ exp(s) for each row of scores [N, K]; large scores must not overflow.",
        "every row sums to 1, and scores of ±1000 don't overflow.",
        _judge_softmax,
    ),
    "0b": Exercise(
        "raise_probability(scores, c)",
        "return a copy of scores [N, K] in which the other classes are so low that class c gets over 99 %.",
        "the probability rose above 99 % and the score of the class did not move.",
        _judge_raise_probability,
    ),
}
