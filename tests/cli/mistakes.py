"""What a new user gets wrong, and what the commands say to it."""

from __future__ import annotations

CONFIG, ENVIRONMENT, DATA, PROFILE, MODEL, UPSTREAM = 2, 3, 4, 5, 6, 7

CALIBRATE = "calibrate --out made --model digits.onnx --data "
DIGITS = "calibrate --out made --data clean.npz "
EMBEDDED = "serve --embedded digits.onnx "
EVALUATE = "evaluate profile --model digits.onnx --out made --data "

# The command ({upstream}: a real server, {busy}: an address in use), its exit code, and patterns of its message.
MISTAKES = {
    "no data": (CALIBRATE + "nowhere", DATA, ["nowhere does not exist", "takes a folder"]),
    "empty folder": (CALIBRATE + "empty", DATA, ["empty holds no images", ".png"]),
    "images of two sizes": (CALIBRATE + "sizes", DATA, [r"sizes/9.png has shape \[9, 9\]", "resize all samples"]),
    "too few samples": (CALIBRATE + "few.npy", DATA, ["20 clean samples are too few", "needs 150"]),
    "NaN samples": (CALIBRATE + "nan.npy", DATA, ["NaN or infinity in 1 of 797 samples", "leave such"]),
    "values outside bounds": (CALIBRATE + "wide.npy", DATA, ["from 0 to 255, outside", "0 to 1", "with --bounds"]),
    "samples of another shape": (
        CALIBRATE + "other-shape.npy", MODEL,
        [r"does not accept samples of shape \[3, 9, 9\]"],
    ),
    "no model file": (DIGITS + "--model gone.onnx", MODEL, ["gone.onnx can't be read", "check --model"]),
    "broken model file": (DIGITS + "--model broken.onnx", MODEL, ["not a loadable ONNX model", "; export it again"]),
    "a model of two inputs": (DIGITS + "--model two.onnx", MODEL, [r"\['a', 'b'\]", "models with one input"]),
    "no model": (DIGITS, CONFIG, ["--model model.onnx, or --upstream host:port --model-name NAME"]),
    "two models": (DIGITS + "--model digits.onnx --upstream a:1", CONFIG, ["say either --model .* or --upstream"]),
    "no model name": (DIGITS + "--upstream a:1", CONFIG, ["name the model with --model-name: the server at a:1"]),
    "no model name beside a policy": (
        DIGITS + "--config down.yaml", CONFIG,
        ["^guard: name the model with --model-name: the server at 127.0.0.1:2 may have several$"],
    ),
    "an upstream's URL": (
        DIGITS + "--upstream http://localhost:8000 --model-name digits", CONFIG,
        ["^guard: --upstream http://localhost:8000: write host:port of the server's gRPC, without a scheme$"],
    ),
    "upstream down": (
        DIGITS + "--upstream 127.0.0.1:1 --model-name digits", UPSTREAM, ["no inference server", "is it running"]
    ),
    "a policy's upstream down": (
        DIGITS + "--config down.yaml --model-name digits", UPSTREAM, ["no inference server answers at 127.0.0.1:2"]
    ),
    "a policy's upstream without its secret": (
        DIGITS + "--config secretless.yaml --model-name digits", CONFIG,
        ["^guard: secretless.yaml:1: upstream.restricted_protocol.value_file .*gone can't be read"],
    ),
    "upstream without the model": (
        DIGITS + "--upstream {upstream} --model-name digit", MODEL,
        ["^guard: --model-name digit: --upstream {upstream} has no model of that name .*NOT_FOUND"],
    ),
    "a device for a server": (
        DIGITS + "--upstream a:1 --model-name digits --device cuda", CONFIG,
        ["--device cuda is for a --model file", "leave it out where a server has it"],
    ),
    "a precision for a server": (
        DIGITS + "--upstream {upstream} --model-name digits --precision fp16", DATA,
        ["--precision fp16 makes a replica from an ONNX file: name it with --model, or leave it out"],
    ),
    "a cluster for a server": (
        DIGITS + "--upstream {upstream} --model-name digits --ray local", CONFIG,
        ["--ray needs --model, a file that can be sent to the cluster; leave it out beside --upstream"],
    ),
    "unknown precision": (CALIBRATE + "clean.npz --precision int4", CONFIG, ["--precision", "'int4'", "'int8'"]),
    "bounds the wrong way": (CALIBRATE + "clean.npz --bounds 1 0", CONFIG, ["--bounds 1 0", "the smaller one first"]),
    "a file for the profile": (
        "calibrate --out few.npy --model digits.onnx --data clean.npz", CONFIG,
        ["--out few.npy can't be made", "another"],
    ),
    "unknown mutation": (CALIBRATE + "clean.npz --mutation blur", CONFIG, ["--mutation", "'blur'", "'shift_rotate'"]),
    "negative seed": (CALIBRATE + "clean.npz --seed -1", CONFIG, ["--seed", "greater than or equal to 0"]),
    "no profile to show": ("profile show empty", PROFILE, ["empty holds no profile", "guard calibrate"]),
    "damaged profile": ("profile show damaged", PROFILE, ["damaged/scores.npz is not the file", "make it again"]),
    "no policy named": ("check-config", CONFIG, ["guard check-config policy.yaml"]),
    "no policy there": ("check-config gone.yaml", CONFIG, ["gone.yaml:1: the file can't be read", "check the path"]),
    "mistakes in a policy": (
        "check-config bad.yaml",
        CONFIG,
        [
            "^guard: bad.yaml:1: listen.address is `8011`, not text; write text",
            "^bad.yaml:2: modles is not a setting; did you mean models?",
            "^bad.yaml:4: models.digits has replica: onnx, which needs a model file; add `model: FILE.onnx`",
            "^bad.yaml:5: nowhere holds no profile.*; run `guard calibrate",
            "^bad.yaml:6: .*`enfroce`.*did you mean enforce?",
            "^bad.yaml:7: .*out of range; write a number above 0 and below 1",
        ],
    ),
    "models that can't be loaded": (
        "check-config unloadable.yaml",
        CONFIG,
        [
            "^guard: unloadable.yaml:5: .*`enfroce`.*did you mean enforce?",
            "^unloadable.yaml:6: model 'digits': .* a false-positive rate of 0.0001 needs 9999",
            "^unloadable.yaml:4: model 'digits': the profile was calibrated with another model than .*again.onnx",
            "^unloadable.yaml:8: .*damaged/scores.npz is not the file",
        ],
    ),
    "settings without effect": (
        "check-config no-effect.yaml",
        CONFIG,
        [
            "^guard: no-effect.yaml:5: models.digits.model has no effect beside replica: upstream.*; remove model",
            "^no-effect.yaml:6: models.digits.device has no effect beside replica: upstream.*; remove device",
        ],
    ),
    "serve a policy with mistakes": ("serve --config bad.yaml", CONFIG, ["bad.yaml:2: modles is not a setting"]),
    "serve nothing": ("serve", CONFIG, ["--config policy.yaml, or --embedded model.onnx"]),
    "serve a policy without its option": (
        "serve policy.yaml", CONFIG, ["^guard: name the policy with --config: guard serve --config policy.yaml$"]
    ),
    **{
        f"{command} a policy with an option": (
            f"{command} --config policy.yaml", CONFIG,
            [f"^guard: name the policy without --config: guard {command} policy.yaml$"],
        )
        for command in ("check-config", "doctor")
    },
    "serve two things": ("serve --config policy.yaml --embedded digits.onnx", CONFIG, ["say either --config"]),
    "serve no model file": ("serve --embedded gone.onnx", MODEL, ["no model file gone.onnx", "name an ONNX file"]),
    "serve without its profile": (EMBEDDED + "--profile empty", PROFILE, ["empty holds no profile", "guard calibrate"]),
    "serve another model": (
        "serve --embedded again.onnx --profile profile",
        PROFILE,
        ["'again'.*calibrated with another model than again.onnx", "calibrate this one"],
    ),
    "a rate too strict": (
        EMBEDDED + "--profile profile --false-positive-rate 0.0001", PROFILE,
        ["holds 319 .* needs 9999", "ask for 0.0032"],
    ),
    "a rate of seven": (
        EMBEDDED + "--profile profile --false-positive-rate 7", CONFIG,
        ["^guard: --false-positive-rate is `7`, which is out of range; write a number above 0 and below 1: share of"],
    ),
    "no address": (
        EMBEDDED + "--address here --admin-address 80",
        CONFIG,
        ["^guard: --address is `here`: it has no host and port; write", "^--admin-address is `80`: it has no host"],
    ),
    "port in use": (
        EMBEDDED + "--admin-address 127.0.0.1:0 --address {busy}", CONFIG,
        ["can't listen on {busy}", "in use", "stop what", "or set --address to another"],
    ),
    "admin port in use": (
        EMBEDDED + "--address 127.0.0.1:0 --admin-address {busy}", CONFIG,
        ["can't listen on {busy}", "in use", "stop what", "or set --admin-address to another"],
    ),
    "port of a policy in use": (
        "serve --config busy.yaml", CONFIG, ["can't listen on {busy}", "or set listen.address to another"]
    ),
    "enforce without a profile": (
        EMBEDDED + "--mode enforce", CONFIG,
        ["nothing is screened without --profile.*--mode"],
    ),
    "enforce beside a policy": (
        "serve --config policy.yaml --mode enforce", CONFIG, ["write these in the policy file instead: --mode"]
    ),
    "results into a file": ("demo --json results.json", CONFIG, ["unexpected extra argument", "results.json"]),
    "the demo into a file": ("demo --dir few.npy", CONFIG, ["--dir few.npy can't be made a folder", "name another"]),
    "a console for all": (
        EMBEDDED + "--console --admin-address 0.0.0.0:9011",
        CONFIG,
        ["^guard: --console would show flagged inputs to .* --admin-address 0.0.0.0:9011; let that be 127.0.0.1"],
    ),
    "a console beside a policy": (
        "serve --config policy.yaml --console", CONFIG, ["write these in the policy file instead: --console"]
    ),
    "a mistake in YAML": (
        "check-config syntax.yaml", CONFIG,
        ["^guard: syntax.yaml:2: this is not YAML: .*check the ind"],
    ),
    "a short noise secret": (
        "check-config short.yaml", CONFIG,
        ["key holds 2 bytes", "needs 16 or more", "head -c 32"],
    ),
    "no noise secret": (
        "check-config unmade.yaml", CONFIG,
        [r"gone.key can't be read \(No such file or directory\); run `head -c 32"],
    ),
    "a certificate that is not there": (
        "check-config tls.yaml", CONFIG,
        ["tls.certificate_file gone.crt can't be read", "correct the path", "key_file gone"],
    ),
    "an address of another machine": (
        EMBEDDED + "--admin-address 127.0.0.1:0 --address 192.0.2.1:8011", CONFIG,
        ["can't listen on 192.0.2.1:8011", "not one of this machine", "set --address to another"],
    ),
    "an option misspelt": (EMBEDDED + "--adress 127.0.0.1:80", CONFIG, ["--adress", "--address"]),
    "serve a broken model": (
        "serve --embedded broken.onnx", MODEL, [r"can't load broken.onnx: .*[^.]\. Check that", "export it again"]
    ),
    "a file that is no image": (CALIBRATE + "junk", DATA, ["junk/1.png can't be read as an image", "remove it"]),
    "a text for data": (
        CALIBRATE + "text.npz", DATA,
        ["text.npz is damaged, or no file that numpy wrote", "numpy.savez"],
    ),
    "arrays without a name": (
        CALIBRATE + "two.npz", DATA,
        [r"two.npz holds arrays \['a', 'b'\]", "name the samples one of"],
    ),
    "an unknown condition": (
        CALIBRATE + "clean.npz --condition fog:3", CONFIG,
        ["--condition fog:3", "jpeg:10 to jpeg:99"],
    ),
    "a folder with the name of an image": (
        CALIBRATE + "nested --preprocessing p.yaml", DATA,
        [r"nested/b.png can't be read \(Is a directory\); change its permissions, or remove it"],
    ),
    "a file in the way of what is kept": (
        "evaluate profile --model digits.onnx --out ev --data others.npz", CONFIG,
        [r"--out ev/kept can't be made a folder \(File exists\); name another"],
    ),
    "preprocessing that is not YAML": (
        CALIBRATE + "images --preprocessing syntax.yaml", CONFIG,
        ["^guard: --preprocessing syntax.yaml:2: this is not YAML"],
    ),
    "no place for the profile": ("calibrate --model digits.onnx --data clean.npz", CONFIG, ["Missing option '--out'"]),
    "no host of that name": (
        DIGITS + "--upstream nohost.invalid:8001 --model-name digits", UPSTREAM,
        ["answers at nohost.invalid:8001", "is it running, and is this its gRPC port"],
    ),
    "a profile cut short": (
        "profile show cut", PROFILE,
        ["cut/profile.json can't be read", "make it again with `guard cal"],
    ),
    "a file for a profile": (
        "profile show few.npy", PROFILE,
        ["few.npy is no folder: name the one that `guard calibrate`"],
    ),
    "evaluate another model": (
        "evaluate profile --model again.onnx --data clean.npz --out made", PROFILE,
        ["--model again.onnx is another model than the profile", "name that one's file, or calibrate"],
    ),
    "no audit log": ("audit verify empty", DATA, ["empty holds no audit log", "the policy has as audit.folder"]),
    "no folder for a picture": (
        "audit show a log --out nowhere/x.png", DATA,
        [r"^guard: nowhere/x.png can't be written \(No such file or directory\); .* or name another"],
    ),
    "a folder for a picture": (
        "audit show a log --out taken.png", DATA, [r"^guard: taken.png can't be written \(Is a directory\)"]
    ),
    "no folder for a table": (
        "audit export log --out nowhere/x.parquet", DATA,
        ["^guard: nowhere/x.parquet can't be written .*; make room or change permissions, or name another"],
    ),
    "no key in the file": (
        "audit pseudonym me --key key", DATA,
        ["--key key holds 2 bytes", "name the file that the policy"],
    ),
    "unknown command": ("clibrate", CONFIG, ["No such command 'clibrate'"]),
}  # fmt: skip

