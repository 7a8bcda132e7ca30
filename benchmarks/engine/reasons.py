"""Why a row may not hold: what is known of its cost on the machine of the committed table."""

from __future__ import annotations

from typing import Final

_BOTH: Final = {
    3: "As row 2: at +-10 % both rules run to the cap on most inputs, so only batching is left to gain.",
    4: (
        "Both sides batch, so the ratio is that of two runtimes, less what making 1,000 copies at a time takes, which "
        "here has one item's batch to hide behind. The reference spends 100 copies more, to choose its label."
    ),
    5: (
        "The gain is 1,100 over the mean number of evaluations until the claim is proved or lost, times what row 4 "
        "gains. Images near the radius run to the cap and decide the mean. Where evaluations alone would allow the "
        "target, Guard's own work for a request is the rest."
    ),
    6: (
        "The reference batches too, and its betting test needs no more evaluations than Guard's where an answer is "
        "clear; where it is not, both run to the horizon. Where evaluations alone would allow the target, Guard's own "
        "work for a request is the rest."
    ),
    7: (
        "A detector network in a full batch costs a third to a quarter of what it does alone, so that is the most "
        "batching gains: a smaller network would help, and would detect less."
    ),
    8: (
        "What one stream saves is evaluations, and on these images the two tests together need 1.2 to 1.3 times as "
        "many apart."
    ),
    9: (
        "Client, event loop and engine share two cores: a busy one is given up for a waking thread after a slice of "
        "some milliseconds."
    ),
}

_OF: Final = {
    (1, "LeNet-5"): (
        "An evaluation takes some 20 us, so two microseconds for a copy's noise and a hundred or two of Python for a "
        "request show. The second thread hides them as far as a second core is free and the interpreter's lock is not "
        "the caller's."
    ),
    (1, "ResNet-20"): "The rounds lie on both sides of the target: what is left is noise of a few percent.",
    (2, "LeNet-5"): (
        "One at a time a copy costs the references what about nineteen cost in a full batch, so batching gains that "
        "much at most, at the same number of evaluations. What is beyond that comes from the published rule's habit of "
        "running to its cap on stable inputs, and depends on how many of those there are. Where evaluations alone "
        "would allow the target, as beside Wald's rule, Guard's own work for a request is the rest."
    ),
    (3, "ResNet-20"): (
        "One at a time a copy costs the reference three or four times what it costs in a full batch. The rate, and "
        "with it where both rules stop, is that of a model that noise moves often: the few images of a round decide "
        "it, and rounds lie on both sides of the target."
    ),
    (5, "ResNet-20"): (
        "As for LeNet-5; and noise moves this model more often, so many more of the images are near the radius."
    ),
    (7, "LeNet-5"): (
        "A request to squeeze takes three evaluations of some 20 us, and more than that of Python. A detector network "
        "in a full batch costs a quarter of what it does alone, so that is the most batching gains."
    ),
    (9, "ResNet-20"): (
        "As for LeNet-5 where the echo is concerned. A request takes some 30 to 80 ms of evaluations, so one that has "
        "to wait for two others is late."
    ),
    (10, "LeNet-5"): (
        "The arrivals are made, and refused, in the engine's own process, and take a share of it: the "
        "more of them, the larger."
    ),
    (10, "ResNet-20"): (
        "A request takes some 30 to 80 ms of evaluations: within 100 ms two or three fit, too few to fill batches."
    ),
}


def reason(number: int, model: str) -> str:
    """Why a row of a model may not hold."""
    return _OF.get((number, model)) or _BOTH[number]
