"""Files as an attacker or a broken disk leaves them: bytes changed anywhere, or the format's own parts changed.

Every change is drawn from a `random.Random`, so that its seed gives the same file again.
"""

import io
import json
import pickletools
import random
import tarfile
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

NAMES = (
    *("os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "subprocess.Popen"),
    *("pathlib.PosixPath", "torch.load", "torch.hub.load", "torch.serialization._get_layout", "webbrowser.open"),
    *("torch.distributed.checkpoint.metadata.MetadataIndex", "collections.OrderedDict", "torch.Size", "socket.socket"),
    *("importlib.import_module", "antigravity.geohash", "torch._utils._rebuild_tensor_v2", "builtins.bytearray"),
)
NUMBERS = (-1, 0, 1, 2, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30)
TEXTS = (
    "",
    "x",
    "\0",
    "\x1b[31m",
    "..",
    "../../x",
    "/etc/passwd",
    "org/kernel",
    "org/kernel@main:f",
    "{{ 1/0 }}",
    "é" * 50,
)
VALUES = (*NUMBERS, *TEXTS, None, True, False, 0.5, -1e308, float("nan"), float("inf"), [], {}, [[]], {"": {}}, [None])
KEYS = (
    *(
        "auto_map",
        "attn_implementation",
        "quantization_config",
        "kernel_config",
        "dtype",
        "torch_dtype",
        "rope_scaling",
    ),
    *(
        "tokenizer_class",
        "chat_template",
        "added_tokens_decoder",
        "id2label",
        "architectures",
        "layer_types",
        "head_dim",
    ),
    *("reward_attributes", "reward_head_hidden_size", "vocab_file", "gguf_file", "model_type", "extra_special_tokens"),
)


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """Change some bytes: flipped, put in, cut out, copied, or all behind a place gone."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = draw.randrange(len(changed) + 1)
        far = min(len(changed), at + draw.choice((1, 2, 4, 8, 100, 5000)))
        match draw.randrange(6):
            case 0 | 1:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            case 2:
                changed[at:far] = draw.randbytes(far - at)
            case 3:
                del changed[at:far]
            case 4:
                changed[at:at] = changed[draw.randrange(len(changed) + 1) :][: far - at]
            case _:
                del changed[at if draw.random() < 0.2 else far :]
    return bytes(changed)


def of_pickle(data: bytes, draw: random.Random) -> bytes:
    """Change operations of a pickle: other names, other numbers, calls and attributes where there were none."""
    operations = list(pickletools.genops(data))
    ends = [*(position for _, _, position in operations[1:]), len(data)]
    parts = [data[position:end] for (_, _, position), end in zip(operations, ends, strict=True)]
    parts = [part for part in parts if part[:1] != b"\x95"]  # frames, whose length would not be right
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(1, len(parts))
        match draw.randrange(5):
            case 0:
                parts[at:at] = [*_named(draw.choice(NAMES)), *_called(draw)]
            case 1:
                parts[at] = draw.choice(
                    (_number(draw.choice(NUMBERS)), _text(draw.choice(TEXTS)), b"N", b"}", b"]", b")")
                )
            case 2:
                parts[at:at] = [
                    draw.choice((b"R", b"\x81", b"b", b"s", b"a", b"(", b"t", b"\x86", b"\x85", b"u", b"0", b"Q"))
                ]
            case 3:
                other = draw.randrange(1, len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                texts = [i for i, part in enumerate(parts) if part[:1] in b"\x8cX"]
                if texts:
                    parts[draw.choice(texts)] = _text(draw.choice((*TEXTS, *NAMES)))
    return b"".join(parts)


def _named(name: str) -> list[bytes]:
    module, _, attribute = name.rpartition(".")
    return [_text(module), _text(attribute), b"\x93"]


def _called(draw: random.Random) -> list[bytes]:
    argument = _text("touch ran") if draw.random() < 0.5 else _text("x")
    more = [b"}", _text("append"), b"N", b"s", b"b"] if draw.random() < 0.3 else []
    return [argument, b"\x85", draw.choice((b"R", b"\x81")), *more, draw.choice((b"0", b""))]


def _text(text: str) -> bytes:
    data = text.encode()[:255]
    return b"\x8c" + bytes([len(data)]) + data


def _number(number: int) -> bytes:
    data = number.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + data


def of_zip(data: bytes, draw: random.Random) -> bytes:
    """Change what torch.save pickled, or what lies beside it, in a zip that is whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    name = next(n for n in entries if n.endswith("data.pkl")) if draw.random() < 0.8 else draw.choice(list(entries))
    change = of_pickle if name.endswith("data.pkl") and draw.random() < 0.7 else of_bytes
    entries[name] = change(entries[name], draw)
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as packed:
        for own, content in entries.items():
            packed.writestr(
                own if draw.random() < 0.97 else draw.choice(("x/../../y", "/etc/x", "é", "..", "archive/data.pkl")),
                content,
            )
    return out.getvalue()


def of_tar(data: bytes, draw: random.Random) -> bytes:
    """Change a member of a tar: its name, kind, size or link, or put another beside it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar, tarfile.open(fileobj=out, mode="w") as changed:
        members = tar.getmembers()
        chosen = draw.randrange(len(members))
        for number, member in enumerate(members):
            content = tar.extractfile(member)
            if number == chosen:
                match draw.randrange(6):
                    case 0:
                        member.name = draw.choice((*TEXTS, f"../{member.name}", f"./{member.name}", f"/{member.name}"))
                    case 1:
                        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
                        member.type, member.linkname, member.size = draw.choice(kinds), draw.choice(TEXTS), 0
                    case 2:
                        content = io.BytesIO(of_bytes(content.read() if content else b"", draw))
                        member.size = len(content.getvalue())
                    case 3:
                        member.pax_headers = {
                            draw.choice(("path", "size", "linkpath", "GNU.sparse.major")): draw.choice(TEXTS)
                        }
                    case 4:
                        continue
                    case _:
                        changed.addfile(member, content)
                        content = tar.extractfile(member)
            changed.addfile(member, content if member.isreg() else None)
    packed = bytearray(out.getvalue())
    if draw.random() < 0.3:
        at = 512 * draw.randrange(len(packed) // 512)
        packed[at : at + 512] = of_bytes(bytes(packed[at : at + 512]), draw)[:512].ljust(512, b"\0")
    return bytes(packed)


def of_json(data: bytes, draw: random.Random) -> bytes:
    """Change values, leave some out, and put keys in that other programs act on."""
    tree = json.loads(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place, key = _drawn(tree, draw)
        match draw.randrange(5):
            case 0 | 1:
                place[key] = deepcopy(draw.choice(VALUES))
            case 2:
                del place[key]
            case 3 if isinstance(place, dict):
                place[draw.choice(KEYS)] = deepcopy(draw.choice(VALUES))
            case _:
                other, name = _drawn(tree, draw)
                place[key] = json.loads(json.dumps(other[name]))
        if not tree:
            break
    text = json.dumps(tree)
    return (text[:-1] + "[" * 3000 if draw.random() < 0.01 else text).encode()


def _drawn(tree: Any, draw: random.Random) -> tuple[Any, Any]:
    """Draw a list or a dict, and an index or key of it; the first levels more often than the many places below."""
    while True:
        key = draw.choice(list(tree)) if isinstance(tree, dict) else draw.randrange(len(tree))
        if not isinstance(tree[key], dict | list) or not tree[key] or draw.random() < 0.3:
            return tree, key
        tree = tree[key]


def of_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Change the header's tensors, or its length."""
    length = int.from_bytes(data[:8], "little")
    header = of_json(data[8 : 8 + length], draw)
    length = draw.choice((*NUMBERS[1:12], len(header) + 1)) if draw.random() < 0.1 else len(header)
    return (length % 2**64).to_bytes(8, "little") + header + data[8 + int.from_bytes(data[:8], "little") :]


def mutated(data: bytes, change: Callable[[bytes, random.Random], bytes], draw: random.Random) -> bytes:
    """Change a file by its format, or by bytes in three of ten draws."""
    return of_bytes(data, draw) if draw.random() < 0.3 else change(data, draw)
