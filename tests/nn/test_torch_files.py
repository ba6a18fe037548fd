"""Files of torch.save from strangers: read as plain tensors, nothing in them runs, nothing in them exhausts the machine."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import pickletools
import random
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wichan.errors import StoreError, UnknownNameError
from wichan.nn.pickle_stream import Inert, read_pickle
from wichan.nn.torch_files import read_torch_file


def archive(path: Path, description: bytes, records: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> Path:
    """A file as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", description)
        file.writestr("archive/byteorder", sys.byteorder)
        for name, data in (records or {}).items():
            file.writestr(f"archive/data/{name}", data)
        file.writestr("archive/version", "3\n")
    return path


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text and len(text) < 500
    return text


# -- Honest files. --


def checkpoint() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(6, 4, generator=generator)
    network = collections.OrderedDict(weight=matrix, transposed=matrix.T, part=matrix[1:5:2, 2], empty=torch.zeros(0, 3))
    dtypes = ("float16", "bfloat16", "float64", "complex64", "complex128", "int8", "uint8", "int16", "int32", "int64", "bool")
    kinds = {name: torch.tensor([0, 1, 3]).to(getattr(torch, name)) for name in dtypes}
    parameter = torch.nn.Parameter(torch.tensor(2.5))
    optimizer = torch.optim.Adam([parameter])
    parameter.square().backward()
    optimizer.step()
    return {
        "model_state_dict": network,
        "kinds": kinds,
        "parameter": parameter,
        "optimizer": optimizer.state_dict(),
        "plain": [1, -(2**40), 2**100, 0.1, None, True, "text\nline", b"\x00\xff", (1, 2), {"a": {1: "b"}}, {1, 2}, [], ()],
        "size": torch.Size([2, 3]),
        "dtype": torch.float32,
    }


def assert_same(have: Any, want: Any) -> None:
    if isinstance(want, torch.Tensor):
        assert have.dtype == want.dtype and have.shape == want.shape and torch.equal(have, want.detach())
    elif isinstance(want, dict):
        assert list(have) == list(want)
        for key in want:
            assert_same(have[key], want[key])
    elif isinstance(want, (list, tuple)):
        assert len(have) == len(want)
        for left, right in zip(have, want, strict=True):
            assert_same(left, right)
    else:
        assert have == want and type(have) is type(want)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("unknown", ["stub", "refuse"])
def test_plain_checkpoints_come_back_exactly(tmp_path: Path, protocol: int, unknown: str) -> None:
    saved = checkpoint()
    torch.save(saved, tmp_path / "x.pt", pickle_protocol=protocol)
    read = read_torch_file(tmp_path / "x.pt", unknown=unknown)
    assert_same(read, saved)
    assert not read["parameter"].requires_grad
    if protocol == 2:  # PyTorch's own restricted reader, made for this protocol, agrees
        reference = torch.load(tmp_path / "x.pt", weights_only=True)
        assert_same(read["model_state_dict"], dict(reference["model_state_dict"]))


def test_views_share_their_record(tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "x.pt")
    network = read_torch_file(tmp_path / "x.pt")["model_state_dict"]
    network["weight"][3, 2] = 7
    assert network["transposed"][2, 3] == 7 and network["part"][1] == 7


def test_objects_of_other_classes_become_inert(tmp_path: Path) -> None:
    module = types.ModuleType("their_project_config")
    source = "class Config:\n    def __setstate__(self, state):\n        raise RuntimeError('this must not run')\n"
    exec(source, module.__dict__)
    module.Config.__module__ = module.__name__
    sys.modules[module.__name__] = module
    config = module.Config()
    config.__dict__.update(num_head=4, patch_size=[3, 2], where=Path("runs") / "one")
    torch.save({"config": config, "loss": np.float64(0.5), "w": torch.ones(2)}, tmp_path / "x.pt")
    del sys.modules[module.__name__]

    read = read_torch_file(tmp_path / "x.pt")
    record = read["config"]
    assert isinstance(record, Inert) and record.name == "their_project_config.Config" and record.args == ()
    assert record.state["num_head"] == 4 and record.state["where"].args == ("runs", "one")
    assert repr(record) == "<inert their_project_config.Config>"
    assert isinstance(read["loss"], Inert) and torch.equal(read["w"], torch.ones(2))
    assert module.__name__ not in sys.modules
    with pytest.raises(StoreError, match="'their_project_config.Config', which is not among the plain types") as error:
        read_torch_file(tmp_path / "x.pt", unknown="refuse")
    one_line(error.value)


# -- Hostile files. --


