"""Keys: what is kept of them, who they let in, and how often."""

import json
from pathlib import Path

import pytest

from promptuary.errors import BusyError, SettingError
from promptuary.serve.faults import Fault
from promptuary.serve.keys import Guard, Key, hashed, new_key, read_admin, read_keys
from promptuary.serve.process import check_open
from tests.saved import command, refused


def key(name: str = "shop", token: str = "pk-shop", **more: object) -> Key:
    return Key(name=name, sha256=hashed(token), **{"tasks": ["*"], **more})  # type: ignore[arg-type]


def test_a_new_key_is_told_once_and_its_file_holds_what_recognises_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = new_key(file, "shop", ["mood"], rows_per_minute=5)
    second = new_key(file, "desk", [], at_once=2)
    text = file.read_text()
    assert first not in text
    assert second not in text
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(first) > 40
    guard = Guard(read_keys(file))
    shop, desk = (guard.caller(f"Bearer {token}") for token in (first, second))
    assert (shop.name, desk.name) == ("shop", "desk")
    assert [shop.may("mood"), shop.may("tags"), desk.may("tags")] == [True, False, True]
    assert (shop.admin, desk.admin) == (False, False)


def test_the_command_line_prints_the_key_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = command("key", "shop", "--keys", file, "--task", "mood", "--task", "tags", "--at-once", "3")
    assert made.exit_code == 0
    [own] = json.loads(file.read_text())
    assert own["sha256"] == hashed(made.stdout.strip())
    assert (own["tasks"], own["at_once"]) == (["mood", "tags"], 3)
    assert "has a key already" in refused("key", "shop", "--keys", file)


@pytest.mark.parametrize("content", ["", "{}", '[{"name": "a"}]', '[{"name":"a","sha256":"00","tasks":[]}]', "[1]"])
def test_a_file_that_holds_something_else_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(SettingError, match=r"keys\.json.*`promptuary key`"):
        read_keys(file)


def test_a_missing_file_and_a_short_token_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read_keys(tmp_path / "none.json")
    with pytest.raises(SettingError, match="could not be read"):
        read_admin(tmp_path / "none")
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(SettingError, match="5 characters"):
        read_admin(tmp_path / "token")
    (tmp_path / "token").write_text("der Schlüssel des Verwalters\n", encoding="utf-8")
    with pytest.raises(SettingError, match="beyond ASCII"):
        read_admin(tmp_path / "token")
    (tmp_path / "token").write_text("long enough a token\nand a note\n")
    assert read_admin(tmp_path / "token") == hashed("long enough a token")


def test_where_no_keys_are_asked_for_any_key_will_do_and_the_administrators_is_known() -> None:
    guard = Guard(None, hashed("leader"))
    for sent in (None, "Bearer anything", "Basic x", "Bearer", "nonsense"):
        caller = guard.caller(sent)
        assert (caller.admin, caller.may("mood")) == (False, True)
    assert guard.caller("bearer leader").admin


def test_an_empty_list_of_keys_lets_nobody_in() -> None:
    guard = Guard([])
    for sent, code in ((None, "missing_api_key"), ("Bearer ", "invalid_api_key"), ("Bearer x", "invalid_api_key")):
        with pytest.raises(Fault) as raised:
            guard.caller(sent)
        assert raised.value.code == code


def test_a_rate_is_a_minute_long_and_refusals_cost_nothing() -> None:
    now = [100.0]
    caller = Guard([key(rows_per_minute=60)], clock=lambda: now[0]).caller("Bearer pk-shop")
    for _ in range(60):
        with caller.asking(1):
            pass
    for _ in range(5):
        with pytest.raises(Fault) as raised, caller.asking(1):
            pass
        assert raised.value.headers == {"Retry-After": "1"}
    now[0] += 2
    with caller.asking(2):
        pass
    with pytest.raises(Fault), caller.asking(1):
        pass
    now[0] += 1000
    with caller.asking(60):
        pass


@pytest.mark.parametrize(
    ("error", "costs"),
    [
        (BusyError("Full.", 1.0), False),
        (TimeoutError(), False),
        (ZeroDivisionError(), False),
        (Fault(503, "Gone.", code="replica_lost"), False),
        (SettingError("Wrong."), True),
        (GeneratorExit(), True),  # the client left
    ],
)
def test_a_request_that_the_server_could_not_answer_costs_nothing(error: BaseException, costs: bool) -> None:
    now = [100.0]
    caller = Guard([key(rows_per_minute=60)], clock=lambda: now[0]).caller("Bearer pk-shop")
    with pytest.raises(type(error)), caller.asking(60):
        raise error
    if costs:
        with pytest.raises(Fault), caller.asking(60):
            pass
    else:
        with caller.asking(60):
            pass


def test_what_flowed_out_meanwhile_is_not_given_back_again() -> None:
    now = [100.0]
    caller = Guard([key(rows_per_minute=60)], clock=lambda: now[0]).caller("Bearer pk-shop")

    def slow() -> None:
        with caller.asking(20):
            now[0] += 60  # all of it
            with caller.asking(60):
                pass
            raise TimeoutError

    with pytest.raises(TimeoutError):
        slow()
    with pytest.raises(Fault), caller.asking(1):
        pass


def test_requests_at_once_are_counted_while_they_run_whatever_becomes_of_them() -> None:
    caller = Guard([key(at_once=2)]).caller("Bearer pk-shop")
    with caller.asking(1), caller.asking(1):
        with pytest.raises(Fault) as raised, caller.asking(1):
            pass
        assert (raised.value.status_code, raised.value.code) == (429, "too_many_at_once")
    with pytest.raises(ZeroDivisionError), caller.asking(1):
        raise ZeroDivisionError
    with caller.asking(1), caller.asking(1):
        pass


def test_limits_are_of_each_key_by_itself() -> None:
    guard = Guard([key(at_once=1), key("desk", "pk-desk", at_once=1)])
    one, other = guard.caller("Bearer pk-shop"), guard.caller("Bearer pk-desk")
    with one.asking(1), other.asking(1), pytest.raises(Fault), guard.caller("Bearer pk-shop").asking(1):
        pass


def test_beyond_this_machine_keys_are_needed_or_said_not_to_be() -> None:
    anyone, keyed = Guard(None), Guard([key()])
    for host in ("127.0.0.1", "localhost", "::1"):
        check_open(host, anyone, allowed=False)
    check_open("0.0.0.0", keyed, allowed=False)
    check_open("0.0.0.0", anyone, allowed=True)
    with pytest.raises(SettingError, match="--open"):
        check_open("0.0.0.0", anyone, allowed=False)
