"""The SDK in front of a real Triton, with Guard between them and without."""

from __future__ import annotations

import numpy as np
import pytest

from guard.client import AdversarialInputRejected, CallFailed, Client, NotGuarded, Verdict
from tests.support.triton import Triton


def tensors(client: Client, images: np.ndarray) -> list[object]:
    """The input of a request."""
    return [client.tensor("input", images)]


def test_guarded(guard_address: str, triton: Triton, benign: np.ndarray, adversarial: np.ndarray) -> None:
    """With Guard the answer is the server's own, with a verdict; an attack is an exception that names its item."""
    with Client(guard_address, require_verdict=True) as client, Client(triton.address) as direct:
        answer = client.infer("digits", tensors(client, benign))
        assert answer.verdict is Verdict.CLEAN
        alone = direct.infer("digits", tensors(direct, benign)).as_numpy("logits")
        assert np.array_equal(answer.as_numpy("logits"), alone)
        refusals = []
        for image in adversarial:
            batch = np.concatenate([benign[:1], image[None]])
            try:
                client.infer("digits", tensors(client, batch))
            except AdversarialInputRejected as error:
                refusals.append(error)
        assert len(refusals) >= 0.9 * len(adversarial)
        assert {error.items for error in refusals} == {(1,)}


def test_screen_only_is_denied_by_default(guard_address: str, benign: np.ndarray) -> None:
    """Unless its policy allows it, Guard answers no request for a verdict alone, and says which setting would."""
    with Client(guard_address) as client, pytest.raises(CallFailed, match="`screen_only: allow`"):
        client.screen_only("digits", tensors(client, benign))


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_plain_triton(triton: Triton, benign: np.ndarray, scheme: str) -> None:
    """A Triton without Guard answers, without a verdict; who requires one is told where it is missing."""
    address = f"{scheme}://{triton.http_address if scheme == 'http' else triton.address}"
    with Client(address) as client:
        answer = client.infer("digits", tensors(client, benign))
        assert (answer.verdict, answer.id, answer.as_numpy("logits").shape) == (None, None, (8, 10))
        told = client.screen_only("digits", tensors(client, benign))
        assert (told.verdict, told.executed) == (None, True)
        with pytest.raises(CallFailed) as caught:
            client.infer("stranger", tensors(client, benign))
        assert caught.value.id is None
    with Client(address, require_verdict=True) as client, pytest.raises(NotGuarded, match="a server without Guard"):
        client.infer("digits", tensors(client, benign))
