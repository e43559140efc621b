"""Tables of malformed arguments of the other commands, values of families, and data files, in the form of `malformed`.

A row of `DATA` has the arguments of `gatesweep train`, the name and content of a file, and the first words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gatesweep.trainables.circuits.circuit import load as load_circuits
from gatesweep.trainables.operators.bearing_files import read_index
from gatesweep.trainables.walks.graph import load as load_graph
from tests.sweeps.commands.malformed import Row

NO_SWEEP = "expected the folder of a sweep"


def write_files(folder: Path) -> None:
    """Write what the rows name: a file, an empty folder, a folder with a damaged configuration."""
    (folder / "a_file").write_text("x")
    (folder / "an_empty_folder").mkdir()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.yaml").write_text("name: x\n  gate: [\n")
    (folder / "a_loop").symlink_to("a_loop")
    (folder / "list.yaml").write_text("- a\n- b\n")


COMMANDS: dict[str, list[Row]] = {
    "no sweep": [
        (("report", "nowhere"), f"sweep: got 'nowhere', {NO_SWEEP}"),
        (("report", "a_file"), f"sweep: got 'a_file', {NO_SWEEP}"),
        (("report", "an_empty_folder"), f"sweep: got 'an_empty_folder', {NO_SWEEP}"),
        (("report", "damaged"), ""),
        (("compare", "nowhere"), "sweep: got 'nowhere', expected the folder of a sweep"),
        (("compare", "a_file"), "got 'a_file', expected folders of sweeps"),
        (("compare", "an_empty_folder", "a_file"), "got 'an_empty_folder', expected folders of sweeps"),
        (("publish", "nowhere"), f"sweep: got 'nowhere', {NO_SWEEP}"),
        (("publish", "a_file"), f"sweep: got 'a_file', {NO_SWEEP}"),
        (("publish", "an_empty_folder"), f"sweep: got 'an_empty_folder', {NO_SWEEP}"),
        (("replay", "nowhere"), f"sweep: got 'nowhere', {NO_SWEEP}"),
        (("replay", "a_file"), f"sweep: got 'a_file', {NO_SWEEP}"),
        (("replay", "damaged", "search=nope"), ""),
        (("replay", "search=tpe"), "got no sweep, expected the folder of one"),
        (("replay", "an_empty_folder", "trainable.lr=1"), "got 'trainable.lr=1', expected one of scheduler"),
        (("replay", "an_empty_folder", "--replicas", "0"), "--replicas: got 0, expected at least 1"),
        (("train", "--resume", "nowhere"), "--resume: got"),
        (("train", "--resume", "a_loop"), "--resume: got 'a_loop', expected a path that can be followed"),
        (("train", "trainable=mlp", "resume=REC"), "resume: got 'REC', expected gatesweep train --resume REC"),
        (("report", "x" * 3000), "got 'xxx"),
        (("train", "--resume", "a_file"), "--resume: got"),
        (("train", "--resume", "an_empty_folder"), "--resume: got"),
        (("train", "--resume", "damaged"), ""),
        (("ui", "an_empty_folder"), ""),
        (("train", "--config", "nowhere.yaml"), "--config: got 'nowhere.yaml', expected a config.yaml"),
        (("train", "--config", "an_empty_folder"), "--config: got 'an_empty_folder', expected a config.yaml"),
        (("train", "--config", "a_file"), "a_file: got str, expected a configuration"),
        (("train", "--config", "list.yaml"), "list.yaml: got list, expected a configuration"),
        (("train", "--config", "damaged/config.yaml"), "damaged/config.yaml, line"),
    ],
    "arguments": [
        (("run", "--cgf"), "unrecognized arguments: --cgf; gatesweep run --help"),
        (("run", "--cfg=yes"), "argument --cfg: ignored explicit argument 'yes'"),
        (("report",), "the following arguments are required: FOLDER"),
        (("report", "a", "b"), "unrecognized arguments: b"),
        (("publish", "an_empty_folder", "--folow"), "unrecognized arguments: --folow"),
        (("replay",), "the following arguments are required"),
        (("replay", "an_empty_folder", "--replicas", "many"), "argument --replicas: invalid int value: 'many'"),
        (("ui", "an_empty_folder", "--port", "x"), "argument --port: got 'x', expected a port"),
        (("ui", "an_empty_folder", "--port", "70000"), "argument --port: got '70000', expected a port"),
        (("repot", "a"), "repot: unknown command, did you mean report?"),
        (("train", "trainable=mlp", "trainable=nope"), "trainable: got 'nope', expected one of"),
        (("train", "trainable=mlp", "gate.consecutive=99"), "gate.consecutive: got 99, expected at most"),
        (("train", "data.batch_size=1000000"), "data.batch_size: got 1000000, expected 1 to 2560"),
        (("train", "trainable=mlp", "name='a b'"), "name: got 'a b', expected 1 to 100"),
        (("train", "trainable=mlp", "training.max_epochs=x"), "training.max_epochs: got 'x', expected a valid integer"),
    ],
}

FAMILIES: dict[str, list[Row]] = {
    family: [((f"trainable={family}", *choices, item), item.partition("=")[0]) for item in items]
    for family, choices, items in (
        ("walk_transformer", ("~search.space.trainable.n_layers",), ("trainable.n_layers=0", "data.p_in=-1")),
        ("circuit_vae", (), ("data.n_train=2", "data.types=[nope]", "trainable.layers=-1")),
        ("born_classifier", ("~search.space.trainable.bond",), ("trainable.bond=0", "data.per_class=1", "data.val=1")),
        ("physics_operator", (), ("data.problem=waves", "data.n_val=0", "data.n_val=1000000000", "data.rows=1")),
        ("bearing_operator", (), ("data.train_bearings=0", "data.windows=-1", "data.labelled=2")),
        ("autoencoder", (), ("data.n_events=-1", "data.held_out=-1", "data.max_tokens=0")),
    )
}

GRAPH = ["trainable=walk_transformer", "data.graph_dir=."]
CIRCUITS = ["trainable=circuit_vae", "data.path=circuits.csv", "data.n_train=2", "data.n_val=1", "data.n_test=1"]
BEARINGS = ["experiment=bearing_files", "data.path=index.csv"]
SERIES = ["trainable=born_classifier", "data=series_file", "data.path=a.ts", "trainable.dim=2"]
EVENTS = ["trainable=autoencoder", "data=events_file"]

PARTS = b"circuit,type,kind,from,to,value\n"
INDEX = b"file,label,bearing,load,rpm,split\n"
LONG = INDEX + b"".join(
    b"x" * 5000 + b",n,%d,0,10,%s\n" % (number, part) for number, part in enumerate([b"train", b"val", b"test"])
)

DATA: list[Any] = [
    (GRAPH, "blocks.csv", b"", "blocks.csv, line 1: got '', expected the header 'vertex,block'"),
    (GRAPH, "blocks.csv", b"vertex,block\n", "blocks.csv: no rows"),
    (GRAPH, "blocks.csv", b"vertex,block\na\n", "blocks.csv, line 2: got 'a', expected vertex,block"),
    (GRAPH, "blocks.csv", b"vertex,block\na,b,c\n", "blocks.csv, line 2: got 'a,b,c', expected vertex,block"),
    (GRAPH, "blocks.csv", b"vertex,block\n\xe9,x\n", "blocks.csv, line 2: got the byte 0xe9, expected text in UTF-8"),
    (GRAPH, "blocks.csv", "vertex,block\na,x\n".encode("utf-16"), "blocks.csv, line 1: got the byte 0x"),
    (CIRCUITS, "circuits.csv", b"", "circuits.csv, line 1: got '', expected the columns"),
    (CIRCUITS, "circuits.csv", PARTS, "data.path: got 'circuits.csv', expected at least one circuit"),
    (CIRCUITS, "circuits.csv", b"circuit,type\n", "circuits.csv, line 1: got 'circuit,type', expected the columns"),
    (CIRCUITS, "circuits.csv", PARTS + b"a,t,R,VIN,VOUT\n", "circuits.csv, line 2: got 5 fields, expected 6"),
    (CIRCUITS, "circuits.csv", PARTS + b"a,t,R,VIN,VOUT,1,2\n", "circuits.csv, line 2: got 7 fields, expected 6"),
    (CIRCUITS, "circuits.csv", PARTS + b"a,t,R,VIN,VOUT,much\n", "circuits.csv, line 2, value: got 'much'"),
    (CIRCUITS, "circuits.csv", PARTS + b"a,t,R,VIN,VOUT,nan\n", "circuits.csv, line 2, value: got 'nan'"),
    (CIRCUITS, "circuits.csv", PARTS + b"\xe9,t,R,VIN,VOUT,1\n", "circuits.csv, line 2: got the byte 0xe9"),
    (CIRCUITS, "circuits.csv", PARTS + b'"a,t,R\n', "circuits.csv, line"),
    (BEARINGS, "index.csv", b"", "data.path: got 'index.csv', expected at least one recording"),
    (BEARINGS, "index.csv", INDEX, "data.path: got 'index.csv', expected at least one recording"),
    (BEARINGS, "index.csv", b"file,label\n1,b\n", "data.path: got 'index.csv', expected the columns file,label"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,n,n,0,1797\n", "data.path line 2: got None, expected a value in column"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,n,n,0,1797,train,x\n", "data.path line 2: got ['x'], expected no field"),
    (BEARINGS, "index.csv", LONG, "data.path: got '"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,n,n,0,fast,train\n", "data.path line 2: got 'fast', expected rpm above 0"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,n,n,0,nan,train\n", "data.path line 2: got 'nan', expected rpm above 0"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,n,n,0,inf,train\n", "data.path line 2: got 'inf', expected rpm above 0"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,,n,0,10,train\n", "data.path line 2: got '', expected a value in column"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,n,n,0,10,none\n", "data.path line 2: got 'none', expected a split of"),
    (BEARINGS, "index.csv", INDEX + b"1.mat,\xe9,n,0,10,train\n", "data.path: got 'index.csv', expected a CSV file"),
    (SERIES, "a.ts", b"", "data.path: got 'a.ts', expected at least one series"),
    (SERIES, "a.ts", b"@data\n", "data.path: got 'a.ts', expected at least one series"),
    (SERIES, "a.ts", b"1,2:a\n1:b\n", "data.path: got 'a.ts, line 2: 1 values', expected 2"),
    (SERIES, "a.ts", b"1,two:a\n", "data.path: got"),
    (SERIES, "a.ts", b"1,nan:a\n1,2:b\n", "data.path: got 'a.ts, line 1: a value that is missing or not finite'"),
    (SERIES, "a.ts", b"1,2:\xe9\n", "data.path: got 'a.ts', expected a text file: a.ts, line 1: got the byte 0xe9"),
    ([*EVENTS, "data.path=events.h5"], "events.h5", b"no HDF5", "data.path: events.h5: not an HDF5 file"),
    ([*EVENTS, "data.path=events.h5"], "events.h5", b"", "data.path: events.h5: not an HDF5 file"),
    ([*EVENTS, "data.path=events.root"], "events.root", b"no ROOT", "data.path: events.root: not a ROOT file"),
    ([*EVENTS, "data.path=events.csv"], "events.csv", b"id,pt\n", "data.path: events.csv: expected a file whose name"),
    ([*EVENTS, "data.path=nowhere.h5"], "other", b"", "data.path: nowhere.h5: no such file"),
]

GOOD_DATA = [
    (
        lambda: load_graph(Path()),
        {"blocks.csv": "vertex,block\na,x\nb,x\nc,y\n", "edges.csv": "source,target\na,b\nb,c\nc,a\n"},
    ),
    (lambda: load_circuits("circuits.csv"), {"circuits.csv": PARTS.decode() + "a,t,R,VIN,VOUT,1\na,t,C,VOUT,GND,2\n"}),
    (
        lambda: read_index("index.csv"),
        {"index.csv": INDEX.decode() + "1.mat,n,1,0,10,train\n2.mat,n,2,0,10,val\n3.mat,n,3,1,10,test\n"},
    ),
]
