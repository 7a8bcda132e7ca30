"""Clients with addresses of their own, that send at a steady pace until they are told to stop."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import numpy as np


@contextmanager
def sending(port: int, images: np.ndarray, clients: Sequence[str], *, pace_s: float) -> Iterator[Counter[int]]:
    """Each client sends images (n, 1, 8, 8) in turn, one every `pace_s` seconds; the value counts HTTP statuses.

    A client is an address of this machine's loopback network, such as 127.0.0.5.
    """
    stop, statuses = threading.Event(), Counter[int]()

    def send(client: str, mine: np.ndarray) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(client, 0))
        for image in cycle(mine):
            tensor = {"name": "input", "shape": [1, *image.shape], "datatype": "FP32", "data": image.ravel().tolist()}
            connection.request("POST", "/v2/models/digits/infer", json.dumps({"inputs": [tensor]}))
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            if stop.wait(pace_s):
                break
        connection.close()

    parts = np.array_split(images, len(clients))
    threads = [threading.Thread(target=send, args=each) for each in zip(clients, parts, strict=True)]
    for each in threads:
        each.start()
    try:
        yield statuses
    finally:
        stop.set()
        for each in threads:
            each.join()
