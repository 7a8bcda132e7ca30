"""Why a row may not hold: what is known of its cost on the machine of the committed table."""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    1: (
        "Noise takes 2 us a copy, Python some 150 us a request. The second thread hides them as far as a second core "
        "is free and the interpreter's lock is not the caller's; the rest shows where an evaluation takes only 15 us."
    ),
    2: (
        "One at a time a copy costs the references what about nineteen cost in a full batch, so batching gains that "
        "much at most, at the same number of evaluations. What is beyond that comes from the published rule's habit of "
        "running to its cap on stable inputs, and depends on how many of those there are."
    ),
    3: (
        "As row 2. At +-10 % both rules run to the cap on most inputs, so only batching is left to gain; on ResNet-20 "
        "the rate, and with it where both rules stop, is that of a model that is right on 73 % of noisy images."
    ),
    4: (
        "Both sides batch, so the ratio is that of two runtimes, less what making 1,000 copies at a time takes, which "
        "here has one item's batch to hide behind."
    ),
    5: (
        "The gain is 1000 over the mean number of evaluations until the claim is proved or lost. Images near the "
        "radius run to the cap and decide the mean; on ResNet-20, right on 73 % of noisy images, many are near it."
    ),
    6: (
        "The reference batches too, and its betting test needs no more evaluations than Guard's where an answer is "
        "clear. On ResNet-20 both run to the horizon on images near the radius."
    ),
    7: (
        "A request to squeeze takes 47 us of a LeNet-5's evaluations and some 120 us of Python. A detector network in "
        "a full batch costs a third to a quarter of what it does alone, so that is the most batching gains: a smaller "
        "network would help, and would detect less."
    ),
    8: "What one stream saves is evaluations, and on these images the two tests together need 1.2 to 1.3 times as many apart.",
    9: (
        "Client, event loop and engine share two cores: a busy one is given up for a waking thread after a slice of "
        "some milliseconds. A process for the engine and other priorities were tried, and changed it by less than its "
        "noise. "
        "A request of ResNet-20 takes some 30 to 60 ms of evaluations, so few that have to wait are done within 100 ms."
    ),
    10: (
        "A request of ResNet-20 takes some 30 to 60 ms of evaluations: within 100 ms two or three fit, too few to fill "
        "batches. For LeNet-5 the arrivals are made, and refused, in the engine's own process and take a share of it."
    ),
}