class Call:
    """Unpickling this calls ``function(*args)``."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


def by_hand(*parts: Any) -> bytes:
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)


def attacks(mark: Path) -> dict[str, bytes]:
    """Pickles that make the file ``mark`` when they are unpickled."""
    shell, statement = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    getter = Call(getattr, Call(__import__, "os"), "system")

    class Indirect:
        def __reduce__(self) -> Any:
            return Call(getattr, getter, "__call__"), (shell,)

    objects = {
        "os.system": Call(os.system, shell),
        "eval": Call(eval, f"__import__('os').system({shell!r})"),
        "exec": Call(exec, statement),
        "touch": Call(Path.touch, mark),
        "popen": Call(subprocess.check_call, ["touch", str(mark)]),
        "map": Call(list, Call(map, exec, [statement])),
        "nested in a known call": Call(collections.OrderedDict, [["a", Call(exec, statement)]]),
        "nested in a tensor": Call(torch._utils._rebuild_parameter, Call(exec, statement), True, None),
        "state": Call(collections.OrderedDict, state={"x": Call(exec, statement)}),
        "dict key": {Call(exec, statement): 1},
        "torch.load": Call(torch.load, io.BytesIO(pickle.dumps(Call(exec, statement))), None),
    }
    pickles = {name: pickle.dumps(value, protocol=2) for name, value in objects.items() if name != "torch.load"}
    pickles["inst"] = by_hand(b"(S", repr(shell), b"\nios\nsystem\n.")
    pickles["obj"] = by_hand(b"(cos\nsystem\nS", repr(shell), b"\no.")
    pickles["stack_global"] = by_hand(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c", bytes([len(shell)]), shell, b"\x85R.")
    # getattr(__import__('os'), 'system')(shell)
    pickles["getattr chain"] = by_hand(
        b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S", repr(shell), b"\ntR."
    )
    # OrderedDict, then attributes that would replace its class or its __reduce__.
    pickles["build"] = by_hand(
        b"ccollections\nOrderedDict\n)R}(S'__class__'\ncbuiltins\nexec\nS'x'\ncbuiltins\nexec\n(S", repr(statement), b"\ntRub."
    )
    return pickles


@pytest.mark.parametrize("name", attacks(Path("mark")))
def test_nothing_is_executed(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    payload = attacks(mark)[name]
    with contextlib.suppress(TypeError, AttributeError, ValueError):
        pickle.loads(payload)  # noqa: S301 (the attack is real: pickle runs it)
    assert mark.exists()
    mark.unlink()

    path = archive(tmp_path / "x.pt", payload)
    read_torch_file(archive(tmp_path / "warm.pt", b"N."))
    before = set(sys.modules)
    for unknown in ("stub", "refuse"):
        try:
            read_torch_file(path, unknown=unknown)
        except StoreError as error:
            one_line(error)
        else:
            assert unknown == "stub"
    assert not mark.exists() and set(sys.modules) - before == set()


def test_a_chain_of_calls_is_only_written_down(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", attacks(tmp_path / "mark")["getattr chain"])
    record = read_torch_file(path)
    assert isinstance(record, Inert) and record.name == "builtins.getattr" and record.args[0].startswith("touch")


def test_class_tricks_do_not_change_the_record(tmp_path: Path) -> None:
    """BUILD with ``__class__``, ``__dict__`` and ``__setstate__``: kept as data, set on nothing."""
    state = b"}(S'__class__'\ncos\n_wrap_close\nS'__setstate__'\ncos\nsystem\nS'name'\nS'other'\nu"
    record = read_torch_file(archive(tmp_path / "x.pt", b"csome\nThing\n)R" + state + b"b."))
    assert type(record) is Inert and record.name == "some.Thing" and set(record.state) == {"__class__", "__setstate__", "name"}
    for target in (b"I1\n", b"S'x'\n", b"]", b")"):
        with pytest.raises(StoreError, match="sets attributes of") as error:
            read_torch_file(archive(tmp_path / "x.pt", target + state + b"b."))
        one_line(error.value)


def nested(pairs: int) -> bytes:
    """t = (); then t = (t, t), many times over."""
    return b")" + b"2\x86" * pairs


BOMBS = {
    "hash of nested tuples": b"}" + nested(60) + b"K\x01s.",
    "nested tuples in a set": b"\x8f(" + nested(60) + b"\x90.",
    "repr of nested tuples as size": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00" + nested(60) + b")tR.",
    "repr of nested tuples as storage": b"(S'storage'\n" + nested(60) + b"S'0'\nS'cpu'\nK\x01tQ.",
    "repr of nested tuples as device": b"ctorch\ndevice\n" + nested(60) + b"\x85R.",
    "colliding keys": b"}("
    + b"".join(b"\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") + b"N" for n in range(20_000))
    + b"u.",
    "copies": b"](" + b"N" * 200_000 + b"eq\x00" + b"c__builtin__\nset\nh\x00\x85R0" * 100_000 + b".",
    "copies of text": b"X"
    + (1 << 20).to_bytes(4, "little")
    + b"a" * (1 << 20)
    + b"q\x00"
    + b"c_codecs\nencode\nh\x00\x85R" * 50_000
    + b".",
    "long names": b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x00" + b"h\x00h\x00\x93" * 50_000 + b".",
    "long integer": b"L" + b"9" * 100_000 + b"L\n.",
    "large integer as size": b"ctorch\ndevice\n(S'x'\n\x8b\x00\x00\x01\x00" + b"\x7f" * 65536 + b"tR.",
    "instructions": b"N0" * 501_000 + b"N.",
    "deep nesting": b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep calls": b"ca\nb\n" + b")R" * 200_000 + b".",
    "cut short": b"\x80\x02}",
    "below the stack": b"0.",
    "below a mark": b"N(\x85.",
    "two values": b"NN.",
    "an open mark": b"(N.",
    "no mark": b"Nu.",
    "memo": b"h\x07.",
    "extension": b"\x82\x01.",
    "persistent text": b"P1\n.",
    "out of band": b"\x97.",
    "odd items": b"}(Nu.",
    "item of a number": b"K\x01NNs.",
    "append to a tuple": b")Na.",
    "call of a number": b"K\x01)R.",
    "call without a tuple": b"ca\nb\nNR.",
    "name of a number": b"K\x01K\x02\x93.",
    "storage without numbers": b"ctorch\nFloatStorage\n)R.",
}
HARMLESS = ("deep nesting", "deep calls")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_neither_hang_nor_fill_memory(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.pt", BOMBS[name])
    start = time.process_time()
    if name in HARMLESS:
        assert isinstance(read_torch_file(path), (list, Inert))
    else:
        with pytest.raises(StoreError) as error:
            read_torch_file(path)
        one_line(error.value)
    assert time.process_time() - start < 20  # unprotected, they take hours or more memory than there is


def test_a_record_named_often_is_read_once(tmp_path: Path) -> None:
    """Booleans are converted; that must not happen each time a record is named."""
    place = b"(S'storage'\nctorch\nBoolStorage\nS'0'\nS'cpu'\nJ\x00\x00\x10\x00tq\x00Q"
    path = archive(tmp_path / "x.pt", b"](" + place + b"h\x00Q" * 50_000 + b"e.", {"0": bytes(1 << 20)})
    assert len(read_torch_file(path)) == 50_001  # 50 GB if it were


def tensor(shape: Any, stride: Any, offset: Any = 0, kind: str = "FloatStorage", key: Any = "0", count: Any = 6) -> bytes:
    """A pickle of one tensor, described at will."""
    stand_in = types.new_class(kind, (), {}, lambda body: body.update(__module__="torch"))

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", stand_in, key, "cpu", count) if thing is stand_in and not self.inside else None

        inside = False

        def save_pers(self, place: Any) -> None:
            self.inside = True
            super().save_pers(place)
            self.inside = False

        def save_global(self, thing: Any, name: Any = None) -> None:
            self.write(f"c{thing.__module__}\n{thing.__name__}\n".encode())

        dispatch = dict(pickle._Pickler.dispatch)
        dispatch[type] = save_global
        dispatch[types.FunctionType] = save_global

    out = io.BytesIO()
    Pickler(out, 2).dump(Call(torch._utils._rebuild_tensor_v2, stand_in, offset, shape, stride, False, None))
    return out.getvalue()


def test_a_tensor_described_by_hand(tmp_path: Path) -> None:
    """The helper of the next test makes what torch.save makes."""
    data = np.arange(6, dtype=np.float32).tobytes()
    read = read_torch_file(archive(tmp_path / "x.pt", tensor((2, 2), (3, 1), 1), {"0": data}))
    assert read.tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": (7,), "stride": (1,)},
        {"shape": (2, 3), "stride": (4, 1)},
        {"shape": (6,), "stride": (1,), "offset": 1},
        {"shape": (6,), "stride": (-1,), "offset": 5},
        {"shape": (6,), "stride": (1,), "offset": -1},
        {"shape": (-6,), "stride": (1,)},
        {"shape": (10**9, 10**9), "stride": (0, 0)},
        {"shape": (2**70,), "stride": (0,)},
        {"shape": (6,), "stride": (2**61,)},
        {"shape": (6.0,), "stride": (1,)},
        {"shape": (True,), "stride": (1,)},
        {"shape": [6], "stride": (1,)},
        {"shape": (2, 3), "stride": (1,)},
        {"shape": (1,) * 70, "stride": (1,) * 70},
        {"shape": (6,), "stride": (1,), "count": 7},
        {"shape": (6,), "stride": (1,), "count": -1},
        {"shape": (3,), "stride": (1,), "kind": "DoubleStorage", "count": 6},
        {"shape": (6,), "stride": (1,), "key": "1"},
        {"shape": (6,), "stride": (1,), "key": "../version"},
        {"shape": (6,), "stride": (1,), "key": 0},
        {"shape": (6,), "stride": (1,), "kind": "QInt8Storage"},
        {"shape": (6,), "stride": (1,), "kind": "Tensor"},
    ],
    ids=str,
)
def test_tensors_that_lie_about_themselves(tmp_path: Path, lie: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="cannot be read as plain tensors") as error:
        read_torch_file(archive(tmp_path / "x.pt", tensor(**lie), {"0": bytes(24)}))
    one_line(error.value)


# -- Damaged and foreign files. --


def test_cut_short_or_changed_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(50.0), "b": torch.ones(3)}, tmp_path / "x.pt")
    data, path = (tmp_path / "x.pt").read_bytes(), tmp_path / "y.pt"
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(StoreError) as error:
            read_torch_file(path)
        one_line(error.value)
    draw = random.Random(5)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            read_torch_file(path)
        except StoreError as error:
            one_line(error)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    x = torch.ones(3)
    torch.save({"x": x}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    archive(tmp_path / "deflated.pt", pickle.dumps({"a": 1}), {"0": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("a/b.txt", "x")
    with zipfile.ZipFile(tmp_path / "order.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(1))
        file.writestr("archive/byteorder", "big" if sys.byteorder == "little" else "little")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(1))
        file.writestr("archive/constants.pkl", pickle.dumps(()))
    (tmp_path / "folder.pt").mkdir()
    cases = {
        "legacy": "bare pickle",
        "deflated": "compressed",
        "text": "no file of torch.save",
        "empty": "no file of torch.save",
        "other": "no data.pkl",
        "order": "byte order",
        "script": "TorchScript",
        "folder": "does not exist or is not a file",
        "absent": "does not exist or is not a file",
    }
    for name, message in cases.items():
        with pytest.raises(StoreError, match=message) as error:
            read_torch_file(tmp_path / f"{name}.pt")
        one_line(error.value)
    with pytest.raises(UnknownNameError, match="unknown='run'"):
        read_torch_file(tmp_path / "text.pt", unknown="run")


def test_overlapping_records_are_refused(tmp_path: Path) -> None:
    """Many entries that point to the same bytes: a small file that would unfold into a large one."""
    path = archive(tmp_path / "x.pt", pickle.dumps(1), {"0": bytes(10_000), "1": bytes(10_000)})
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    entry = data.index(b"PK\x01\x02", data.index(b"archive/data/0", directory))
    first = data.rindex(b"PK\x01\x02", 0, entry)
    body, end = data[:directory], data.rindex(b"PK\x05\x06")
    copies = b"".join(data[first:entry].replace(b"data/0", b"data/" + bytes([65 + n])) for n in range(20))
    listing = data[directory:end] + copies
    tail = bytearray(data[end:])
    count = int.from_bytes(tail[8:10], "little") + 20
    tail[8:10] = tail[10:12] = count.to_bytes(2, "little")
    tail[12:16] = len(listing).to_bytes(4, "little")
    path.write_bytes(body + listing + tail)
    with pytest.raises(StoreError, match="records overlap") as error:
        read_torch_file(path)
    one_line(error.value)


@given(data=st.binary(max_size=60))
def test_rubbish_raises_or_gives_plain_data(data: bytes) -> None:
    try:
        read_pickle(data + b".", functions={}, constants={}, persistent=lambda place: place, keep_unknown=True)
    except Exception as error:  # whatever it is, the reader of files turns it into one line
        assert not isinstance(error, (RecursionError, MemoryError))


def test_every_instruction_is_known_or_refused() -> None:
    """A new instruction of a future protocol must be refused until somebody has thought about it."""
    from wichan.nn import pickle_stream as p

    handled = p._LITERALS | set(p._VALUES) | set(p._HANDLERS) | p._NOTHING
    refused = {"EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
    assert handled | refused == {code.name for code in pickletools.opcodes} and not handled & refused
