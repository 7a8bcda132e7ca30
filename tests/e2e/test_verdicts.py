"""What Guard adds to a real Triton's answers, and what it does where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client

from tests.e2e.peer import Peer, Refused, answer, outcome, tensor, wait_until_serving
from tests.support.triton import Triton


def test_verdict_with_the_answer(direct: Peer, guarded: Peer, benign: np.ndarray) -> None:
    """A benign batch comes back with a verdict and an id of its own; a direct answer has neither."""
    first, second = (guarded.infer(tensor(benign)).parameters for _ in range(2))
    assert first["guard_verdict"].string_param == "clean"
    assert re.fullmatch(r"[0-9a-f]{32}", first["guard_id"].string_param)
    assert first["guard_id"] != second["guard_id"]
    assert not direct.infer(tensor(benign)).parameters


def test_most_adversarial_digits_are_rejected(guarded: Peer, adversarial: np.ndarray) -> None:
    """Guard rejects nearly every digit under a plain attack, at a false-positive rate of one in twenty."""
    verdicts = [guarded.verdict(image[None]) for image in adversarial]
    assert verdicts.count("adversarial") >= 0.9 * len(adversarial), verdicts


@pytest.mark.parametrize("index", [0, 5])
def test_one_adversarial_item_of_eight(
    direct: Peer, guarded: Peer, benign: np.ndarray, adversarial: np.ndarray, index: int
) -> None:
    """A batch with one adversarial item is rejected as a whole, and the message says which item it was."""
    batch = benign.copy()
    batch[index] = next(image for image in adversarial if guarded.verdict(image[None]) == "adversarial")
    with pytest.raises(triton_client.InferenceServerException) as caught:
        guarded.infer(tensor(batch))
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    assert f"adversarial input at item {index} of 8 " in caught.value.message()
    assert re.search(
        rf"\[guard_verdict=adversarial guard_id=[0-9a-f]{{32}} guard_items={index}\]", caught.value.message()
    )
    assert answer(direct.infer(tensor(batch)))["outputs"] == [("logits", "FP32", (8, 10))]


def test_triton_goes_away_and_comes_back(triton: Triton, guarded: Peer, guard_address: str, benign: np.ndarray) -> None:
    """Without its upstream Guard answers UNAVAILABLE and stops reporting ready; with it, it serves again."""
    triton.stop()
    refused = outcome(lambda peer: peer.infer(tensor(benign)), guarded)
    assert isinstance(refused, Refused)
    assert refused.code == "UNAVAILABLE"
    assert f"can't reach the upstream at {triton.address}" in refused.message
    triton.ensure_running()
    wait_until_serving(guard_address)
    assert guarded.verdict(benign) == "clean"


def test_triton_not_installed(digits_onnx: Path, tmp_path: Path) -> None:
    """Without the real server's environment the tests fail, and say what makes it."""
    with pytest.raises(RuntimeError, match=r"run `make test`"):
        Triton(tmp_path, name="digits", onnx=digits_onnx, environment=tmp_path / "nothing").start()
