"""Passwords and tokens open servers, and are written nowhere: not in a record, not in MLflow, not in a message."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from gatesweep.core.errors import InputError
from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.cli import run_command
from gatesweep.sweeps.commands.dispatch import main
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.config import secrets
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.overrides import parse_override
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import (
    bare_address,
    is_redacted,
    redact,
    redact_address,
    redact_values,
    with_secrets,
)
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.tracking.server import check_tracking
from tests.conftest import tiny, trivial
from tests.support.servers import Server, guarded, mlflow_server

Typed = Callable[..., tuple[int, str, str]]  # exit code, output and errors of a command
CANARY = "c4n4ry-Yq7"
BASIC = "Basic " + base64.b64encode(f"lab:{CANARY}".encode()).decode()
TOKEN = f"Bearer {CANARY}-token"
LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI")
SECRET = [
    f"postgresql://lab:{CANARY}@db/mlflow",
    f"postgresql+psycopg://lab:a/b#c?{CANARY}@db:5432/mlflow",
    f"postgresql://lab:12#{CANARY}@db/mlflow",
    f"postgresql:///mlflow?host=db&user=lab&password={CANARY}&sslmode=require",
    f"postgresql://lab@db/mlflow?sslpassword={CANARY}",
    f"mysql://lab:p@ss{CANARY}@db/x",
    f"http://lab:{CANARY}@host:5000",
    f"https://{CANARY}@host/path?x=1",
    f"https://host/path?access_token={CANARY}&x=1",
    f"https://host/path?x=1&acc%65ss_token={CANARY}",
    f"s3://key:{CANARY}@bucket/sweeps?scheme=http&endpoint_override=127.0.0.1:80",
    f"s3://bucket/sweeps?access_key=a&secret_key={CANARY}",
    f"mssql+pyodbc:///?odbc_connect=Driver%3DX%3BPWD%3D{CANARY}%3BUID%3Dx&x=1",
    f"jdbc:sqlserver://host;user=a;password={CANARY};x=1",
    f"https://host/path#access_token={CANARY}",
    f"simplecache::https://u:{CANARY}@host/path",
    f"zip://a.zip::https://u:{CANARY}@host/path",
    *(f"https://host/path?x=1&{name}={CANARY}" for name in ("code", "jwt", "pat", "sas", "session", "sessionid")),
    *(
        f"https://host/path?x=1&{name}={CANARY}"
        for name in ("bearer", "pw", "login", "auth", "key", "db_pass", "creds")
    ),
    f"https://host/path?next=https%3A%2F%2Fu%3A{CANARY}%40h&x=1",
    f"s3://bucket/x?endpoint_override=http%3A%2F%2Fu%3A{CANARY}%40h",
    f"mssql+pyodbc:///?odbc_connect=Driver%253DX%253BPWD%253D{CANARY}%253BUID%253Dx",
    f"https://hooks.slack.com/services/T0/B0/{CANARY}",
    f"https://discord.com/api/webhooks/12/{CANARY}",
    f"https://host/path/Zx8{CANARY}Zx8Zx8Zx8/send",
]
PLAIN = [
    "http://host:5000",
    "http://host:5000/a@b?viewStateShareKey=1",
    "postgresql+psycopg://mlflow@localhost/mlflow",
    "sqlite:////folder/mlflow.db",
    "s3://bucket/sweeps@2?region=eu",
    "results/a@b",
    "edge_compliance > 0.95",
]


@pytest.mark.parametrize("address", SECRET)
def test_an_address_loses_its_secrets_wherever_it_stands(address: str) -> None:
    assert CANARY not in redact_address(address) and CANARY not in bare_address(address)
    assert is_redacted(redact_address(address)) and not is_redacted(bare_address(address))
    assert redact_address(redact_address(address)) == redact_address(address)
    for text in (
        f"tracking.uri={address}",
        f"tracking={{uri:'{address}'}}",
        f"got '{address}', expected",
        f"({address})",
    ):
        assert CANARY not in redact(text), text
    assert CANARY not in redact(f"the server does not know {CANARY}")  # a message that quotes a part of it


@pytest.mark.parametrize("address", PLAIN)
def test_an_address_without_secrets_stays_as_it_is(address: str) -> None:
    assert redact_address(address) == bare_address(address) == address
    assert not is_redacted(address)


def test_keys_of_secrets_are_redacted_and_words_of_models_are_not() -> None:
    values = {"data": {"password": CANARY, "api_key": CANARY, "pad_token": "<pad>", "tokens": 5}, "l": [SECRET[0]]}
    values["data"] |= {"github_token": CANARY, "credentials": {"a": [CANARY]}, "passwords": [], "password": [CANARY, 5]}
    values["data"] |= {"private_key": 271828, "n_token": 3, "first_token": 4}
    kept = redact_values(values)
    assert kept["data"]["private_key"] == kept["data"]["password"] == "***" and kept["data"]["first_token"] == 4
    assert CANARY not in str(kept) and kept["data"]["pad_token"] == "<pad>" and kept["data"]["tokens"] == 5
    assert CANARY not in redact(f"data.password={CANARY} +data.hf_token: {CANARY}; Authorization: {BASIC}")
    for text in (f"password='a {CANARY}, b'", f"X-Api-Key: {CANARY}", f"{{'password': ['{CANARY} b', 1]}}"):
        assert CANARY not in redact(text), text
    assert redact("password: unknown key") == "password: unknown key"
    assert (
        redact("trainable.pad_token=<pad> training.max_epochs=3") == "trainable.pad_token=<pad> training.max_epochs=3"
    )


SECRET_NAMES = [
    *("password", "passwords", "db_pass", "smtp_passwd", "pw", "mysql_pwd", "auth", "basic_auth", "creds"),
    *("aws_credentials", "smtp_login", "token", "tokens", "hf_token", "githubToken", "api_key", "api_keys", "apiKey"),
    *("secrets", "client_secret", "session_token", "bearer", "gh_pat", "encryption_key", "azure_storage_key"),
    *("connection_string", "password_old"),
]
HYPERPARAMETERS: dict[str, Any] = {
    **{"n_tokens": "many", "max_tokens": "auto", "pad_token": "<pad>", "special_tokens": ["<s>", "</s>"]},
    **{
        "key_dim": "auto",
        "keys": 8,
        "key": "_DE_time",
        "token": 4,
        "tokens": [8, 16],
        "pass": 2,
        "auth": True,
        "pass_rate": "high",
    },
    **{"author": "lab", "bypass": "none", "passes": "two", "tokenizer": "bpe", "sort_key": "time", "session": 0.5},
    **{"monkey": "x", "keyboard": "qwertz", "compass": "north", "patience": "long", "password_file": "a", "latin": "b"},
}


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_name_of_a_secret_counts_wherever_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    for value in (CANARY, [CANARY, 5], {"a": [CANARY], "n": "x"}, f"u:{CANARY}"):
        assert CANARY not in str(redact_values({"trainable": {name: value}})), value
    for text in (f"--{name} {CANARY}", f"{name}={CANARY}", f"{{'{name}': '{CANARY}'}}", f"x.{name}: got '{CANARY}', y"):
        assert CANARY not in redact(f"failed {text}"), text
    assert CANARY not in redact_address(f"http://h/?a=1&{name}={CANARY}")
    monkeypatch.setenv(f"LAB_{name.upper()}", CANARY[:7])
    if name != "smtp_login":  # a login there is the user's
        assert CANARY[:7] not in redact(f"the server does not know {CANARY[:7]}.")


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_a_hyperparameter_is_no_secret(name: str) -> None:
    value = HYPERPARAMETERS[name]
    leaf = {"type": "categorical", "choices": ["short", "long"]}
    values = {"trainable": {name: value}, "search": {"space": {"trainable": {name: leaf, "token": leaf}}}}
    assert redact_values(values) == values
    assert redact(f"trainable.{name}={value}") == f"trainable.{name}={value}"


@pytest.mark.parametrize(
    "text",
    [
        *(f"failed to open u:{CANARY}@h/x", f"//u:{CANARY}@h/x", f"curl -u u:{CANARY} http://h", "Bearer c4n4ry-Yq7"),
        *(f"mysql --password={CANARY}", f"['--token', '{CANARY}']", f'{{"pass": "{CANARY}"}}'),
    ],
)
def test_a_message_of_another_program_loses_its_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    assert CANARY not in redact(text)


def test_secrets_of_the_environment_are_known_in_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    for name, value in {
        "DATABASE_URL": f"mysql://u:{CANARY}1@db/x",
        "RAY_ADDRESS": f"ray://u:{CANARY}2@h:1",
        "LAB_CONNECTION_STRING": f"AccountName=x;AccountKey={CANARY}3;y=z",
        "MLFLOW_TRACKING_PASSWORD": "hunter2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAB_CREDENTIALS", str(tmp_path))  # a file is none
    monkeypatch.setenv("LAB_TOKEN", "true")
    text = f"no {CANARY}1, {CANARY}2, {CANARY}3, hunter2, true, {tmp_path}, {Path.cwd()}, hunter23"
    assert redact(text) == f"no ***, ***, ***, ***, true, {tmp_path}, {Path.cwd()}, hunter23"
    assert redact("gate: got 3, expected keys: a, b") == "gate: got 3, expected keys: a, b"


def test_a_printed_configuration_and_bad_input_show_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("run", [f"tracking.uri={SECRET[0]}", f"storage='{SECRET[-2]}'", "--cfg"]) == 0
    assert run_command("run", [f"tracking.uri=ftp://lab:{CANARY}@host", "experiment=mlp"]) == 2
    assert run_command("run", [f"tracking={{uri:'{SECRET[0]}',nosuch:1}}"]) == 2
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err and "uri: postgresql://lab:***@db/mlflow" in shown.out


@pytest.mark.parametrize(
    "typed",
    [
        f"tracking.uri=lab:{CANARY}@host:5000",
        f"tracking.uri=http:/lab:{CANARY}@host",
        f"tracking.uri='postgresql://lab:ab {CANARY}@db/x,y'",
        f"data={{password:['{CANARY}',1]}}",
        f"+data.github_token='{CANARY}, and a space'",
    ],
)
def test_a_typed_secret_is_known_in_every_message(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    parse_override.cache_clear()
    override = parse_override(typed)
    assert CANARY not in redact(f"an error deep in a library: {override.value()}")
    assert CANARY not in str(redact_values({override.key_or_group: override.value()}))


def test_a_hidden_value_of_a_record_is_no_value(tmp_path: Path) -> None:
    """A run that goes on from its record, or is loaded, does not take the marks for the secret."""
    for key in ("trainable", "data"):
        values = tiny("mlp").to_dict()
        values[key]["password"] = "hunter2"
        (tmp_path / "config.yaml").write_text(to_yaml(Config.of(values)))
        with pytest.raises(InputError, match=rf"^{key}\.password: hidden in the record"):
            build_run(read_config(tmp_path / "config.yaml"))


@pytest.mark.parametrize("address", SECRET)
def test_a_secret_comes_back_from_the_environment_alone(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LOGINS, "GATESWEEP_STORAGE", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    recorded = redact_address(address)
    monkeypatch.setattr(secrets, "_addresses", {})  # another process
    with pytest.raises(InputError, match=r"whose password is not recorded: set .*GATESWEEP_STORAGE"):
        with_secrets("storage", recorded, "GATESWEEP_STORAGE")
    monkeypatch.setenv("GATESWEEP_STORAGE", f"s3://key:{CANARY}@another")
    with pytest.raises(InputError, match="whose password is not recorded"):
        with_secrets("storage", recorded, "GATESWEEP_STORAGE")
    monkeypatch.setenv("GATESWEEP_STORAGE", address)
    assert with_secrets("storage", recorded, "GATESWEEP_STORAGE") == address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(f"sqlite:///{folder / 'server.db'}", folder / "artifacts") as started:
        yield started, folder


@pytest.fixture
def protected(server: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in LOGINS:
        monkeypatch.delenv(name, raising=False)
    with guarded(server[0].uri, BASIC, TOKEN) as uri:
        yield uri


def with_password(uri: str) -> str:
    return uri.replace("//", f"//lab:{CANARY}@")


def test_a_protected_server_is_asked_with_the_credentials_that_mlflow_takes(
    protected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"the server answers.*MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        check_tracking(protected)
    with pytest.raises(InputError, match="the server answers") as refused:
        check_tracking(with_password(protected).replace(CANARY, f"{CANARY}-wrong"))
    assert CANARY not in str(refused.value)
    check_tracking(with_password(protected))
    assert not any(name in os.environ for name in LOGINS)  # no other server hears of it
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"{CANARY}-token")
    check_tracking(protected)
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "lab")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    check_tracking(protected)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    """A command as if in a process of its own, with these variables: it knows no secret of an earlier one."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        with monkeypatch.context() as changed, mock.patch.dict(os.environ, {**MLFLOW_ENVIRONMENT, **environment}):
            changed.setattr(secrets, "_addresses", {})
            changed.setattr(secrets, "_known", set())
            parse_override.cache_clear()
            capfd.readouterr()
            return main(arguments), *capfd.readouterr()

    return run


