"""What a served model says about itself: the v2 answers about metadata, configuration and statistics."""

from __future__ import annotations

from guard.embedded.model import VERSION, ServedModel
from guard.pb import grpc_service_pb2 as v2
from guard.pb import model_config_pb2

PLATFORM = "onnxruntime_onnx"


def metadata(model: ServedModel) -> v2.ModelMetadataResponse:
    """Names, data types and shapes, dynamic dimensions being -1."""
    response = v2.ModelMetadataResponse(name=model.name, versions=[VERSION], platform=PLATFORM)
    for tensor in model.inputs.values():
        response.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for tensor in model.outputs.values():
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response


def configuration(model: ServedModel) -> model_config_pb2.ModelConfig:
    """Triton's configuration of the same model: full shapes, so `max_batch_size` is 0 and any batch is taken."""
    config = model_config_pb2.ModelConfig(
        name=model.name, platform=PLATFORM, backend="onnxruntime", max_batch_size=0, default_model_filename="model.onnx"
    )
    for tensor in model.inputs.values():
        config.input.add(name=tensor.name, data_type=_data_type(tensor.datatype), dims=tensor.shape)
    for tensor in model.outputs.values():
        config.output.add(name=tensor.name, data_type=_data_type(tensor.datatype), dims=tensor.shape)
    return config


def statistics(model: ServedModel) -> v2.ModelStatistics:
    """What was counted since the server started; durations of the steps are those of successful requests."""
    counts = model.counts
    answer = v2.ModelStatistics(
        name=model.name,
        version=VERSION,
        last_inference=counts.last_inference_ms,
        inference_count=counts.items,
        execution_count=counts.successes,
    )
    answer.inference_stats.success.count = counts.successes
    answer.inference_stats.success.ns = counts.success_ns
    answer.inference_stats.fail.count = counts.failures
    answer.inference_stats.fail.ns = counts.failure_ns
    for step, spent_ns in counts.spent_ns.items():
        duration = getattr(answer.inference_stats, step)
        duration.count = counts.successes
        duration.ns = spent_ns
    return answer


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
