"""What a receiver checks, where we do not connect to, and when we try again: pure."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bugs.webhook_post import may_connect
from app.bugs.webhook_sender import wait_s
from app.bugs.webhooks import check_url, make_secret, signed_headers
from app.core.errors import BadRequestError
from app.settings import BadSettings, load_settings

# The example that the libraries of https://github.com/standard-webhooks/standard-webhooks are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_the_standard() -> None:
    headers = signed_headers(SECRET, MESSAGE, 1_614_265_330, BODY)
    assert headers["webhook-signature"] == SIGNATURE
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (MESSAGE, "1614265330")


def test_the_body_alone_is_signed_too() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = hmac.new(key, BODY, hashlib.sha256).hexdigest()
    assert signed_headers(SECRET, MESSAGE, 1, BODY)["X-Gaveurs-Signature"] == f"sha256={expected}"


def test_another_secret_time_id_or_body_has_another_signature() -> None:
    given = [(SECRET, "a", 1, b"x"), (make_secret(), "a", 1, b"x"), (SECRET, "b", 1, b"x"), (SECRET, "a", 2, b"x"),
             (SECRET, "a", 1, b"y")]  # fmt: skip
    assert len({signed_headers(*one)["webhook-signature"] for one in given}) == len(given)


def test_a_secret_has_256_bits_and_is_never_the_same() -> None:
    made = {make_secret() for _ in range(10)}
    assert len(made) == 10
    assert {len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) for one in made} == {32}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0", "0.1.2.3", "::",
        "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "255.255.255.255",
        "240.0.0.1", "fd00:ec2::254", "100.100.100.200",
    ],
)  # fmt: skip
def test_it_is_not_sent_to_ourselves_or_to_what_is_no_receiver(address: str) -> None:
    assert not may_connect(address)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.1.1", "172.16.0.9", "93.184.216.34", "2606:4700::1", "fd12::1", "64:ff9b::a01:203"]
)
def test_it_is_sent_to_a_factory_and_to_the_world(address: str) -> None:
    assert may_connect(address)


def test_loopback_may_be_allowed_and_nothing_else_with_it() -> None:
    assert may_connect("127.0.0.1", loopback=True)
    assert may_connect("::1", loopback=True)
    assert not may_connect("169.254.169.254", loopback=True)
    assert not may_connect("0.0.0.0", loopback=True)


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "http://", "http:///x", "/x", "javascript:alert(1)", "http://user:pass@x/", "http://user@x/",
     "http://x:0/", "http://x:99999/", "http://[::1", "http://a%20b/", "http://\ud800/", "file:///etc/passwd"],
)  # fmt: skip
def test_an_address_that_nothing_can_be_sent_to_is_refused_with_a_pointer(url: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        check_url(url)
    assert refused.value.more["errors"][0]["pointer"] == "#/url"


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "0",
     "[fe80::1]", "224.0.0.1", "100.100.100.200", "127.0.0.1.", "127。0。0。1"],
)  # fmt: skip
def test_an_address_that_is_never_called_is_refused_when_it_is_said(host: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        check_url(f"http://{host}:8080/")
    assert refused.value.more["errors"][0]["pointer"] == "#/url"


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "[fd12::1]", "93.184.216.34", "receiver.example", "1.2.3.4.example", "x.1"]
)
def test_an_address_that_may_be_called_is_taken(host: str) -> None:
    check_url(f"http://{host}/")


def test_this_machine_is_taken_where_that_is_allowed() -> None:
    for host in ("127.0.0.1", "[::1]"):
        check_url(f"http://{host}/", loopback=True)
    with pytest.raises(BadRequestError):
        check_url("http://169.254.169.254/", loopback=True)


@pytest.mark.parametrize("steps", ["", "60,10", "0,1", "-1", "nan", "inf", "1,x", "1,,2", "1," * 30, "700000"])
def test_waits_that_make_no_sense_are_refused_at_start(steps: str) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(webhook_retry_s=steps)
    assert refused.value.line.startswith("WEBHOOK_RETRY_S")


def test_waits_are_written_with_commas() -> None:
    assert load_settings(webhook_retry_s="0.5, 2,2").webhook_retry_s == (0.5, 2.0, 2.0)


@given(chance=st.floats(0, 1), failed=st.integers(0, 8))
def test_waits_grow_step_by_step_and_end(chance: float, failed: int) -> None:
    steps = (10.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0)
    waited = wait_s(steps, failed, chance)
    if failed >= len(steps):
        assert waited is None
    else:
        assert waited is not None
        assert (0.0, *steps)[failed] <= waited <= steps[failed] * 1.000001
