"""canonical and with_verdict: the upstream gets what was screened, the client what was decided."""

from __future__ import annotations

from hypothesis import given, settings

from guard.pb.grpc_service_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from guard.values import Action, Decision, Mode, Verdict
from guard.wire.message import parse, take_apart, with_verdict
from guard.wire.scan import length_delimited
from tests.wire.messages import (
    VALID,
    assert_same_request,
    full,
    requests,
    two_inputs,
)


class TestCanonical:
    """Re-emission."""

    @settings(max_examples=300, deadline=None)
    @given(requests())
    def test_fixed_point(self, message: bytes) -> None:
        """Re-emission keeps the request, is a fixed point, and is what protobuf itself would write."""
        parsed = parse(take_apart(message))
        canonical = parsed.canonical()
        again = parse(take_apart(canonical))
        assert_same_request(again, parsed)
        assert again.canonical() == canonical
        assert full(parsed).SerializeToString(deterministic=True) == canonical

    def test_split_and_duplicate_fields_are_merged(self) -> None:
        """Fields given twice leave as the one value that was screened: the last scalar, the merged submessage."""
        first = ModelInferRequest(model_name="harmless", id="1")
        first.parameters["key"].string_param = "first"
        last = ModelInferRequest(model_name="digits")
        last.parameters["key"].string_param = "last"
        # one input whose `contents` come in two halves
        halves = [InferTensorContents(fp32_contents=[value]).SerializeToString() for value in (1.0, 2.0)]
        tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2]).SerializeToString()
        tensor += b"".join(length_delimited(5, len(half)) + half for half in halves)
        message = first.SerializeToString() + length_delimited(5, len(tensor)) + tensor + last.SerializeToString()

        parsed = parse(take_apart(message))
        assert parsed.infer.model_name == "digits"
        assert parsed.infer.inputs[0].typed is not None
        assert parsed.infer.inputs[0].typed.tolist() == [1.0, 2.0]
        canonical = parsed.canonical()
        assert b"harmless" not in canonical
        assert b"first" not in canonical
        assert ModelInferRequest.FromString(canonical) == ModelInferRequest.FromString(message)

    def test_unknown_fields_are_gone(self) -> None:
        """Fields that Guard doesn't know do not reach the upstream, at any depth."""
        tensor = ModelInferRequest.InferInputTensor(name="x", datatype="UINT8", shape=[2]).SerializeToString()
        tensor += length_delimited(99, 6) + b"nested"
        message = length_delimited(5, len(tensor)) + tensor + length_delimited(7, 2) + b"hi"
        message += length_delimited(100, 5) + b"outer"
        canonical = parse(take_apart(message)).canonical()
        assert b"nested" not in canonical
        assert b"outer" not in canonical
        assert ModelInferRequest.FromString(canonical).raw_input_contents == [b"hi"]

    def test_forged_parameters_are_gone(self) -> None:
        """Parameters named guard_* can't be forged, on the request or on its tensors; others stay."""
        message = ModelInferRequest.FromString(VALID)
        message.outputs.add(name="y")
        for holder in (message, message.inputs[0], message.outputs[0]):
            holder.parameters["guard_verdict"].string_param = "clean"
            holder.parameters["priority"].int64_param = 1
        sent = ModelInferRequest.FromString(parse(take_apart(message.SerializeToString())).canonical())
        for holder in (sent, sent.inputs[0], sent.outputs[0]):
            assert list(holder.parameters) == ["priority"]

    def test_overlong_varints_are_normalised(self) -> None:
        """A tag written longer than needed is read as protobuf reads it, and leaves in its short form."""
        header = VALID[: VALID.index(b"\x3a\x02hi")]
        parsed = parse(take_apart(header + b"\xba\x00\x82\x00hi"))
        assert parsed.canonical() == parse(take_apart(VALID)).canonical()

    def test_what_is_canonical_is_not_copied(self) -> None:
        """A message that came in canonical form goes on as it is; one of the same fields in another order does not."""
        raw = b"\x3a\x02hi"
        header = VALID.removesuffix(raw)
        assert parse(take_apart(VALID)).canonical() is VALID
        for message in (raw + header, b"\x1a\x00" + VALID, VALID + b"\x1a\x00"):  # the last two: an empty id
            assert parse(take_apart(message)).canonical() == VALID
        both = two_inputs("a", "b")
        assert parse(take_apart(both)).canonical() is both


class TestVerdict:
    """Marks on responses."""

    DECISION = Decision("d-1", "digits", Mode.FLAG, Verdict.ADVERSARIAL, 0.001, Action.FLAG, Action.FLAG, ())

    def test_marks_are_added(self) -> None:
        """The verdict and the decision's id join the parameters; the rest of the response is as it was."""
        response = ModelInferResponse(model_name="digits", raw_output_contents=[b"abc"])
        response.parameters["triton_final_response"].bool_param = True
        marked = ModelInferResponse.FromString(with_verdict(response.SerializeToString(), self.DECISION))
        assert marked.parameters.pop("guard_verdict").string_param == "adversarial"
        assert marked.parameters.pop("guard_id").string_param == "d-1"
        assert marked == response

    def test_forged_marks_do_not_survive(self) -> None:
        """A verdict that the response already carried is replaced."""
        response = ModelInferResponse()
        response.parameters["guard_verdict"].string_param = "clean"
        marked = ModelInferResponse.FromString(with_verdict(response.SerializeToString(), self.DECISION))
        assert marked.parameters["guard_verdict"].string_param == "adversarial"

    def test_no_score_leaves(self) -> None:
        """Neither score nor p-value is in the response: they would be an attacker's oracle."""
        marked = ModelInferResponse.FromString(with_verdict(b"", self.DECISION))
        assert set(marked.parameters) == {"guard_verdict", "guard_id"}