def holders(folder: Path) -> list[str]:
    """The files in which a canary sits."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_sweep_publishes_with_a_password_that_stands_nowhere(
    ray_here: None, protected: str, server: tuple[Server, Path], tmp_path: Path, typed: Typed
) -> None:
    """The trial fails with an error that quotes an address, too."""
    options = ["tracking=mlflow", f"tracking.uri={with_password(protected)}", "num_samples=1", "scheduler=none"]
    overrides = trivial(tmp_path / "results", None, *options, misbehave=SECRET[0], at_epoch=2)
    code, out, err = typed("run", *overrides)
    assert code == 3, err
    assert CANARY not in out + err
    [sweep] = (tmp_path / "results").glob("2*")
    assert holders(tmp_path) == holders(server[1]) == []
    assert yaml.safe_load((sweep / "config.yaml").read_text())["tracking"]["uri"] == protected.replace("//", "//***@")
    assert f"tracking.uri={protected.replace('//', '//***@')}" in read_events(sweep / "events.jsonl")[0]["overrides"]
    assert "postgresql://lab:***@db" in (sweep / "trial_0000" / "error.txt").read_text()
    assert f"compare {protected}/#/experiments" in out  # the publisher has been let in

    for command in (["publish", str(sweep)], ["run", f"resume={sweep}", "num_samples=2", "trainable.misbehave=null"]):
        code, _, err = typed(*command)
        assert code == 2, err
        assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI" in err
        assert err.count("\n") == 1
    login = {"MLFLOW_TRACKING_USERNAME": "lab", "MLFLOW_TRACKING_PASSWORD": CANARY}
    for environment in (login, {"MLFLOW_TRACKING_URI": with_password(protected)}):
        code, out, err = typed("publish", str(sweep), **environment)
        assert code == 0 and CANARY not in out + err, err
    assert holders(tmp_path) == holders(server[1]) == []
