"""Secrets do not survive: those that are known, and those that look like one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tproxy_cli.gather.secrets import REMOVED, Cleaner, of_kubeconfig_user, of_match

PLANTED = "s3cr3t-Xyzzy-0123456789"

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {PLANTED}",
        f"authorization: Basic {PLANTED}==",
        f'{{"Authorization": "Bearer {PLANTED}"}}',
        f"sent bearer {PLANTED} to it",
        f"Cookie: session={PLANTED}; theme=dark",
        f"https://ada:{PLANTED}@proxy.example:3128/",
        f"password={PLANTED}",
        f'"client_secret": "{PLANTED}"',
        f"AWS_SECRET_ACCESS_KEY={PLANTED}",
        f"token: '{PLANTED}'",
        f"api-key={PLANTED},next",
        f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\nand then it was cut",
    ],
)
def test_what_looks_like_a_secret_is_removed(text: str) -> None:
    cleaned = Cleaner().text(f"before {text}")
    assert PLANTED not in cleaned
    assert REMOVED in cleaned
    assert cleaned.startswith("before")


def test_tokens_and_their_hashes_are_removed() -> None:
    cleaned = Cleaner().text(f"token was {JWT}, hash {'0a' * 32}.")
    assert JWT not in cleaned
    assert "0a0a" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31 12:34:56.789 warning tunnels: lost the tunnel node=node1",
        "intercept/web-3f2a created in 0.31 s",
        "lib.so (sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709)",
        "https://10.0.0.1:6443/api/v1/namespaces/shop/pods?watch=true",
        "uid 5f2c9a34-6a37-4b8a-9e07-0d2f6b1f7c55",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert Cleaner(["an-unrelated-secret"]).text(text) == text


@given(st.text(), st.text(min_size=8).filter(lambda secret: secret not in REMOVED), st.text())
def test_known_secrets_never_survive(before: str, secret: str, after: str) -> None:
    cleaner = Cleaner([secret])
    assert secret not in cleaner.text(before + secret + after).replace(REMOVED, "\0")
    document = json.loads(json.dumps(cleaner.data({"a": [before + secret, {"b": secret}]})))
    assert secret not in str(document["a"][0]).replace(REMOVED, "\0")
    assert document["a"][1] == {"b": REMOVED}


def test_a_secret_within_another_leaves_nothing_of_the_longer_one() -> None:
    assert Cleaner(["abcdefgh", "abcdefgh-and-more"]).text("x abcdefgh-and-more y") == f"x {REMOVED} y"


def test_secrets_can_be_learnt_on_the_way() -> None:
    cleaner = Cleaner()
    cleaner.learn(["quiet-value"])
    assert cleaner.text("x-user=quiet-value") == f"x-user={REMOVED}"


def test_what_a_kubeconfig_proves_its_user_by() -> None:
    user = {
        "token": "the-token",
        "password": "the-password",
        "username": "ada",
        "client-key-data": "the-key",
        "client-certificate": "/home/ada/ada.crt",
        "auth-provider": {"name": "oidc", "config": {"refresh-token": "the-refresh", "id-token": "the-id"}},
        "exec": {"command": "aws", "args": ["--profile", "the-argument"], "env": [{"name": "K", "value": "the-env"}]},
    }
    found = of_kubeconfig_user(user)
    for secret in ("token", "password", "key", "refresh", "id", "argument", "env"):
        assert f"the-{secret}" in found
    assert "ada" not in found
    assert "/home/ada/ada.crt" not in found


def test_what_requests_are_matched_by() -> None:
    match = {"headers": [{"name": "cookie", "value": "sid=1"}], "baggage": [{"name": "user", "value": "ada"}]}
    assert of_match(match) == ["sid=1", "ada"]
    assert of_match(None) == []