DENIED = {
    "a policy": ("check-config denied.yaml", CONFIG, ["'policy': path 'denied.yaml' is not readable"]),
    "a model": (DIGITS + "--model denied.onnx", CONFIG, ["'--model': path 'denied.onnx' is not readable"]),
    "a noise secret": (
        "check-config secret.yaml", CONFIG,
        [r"denied.key can't be read \(Permission denied\); correct the path, or who may read it$"],
    ),
    "samples": (CALIBRATE + "denied.npz", CONFIG, ["'--data': path 'denied.npz' is not readable"]),
    "a profile": ("profile show sealed", PROFILE, ["sealed/profile.json can't be read", "check its permissions"]),
    "a place for the profile": (
        "calibrate --out closed --model digits.onnx --data clean.npz", CONFIG,
        ["--out closed can't be written to; change its permissions, or name another"],
    ),
    "an image": (
        CALIBRATE + "dim --preprocessing p.yaml", DATA,
        [r"dim/a.png can't be read \(Permission denied\); change its permissions, or remove it"],
    ),
    "samples in a folder": (
        CALIBRATE + "shut/x.npz", DATA, [r"shut/x.npz can't be read \(Permission denied\); change permissions"]
    ),
    "samples in a folder, to evaluate": (
        EVALUATE + "shut/x.npz", DATA, [r"shut/x.npz can't be read \(Permission denied\); change permissions"]
    ),
    "a model in a folder": (
        "serve --embedded shut/m.onnx", MODEL, [r"shut/m.onnx can't be read \(Permission denied\)"],
    ),
    "what a policy names, in a folder": (
        "check-config shut.yaml", CONFIG,
        [
            r"^guard: shut.yaml:1: tracing.ca_file shut/ca.pem can't be read \(Permission denied\); correct the path",
            r"shut.yaml:4: shut/profile.json can't be read \(Permission denied\); change permissions, or correct the",
            r"shut.yaml:5: shut/m.onnx can't be read \(Permission denied\); correct the path",
        ],
    ),
    "a place for a picture": (
        "audit show a log --out closed/x.png", DATA,
        [r"closed/x.png can't be written \(Permission denied\); make room or change permissions, or name another"],
    ),
    "a log to verify": ("audit verify locked", DATA, [r"locked/\S+ can't be read .*: look as the user that Guard"]),
    "a log to show": ("audit show a locked", DATA, [r"locked/\S+ can't be read \(Permission denied\): look"]),
    "a log to export": ("audit export locked --out x.parquet", DATA, [r"locked/\S+ can't be read \(Permission denied"]),
}  # fmt: skip
"""What may not be read or written: the command, its exit code, and patterns of its message."""
