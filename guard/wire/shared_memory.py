"""System shared memory, where the policy lets Guard copy it: what is screened is the copy, and so is what is sent on.

A region is read once, so that nobody can change it between the screening and the guarded server, which never hears of
it. Outputs are written into their regions by Guard. Nothing stays open or mapped: a region that its owner shortened
meanwhile would end the process with a signal. Only clients on this machine may name regions, and CUDA regions, whose
memory Guard can't copy, nobody may.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from guard.errors import MalformedRequest, MessageTooLarge, MethodDenied
from guard.pb import grpc_service_pb2 as v2
from guard.wire.message import Parts

MAX_REGIONS: Final = 256
_MAX_NAME: Final = 256
_KEY: Final = re.compile(r"/?[A-Za-z0-9_.\-]{1,250}")
_RESERVED: Final = "triton_python_backend_shm_region"
"""What Triton's own processes call theirs; it refuses these keys, too."""
_LOCAL: Final = ("unix", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]")
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
_LARGEST: Final = 2**63 - 1

Method: TypeAlias = Callable[[bytes, str], bytes]
"""Of a serialised request and the caller's name, the serialised answer."""


@dataclass(frozen=True, slots=True)
class Region:
    """A registered part of a shared memory object, `key`."""

    name: str
    key: str
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a region that a request names."""

    region: Region
    offset: int
    byte_size: int


class Regions:
    """The registered regions. `folder` is where the system keeps shared memory, one file an object.

    At most `max_bytes` are copied for one request.
    """

    def __init__(self, max_bytes: int, folder: Path = Path("/dev/shm")) -> None:  # noqa: S108 - where Linux has it
        self._max_bytes = max_bytes
        self._folder = folder
        self._regions: dict[str, Region] = {}
        self.methods: Mapping[str, Method] = {
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._unregister,
            "SystemSharedMemoryStatus": self._status,
            # Clients tidy up both kinds before they begin. There is never a CUDA region, so there is nothing to do.
            "CudaSharedMemoryUnregister": lambda _message, _caller: b"",
            "CudaSharedMemoryStatus": lambda _message, _caller: b"",
        }
        """What Guard answers itself, in place of the guarded server."""

    def copied(self, parts: Parts, caller: str) -> tuple[Parts, dict[str, Place]]:
        """The request with what its inputs name copied into it, and where its outputs go, by name.

        Raises:
            MalformedRequest: a region isn't registered, or does not hold that; or inputs are typed beside.
            MessageTooLarge: more is to be copied than a message may hold.
            MethodDenied: the caller is not on this machine.
        """
        header = parts.header
        named = {i: place for i, t in enumerate(header.inputs) if (place := self._take(t, caller)) is not None}
        outputs = {o.name: place for o in header.outputs if (place := self._take(o, caller)) is not None}
        if not named:
            return parts, outputs
        total = sum(place.byte_size for place in named.values())
        if total > self._max_bytes:
            raise MessageTooLarge(
                f"the inputs take {total} bytes of shared memory, more than upstream.max_message_bytes allows "
                f"({self._max_bytes}): send smaller batches"
            )
        in_message = iter(parts.raw)
        if len(parts.raw) + len(named) != len(header.inputs):
            raise MalformedRequest("beside inputs in shared memory all others must be in raw_input_contents")
        raw = tuple(
            self._read(named[index]) if index in named else next(in_message) for index in range(len(header.inputs))
        )
        return Parts(header, raw, parts.size + total), outputs

    def returned(self, response: bytes, outputs: Mapping[str, Place]) -> bytes:
        """The answer without the outputs that were put into their regions.

        Raises:
            MalformedRequest: a region is too small, or is gone.
        """
        answer = v2.ModelInferResponse.FromString(response)
        for index, output in enumerate(answer.outputs):
            place = outputs.get(output.name)
            if place is None or index >= len(answer.raw_output_contents):
                continue
            content = answer.raw_output_contents[index]
            self._write(place, content, output.name)
            answer.raw_output_contents[index] = b""
            output.parameters[_REGION].string_param = place.region.name
            output.parameters[_SIZE].int64_param = len(content)
            output.parameters[_OFFSET].int64_param = place.offset
        return answer.SerializeToString(deterministic=True)

    def _register(self, message: bytes, caller: str) -> bytes:
        asked = v2.SystemSharedMemoryRegisterRequest.FromString(message)
        _check_local(caller)
        if not 0 < len(asked.name) <= _MAX_NAME:
            raise MalformedRequest(f"a shared memory region has a name of 1 to {_MAX_NAME} characters")
        key = asked.key.removeprefix("/")
        if not _KEY.fullmatch(asked.key) or key in {".", ".."} or key.startswith(_RESERVED):
            raise MalformedRequest(f"the key of shared memory region {asked.name!r} names no shared memory object")
        if asked.name in self._regions:
            raise MalformedRequest(f"shared memory region {asked.name!r} is registered already; unregister it first")
        if len(self._regions) >= MAX_REGIONS:
            raise MalformedRequest(f"{MAX_REGIONS} shared memory regions are registered already; unregister some")
        region = Region(asked.name, key, asked.offset, asked.byte_size)
        if not 0 < region.byte_size <= _LARGEST or region.offset > _LARGEST - region.byte_size:
            raise MalformedRequest(f"shared memory region {asked.name!r} has an impossible offset or size")
        descriptor, size = self._open(region, os.O_RDONLY)
        os.close(descriptor)
        if region.offset + region.byte_size > size:
            raise MalformedRequest(
                f"shared memory region {asked.name!r} ends at {region.offset + region.byte_size}, and its object has "
                f"{size} bytes"
            )
        self._regions[asked.name] = region
        return b""

    def _unregister(self, message: bytes, caller: str) -> bytes:
        _check_local(caller)
        name = v2.SystemSharedMemoryUnregisterRequest.FromString(message).name
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()
        return b""

    def _status(self, message: bytes, caller: str) -> bytes:
        _check_local(caller)
        name = v2.SystemSharedMemoryStatusRequest.FromString(message).name
        if name and name not in self._regions:
            raise MalformedRequest(f"no shared memory region is registered as {name!r}")
        answer = v2.SystemSharedMemoryStatusResponse()
        for region in self._regions.values():
            if name in {"", region.name}:
                status = answer.regions[region.name]
                status.name, status.key = region.name, region.key
                status.offset, status.byte_size = region.offset, region.byte_size
        return answer.SerializeToString(deterministic=True)

    def _take(self, tensor: Any, caller: str) -> Place | None:
        """Where a tensor is, None if it is in the message. Its parameters about that are taken off."""
        parameters = tensor.parameters
        if _REGION not in parameters:
            return None
        _check_local(caller)
        name = str(_value(parameters, _REGION, "string_param", ""))
        size, offset = (int(_value(parameters, each, "int64_param", 0)) for each in (_SIZE, _OFFSET))
        region = self._regions.get(name)
        if region is None:
            raise MalformedRequest(f"tensor {tensor.name!r} is in shared memory region {name!r}, not registered")
        if size <= 0 or offset < 0 or offset + size > region.byte_size:
            raise MalformedRequest(
                f"tensor {tensor.name!r} takes {size} bytes from {offset} on of shared memory region {name!r}, "
                f"which has {region.byte_size}"
            )
        return Place(region, offset, size)

    def _open(self, region: Region, flags: int) -> tuple[int, int]:
        """A descriptor of the object, and its size now."""
        try:
            descriptor = os.open(self._folder / region.key, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise MalformedRequest(
                f"shared memory region {region.name!r} can't be opened by guard ({error.strerror})"
            ) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise MalformedRequest(f"the key of shared memory region {region.name!r} names no shared memory object")
        return descriptor, found.st_size

    def _read(self, place: Place) -> memoryview:
        descriptor, size = self._open(place.region, os.O_RDONLY)
        try:
            start = place.region.offset + place.offset
            if start + place.byte_size > size:  # before anything is allocated
                raise MalformedRequest(f"shared memory region {place.region.name!r} has become too short")
            content = memoryview(bytearray(place.byte_size))
            if os.preadv(descriptor, [content], start) != place.byte_size:
                raise MalformedRequest(f"shared memory region {place.region.name!r} has become too short")
            return content.toreadonly()
        finally:
            os.close(descriptor)

    def _write(self, place: Place, content: bytes, output: str) -> None:
        if len(content) > place.byte_size:
            raise MalformedRequest(
                f"output {output!r} takes {len(content)} bytes, and the request has room for {place.byte_size} in "
                f"shared memory region {place.region.name!r}"
            )
        descriptor, size = self._open(place.region, os.O_RDWR)
        try:
            start = place.region.offset + place.offset
            if start + len(content) > size:  # or the object would grow
                raise MalformedRequest(f"shared memory region {place.region.name!r} has become too short")
            os.pwrite(descriptor, content, start)
        finally:
            os.close(descriptor)


def _check_local(caller: str) -> None:
    if not caller.startswith(_LOCAL):
        raise MethodDenied("shared memory is for clients on guard's machine: send tensors in the request")


def _value(parameters: MutableMapping[str, Any], name: str, kind: str, default: object) -> Any:
    """A parameter, taken off."""
    if name not in parameters:
        return default
    parameter = parameters[name]
    if parameter.WhichOneof("parameter_choice") != kind:
        raise MalformedRequest(f"parameter {name!r} has the wrong type")
    value = getattr(parameter, kind)
    del parameters[name]
    return value
