"""One row for each kind of mistake in a policy file: what is said, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guard.config_file import explain, load_settings
from guard.errors import ConfigError

Write = Callable[[str], Path]

GOOD = "models:\n  digits: {profile: prof, model: m.onnx}\n"
DIGITS = "models:\n  digits:\n    profile: prof\n    model: m.onnx\n    "  # one more key goes on line 5

SHARED = f"{GOOD}noise_secret_file: secret\nquery_store:\n"  # one more key goes on line 5

AUDIT = f"{GOOD}audit:\n  folder: log\n  pseudonym_key_file: secret\n"  # one more key goes on line 6

# YAML, the line of the mistake, its dotted key, words of the problem, words of the remedy.
MISTAKES = {
    "unknown key": (f"upsteam: {{}}\n{GOOD}", 1, "upsteam", "not a setting", "did you mean upstream?"),
    "unknown key in a section": (
        f"{GOOD}limits:\n  max_items: 3\n", 4, "limits.max_items", "not a setting", "max_batch_items"
    ),
    "unknown key in a model": (DIGITS + "mdoe: flag", 5, "models.digits.mdoe", "not a setting", "did you mean mode?"),
    "unknown key like no other": (f"{GOOD}xyzzy: 1", 3, "xyzzy", "not a setting", "write one of: upstream, listen"),
    "duplicate key": (
        DIGITS + "profile: prof", 5, "models.digits.profile", "given on line 3 already", "keep one"
    ),
    "duplicate model": (GOOD + "  digits: {profile: prof, model: m.onnx}", 3, "models.digits", "line 2", "keep one"),
    "enum, close": (DIGITS + "mode: enfroce", 5, "models.digits.mode", "`enfroce`", "did you mean enforce?"),
    "enum, far": (DIGITS + "mode: off", 5, "models.digits.mode", "`off`", "write one of: shadow, flag, enforce"),
    "enum at the top": (GOOD + "unlisted_models: dney", 3, "unlisted_models", "`dney`", "deny, pass"),
    "missing key": ("models:\n  digits:\n    model: m.onnx", 2, "models.digits.profile", "missing", "guard calibrate"),
    "no value": (DIGITS + "on_abstain:", 5, "models.digits.on_abstain", "no value", "remove the key"),
    "a section without value": (GOOD + "limits:", 3, "limits", "no value", "remove the key"),
    "a model without value": ("models:\n  digits:", 2, "models.digits", "no value", "give it one"),
    "text for a section": (GOOD + "listen: 8011", 3, "listen", "`8011`, not a mapping", "write a mapping of keys"),
    "a list of models": ("models: [digits]", 1, "models", "a list, not a mapping", "names to policies"),
    "text for a model": ("models:\n  digits: prof", 2, "models.digits", "`prof`, not a mapping", "write a mapping"),
    "text for an integer": (
        GOOD + "limits: {max_queued_items: many}", 3, "limits.max_queued_items", "`many`, not a whole", "example 256"
    ),
    "a fraction for an integer": (
        GOOD + "limits: {max_queued_items: 1.5}", 3, "limits.max_queued_items", "not a whole number", "for example 256"
    ),
    "a boolean for an integer": (
        GOOD + "limits: {max_queued_items: yes}", 3, "limits.max_queued_items", "`yes`, not a whole", "for example 256"
    ),
    "text for a number": (
        DIGITS + 'false_positive_rate: "5 %"', 5, "models.digits.false_positive_rate", "`5 %`, not a number", "0.01"
    ),
    "a boolean for a choice": (
        DIGITS + "certificate: off", 5, "models.digits.certificate", "`off`", "skip, report, require"
    ),
    "a number for text": (GOOD + "listen: {address: 8011}", 3, "listen.address", "not text", "0.0.0.0:8011"),
    "a number for a path": ("models:\n a: {profile: 3, model: m.onnx}", 2, "models.a.profile", "not a path", "a path"),
    "a list for a path": (DIGITS + "\nnoise_secret_file: [a]", 6, "noise_secret_file", "a list, not a path", "a path"),
    "an integer below its range": (
        GOOD + "limits: {max_live_items: 0}", 3, "limits.max_live_items", "out of range", "of at least 1"
    ),
    "a rate above its range": (
        DIGITS + "false_positive_confidence: 2", 5, "models.digits.false_positive_confidence", "out of range",
        "above 0 and below 1",
    ),
    "an integer above its range": (
        GOOD + "upstream: {max_message_bytes: 2147483648}", 3, "upstream.max_message_bytes", "out of range",
        "of at least 1024 and of at most 2147483647",
    ),
    "a rate of 0": (
        DIGITS + "false_positive_rate: 0", 5, "models.digits.false_positive_rate", "out of range", "above 0"
    ),
    "a rate of 1": (
        DIGITS + "false_positive_rate: 1", 5, "models.digits.false_positive_rate", "out of range", "below 1"
    ),
    "a rate that is not a number": (
        DIGITS + "false_positive_rate: .nan", 5, "models.digits.false_positive_rate", "`.nan`", "above 0"
    ),
    "an odd rate": (
        DIGITS + "false_positive_rate: 0.95", 5, "models.digits.false_positive_rate", "0.95", "not a confidence"
    ),
    "an endless budget": (
        DIGITS + "screening_budget_s: .inf", 5, "models.digits.screening_budget_s", "out of range", "in seconds"
    ),
    "no port": (GOOD + "listen: {address: 127.0.0.1}", 3, "listen.address", "no host and port", "0.0.0.0:8011"),
    "no host": (GOOD + 'listen: {admin_address: ":9011"}', 3, "listen.admin_address", "no host", "127.0.0.1:9011"),
    "a URL": (GOOD + "upstream: {address: 'http://triton:8001'}", 3, "upstream.address", "no host", "unix:path"),
    "a port too high": (GOOD + "listen: {address: 'a:70000'}", 3, "listen.address", "over 65535", "host:port"),
    "one port for two": (
        GOOD + "listen:\n  address: a:9011\n", 4, "listen.address", "both want port 9011", "another port"
    ),
    "one port for two, both given": (
        GOOD + "listen:\n  address: a:1\n  admin_address: b:1", 5, "listen.admin_address", "both want", "another port"
    ),
    "one port for gRPC and HTTP": (
        GOOD + "listen:\n  http_address: a:8011", 4, "listen.http_address", "both want port 8011", "another port"
    ),
    "one port for HTTP and Envoy": (
        GOOD + "listen:\n  http_address: a:1\n  envoy_address: localhost:1", 5, "listen.envoy_address",
        "http_address and", "another port",
    ),
    "anybody for Envoy": (
        GOOD + "listen:\n  envoy_address: 0.0.0.0:8012", 4, "listen.envoy_address", "can be reached from elsewhere",
        "127.0.0.1:8012",
    ),
    "guard upstream of itself": (
        GOOD + "upstream:\n  address: localhost:8011", 4, "upstream.address", "call itself", "guarded server's gRPC"
    ),
    "a profile that isn't there": (
        "models:\n  a:\n    profile: gone\n    model: m.onnx", 3, "models.a.profile", "gone holds no profile",
        "guard calibrate --model MODEL.onnx",
    ),
    "a folder without a profile": (
        "models:\n  a:\n    profile: empty\n    model: m.onnx", 3, "models.a.profile", "no profile.json",
        "guard calibrate",
    ),
    "no profile of an upstream model": (
        "models: {a: {profile: gone, replica: upstream}}", 1, "models.a.profile", "holds no profile",
        "guard calibrate --upstream ADDRESS --model-name a",
    ),
    "no model file named": ("models:\n  a:\n    profile: prof", 2, "models.a.model", "needs a model", "add `model:"),
    "no model file there": (
        "models:\n  a:\n    profile: prof\n    model: gone.onnx", 4, "models.a.model", "gone.onnx is not a file",
        "relative to this file",
    ),
    "a folder for a model file": (
        "models: {a: {profile: prof, model: empty}}", 1, "models.a.model", "empty is not a file", "replica: upstream"
    ),
    "a model that nothing reads": (
        "models:\n  a:\n    profile: prof\n    replica: upstream\n    model: m.onnx", 5, "models.a.model",
        "models.a.model has no effect beside replica: upstream", "remove model, or write replica: onnx",
    ),
    "a device that nothing uses": (
        "models:\n  a:\n    profile: prof\n    replica: upstream\n    device: cuda", 5, "models.a.device",
        "no effect", "remove device",
    ),
    "a secret that isn't there": (
        GOOD + "noise_secret_file: gone", 3, "noise_secret_file", "can't be read (No such file", "head -c 32"
    ),
    "a short secret": (GOOD + "noise_secret_file: short", 3, "noise_secret_file", "15 bytes", "head -c 32"),
    "a store without a secret": (
        GOOD + "query_store:\n  url: redis://store", 4, "query_store.url", "needs noise_secret_file", "the same file",
    ),
    "a store that is none": (
        SHARED + "  url: http://store", 5, "query_store.url", "no redis://host:port", "redis://user@host:port/database"
    ),
    "options in a store's URL": (
        SHARED + "  url: redis://store?ssl_cert_reqs=none", 5, "query_store.url", "no redis://host:port", "write redis",
    ),
    "a store's port too high": (SHARED + "  url: redis://a:70000", 5, "query_store.url", "over 65535", "host:port"),
    "a password in a URL": (
        SHARED + "  url: redis://:sesame@a", 5, "query_store.url", "query_store.url holds a password", "password_file"
    ),
    "a store without URL": (
        GOOD + "query_store:\n  password_file: secret", 4, "query_store.password_file", "no effect without",
        "add `url: redis://HOST:PORT`",
    ),
    "a password that isn't there": (
        SHARED + "  url: redis://a\n  password_file: gone", 6, "query_store.password_file",
        "gone can't be read (No such file", "correct query_store.password_file",
    ),
    "an empty password": (
        SHARED + "  url: redis://a\n  password_file: nothing", 6, "query_store.password_file", "nothing is empty",
        "correct query_store.password_file",
    ),
    "a CA for no TLS": (
        SHARED + "  url: redis://a\n  ca_file: m.onnx", 6, "query_store.ca_file", "no effect beside redis://", "rediss://"
    ),
    "no time for a store": (
        SHARED + "  url: redis://a\n  timeout_s: 0", 6, "query_store.timeout_s", "out of range", "above 0"
    ),
    "no certificate": (
        GOOD + "listen:\n  tls: {certificate_file: m.onnx, key_file: secret}", 4, "listen.tls.certificate_file",
        "m.onnx holds no certificate in PEM", "-----BEGIN CERTIFICATE-----",
    ),
    "a certificate that isn't there": (
        GOOD + "upstream:\n  tls:\n    ca_file: gone", 5, "upstream.tls.ca_file", "gone can't be read (No such file",
        "relative to this file",
    ),
    "a certificate without key": (
        GOOD + "listen:\n  tls:\n    certificate_file: m.onnx", 4, "listen.tls.key_file", "is missing", "PEM file"
    ),
    "an upstream's certificate without key": (
        GOOD + "upstream:\n  tls:\n    certificate_file: m.onnx", 5, "upstream.tls.certificate_file",
        "no effect without upstream.tls.key_file", "name both, or none",
    ),
    "unknown key in a section that may be left out": (
        GOOD + "upstream: {tls: {ca_fiel: m.onnx}}", 3, "upstream.tls.ca_fiel", "not a setting", "did you mean ca_file?"
    ),
    "a key of metadata that is none": (
        GOOD + "upstream: {restricted_protocol: {key: Admin, value_file: m.onnx}}", 3,
        "upstream.restricted_protocol.key", "`Admin`", "in lower case",
    ),
    "an empty secret": (
        GOOD + "upstream:\n  restricted_protocol:\n    key: guard\n    value_file: nothing", 6,
        "upstream.restricted_protocol.value_file", "nothing is empty, or holds more", "write one line",
    ),
    "an unknown compression": (
        GOOD + "upstream: {compression: zip}", 3, "upstream.compression", "`zip`", "did you mean gzip?"
    ),
    "rights of no socket": (
        GOOD + "listen:\n  socket_access: owner", 4, "listen.socket_access", "no effect where listen.address is no",
        "remove socket_access",
    ),
    "one socket for both": (
        GOOD + "listen: {address: 'unix:/run/g'}\nupstream:\n  address: unix:/run/g", 5, "upstream.address",
        "guard would call itself", "socket of the guarded server's",
    ),
    "a log without a key": (
        GOOD + "audit:\n  folder: log", 4, "audit.folder", "needs audit.pseudonym_key_file", "head -c 32 /dev/urandom"
    ),
    "a key without a log": (
        GOOD + "audit:\n  pseudonym_key_file: secret", 4, "audit.pseudonym_key_file", "no effect without audit.folder",
        "add `folder:`",
    ),
    "a short key of pseudonyms": (
        GOOD + "audit:\n  folder: log\n  pseudonym_key_file: short", 5, "audit.pseudonym_key_file",
        "holds 15 bytes, and a key needs 16 or more", "head -c 32",
    ),
    "a key of captures that is none": (
        AUDIT + "  captures: {key_file: short}", 6, "audit.captures.key_file", "a key needs 32", "head -c 32"
    ),
    "captures without a key": (
        AUDIT + "  captures: {ttl_s: 60}", 6, "audit.captures.ttl_s", "no effect without audit.captures.key_file",
        "add `key_file: FILE`",
    ),
    "a volume too small": (
        AUDIT + "  volume_bytes: 1048576", 6, "audit.volume_bytes", "and 2 segments take 33554432", "raise audit.volume"
    ),
    "more than all forwards": (AUDIT + "  forwards: 2", 6, "audit.forwards", "out of range", "of at most 1"),
    "a ratio without a collector": (
        GOOD + "tracing:\n  sample_ratio: 0.1", 4, "tracing.sample_ratio", "no effect without tracing.address",
        "add `address: HOST:PORT`",
    ),
    "a CA without TLS": (
        GOOD + "tracing:\n  address: a:4317\n  ca_file: secret", 5, "tracing.ca_file", "no effect without TLS",
        "add `tls: true`",
    ),
    "a CA that is not there": (
        GOOD + "tracing: {address: 'a:4317', tls: true, ca_file: none}", 3, "tracing.ca_file", "is not a file",
        "correct the path",
    ),
    "a console for all": (
        GOOD + "listen: {admin_address: 0.0.0.0:9011}\nconsole:\n  enabled: true", 5, "console.enabled",
        "0.0.0.0 is not on loopback", "a token in console.token_file",
    ),
    "a short token": (
        GOOD + "console:\n  enabled: true\n  token_file: short", 5, "console.token_file", "holds no token",
        "head -c 24 /dev/urandom | base64",
    ),
    "a token that is not there": (
        GOOD + "console:\n  enabled: true\n  token_file: none", 5, "console.token_file", "can't be read",
        "correct the path",
    ),
    "a console that is off": (
        GOOD + "console:\n  keep: 5", 4, "console.keep", "no effect without console.enabled", "add `enabled: true`"
    ),
    "too much to keep": (
        GOOD + "console:\n  enabled: true\n  keep: 5000", 5, "console.keep", "out of range", "at most 1000"
    ),
    "no models": ("listen: {}\nmodels: {}", 2, "models", "nothing would ever be let through", "unlisted_models: pass"),
    "no models at all": ("listen: {}", 1, "models", "nothing would ever be let through", "list the models"),
    "an empty file": ("", 1, "", "empty", "models: {my-model:"),
    "only a comment": ("# to do\n", 1, "", "empty", "models: {my-model:"),
    "a list": ("- a\n- b", 1, "", "not a mapping", "begin with models:"),
    "text": ("hello", 1, "", "not a mapping", "begin with models:"),
    "a tab": ("models:\n\tdigits: {}", 2, "", "not YAML", "no tabs"),
    "a bracket left open": ("models: {digits: {profile: prof\n", 2, "", "not YAML", "line before"),
    "a colon too many": ("models:\n  a: b: c", 2, "", "mapping values are not allowed", "colons"),
    "two documents": (GOOD + "---\n" + GOOD, 3, "", "not YAML", "indentation"),
    "a tag that would run code": ("models: !!python/name:os.system x", 1, "", "could not determine", "indentation"),
    "a key that is a list": ("? [a]\n: 1", 1, "", "not YAML", "indentation"),
    "an unknown anchor": ("models: *nowhere", 1, "", "undefined alias", "indentation"),
    "a date that is none": (GOOD + "noise_secret_file: 2024-99-99", 1, "", "month must be", "in quotes"),
    "characters that YAML forbids": ("models: \x07", 1, "", "special characters", "UTF-8"),
    "nested too deeply": ("[" * 5000, 1, "", "recursion", "plain text"),
}  # fmt: skip


@pytest.mark.parametrize("row", MISTAKES.values(), ids=MISTAKES.keys())
def test_each_mistake_is_explained(write: Write, row: tuple[str, int, str, str, str]) -> None:
    """Each mistake is the only one reported, at its line and key, in plain English, with what to do."""
    text, line, where, problem, remedy = row
    path = write(text)
    (found,) = explain(path)
    assert (found.path, found.line, found.where) == (path, line, where)
    assert problem in found.problem
    assert remedy in found.remedy
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert str(raised.value) == f"{path}:{line}: {found.problem}; {found.remedy}"
    assert "sesame" not in str(raised.value)  # a password
