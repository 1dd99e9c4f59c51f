"""Which Redis is chosen, what is refused, and that no secret is ever shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamworker.endpoint import Endpoint, endpoint
from streamworker.errors import ConfigError
from streamworker.settings import read_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMWORKER_REDIS_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("STREAMWORKER_EMBEDDED", "never")  # a slip here must not start a server


def chosen(explicit: str | None = None, app_urls: Sequence[str | None] = ()) -> Endpoint:
    with endpoint(explicit, app_urls) as found:
        return found


def refusal(explicit: str | None = None, app_urls: Sequence[str | None] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        chosen(explicit, app_urls)
    assert caught.value.__cause__ is None  # a traceback shows causes, and urllib's errors hold the URL
    assert caught.value.__context__ is None
    return str(caught.value)


def test_the_command_line_goes_before_the_app_and_the_app_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://fourth")
    assert chosen().url == "redis://fourth"
    monkeypatch.setenv("STREAMWORKER_REDIS_URL", "redis://third")
    assert chosen().url == "redis://third"
    assert chosen(app_urls=["redis://second"]).url == "redis://second"
    assert chosen("redis://first", ["redis://second"]).url == "redis://first"


def test_a_variable_that_is_empty_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWORKER_REDIS_URL", "")
    monkeypatch.setenv("REDIS_URL", "redis://there")
    assert chosen().url == "redis://there"


def test_an_empty_argument_is_a_mistake_and_not_the_wish_for_an_embedded_server() -> None:
    assert "--redis: the Redis URL has no scheme" in refusal("")
    assert "App(url=): the Redis URL has no scheme" in refusal(None, [""])


def test_an_app_without_a_url_follows_the_app_that_has_one() -> None:
    assert chosen(app_urls=[None, "redis://there/1", None, "redis://there/1"]).url == "redis://there/1"


def test_apps_with_different_urls_are_refused_and_both_are_named() -> None:
    text = refusal(app_urls=["redis://:secret@one/0", None, "redis://two/0"])
    assert "redis://one/0, redis://two/0" in text
    assert "--redis" in text
    assert "secret" not in text


def test_apps_that_differ_in_their_passwords_alone_are_refused_without_showing_them() -> None:
    text = refusal(app_urls=["redis://:secret@one/0", "redis://:hidden@one/0"])
    assert "differ in what is not shown" in text
    assert "secret" not in text
    assert "hidden" not in text


def test_the_command_line_settles_the_dispute_of_two_apps() -> None:
    assert chosen("redis://first", ["redis://one", "redis://two"]).url == "redis://first"


def test_without_any_url_a_forbidden_embedded_server_is_an_error_that_says_what_to_give() -> None:
    text = refusal()
    assert "STREAMWORKER_EMBEDDED=never" in text
    assert "--redis URL" in text
    assert "STREAMWORKER_REDIS_URL" in text


def test_an_unknown_value_of_the_embedded_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWORKER_EMBEDDED", "nope")
    assert "STREAMWORKER_EMBEDDED='nope'" in refusal("redis://there")


def test_the_embedded_server_is_allowed_unless_the_environment_forbids_it() -> None:
    assert read_settings({}).embedded
    assert read_settings({"STREAMWORKER_EMBEDDED": ""}).embedded
    assert read_settings({"STREAMWORKER_EMBEDDED": "auto"}).embedded
    assert not read_settings({"STREAMWORKER_EMBEDDED": "never"}).embedded


def test_settings_do_not_show_the_url() -> None:
    assert "secret" not in repr(read_settings({"REDIS_URL": "redis://:secret@there"}))


@pytest.mark.parametrize(
    "url",
    [
        "redis://there",
        "redis://there:6379/0",
        "redis://there:6379/",
        "redis://127.0.0.1:6379/15",
        "redis://[::1]:6379/0",
        "redis://my_redis.internal:6379",
        "rediss://there:6379/0",
        "unix:///run/redis/redis.sock",
        "sentinel://one,two:26380,[::1]:26381/main/2",
        "sentinels://one/my.service-1",
        "cluster://one,two:6380",
        "clusters://[::1]:6379/0",
    ],
)
def test_a_url_that_holds_no_secret_is_taken_and_shown_as_it_is(url: str) -> None:
    assert chosen(url).url == url
    assert str(chosen(url)) == chosen(url).masked == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@there:6379/0", "redis://there:6379/0"),
        ("rediss://secret:secret@there/0?ssl_cert_reqs=none", "rediss://there/0"),
        ("redis://:p%40secret@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:p@secret@there/0", "redis://there/0"),
        ("redis://there/0?username=secret&password=secret", "redis://there/0"),
        ("unix://secret@/run/redis.sock?db=1&password=secret", "unix:///run/redis.sock"),
        ("redis://there/0#secret", "redis://there/0"),
        ("sentinel://secret:secret@one,two/main?sentinel_password=secret", "sentinel://one,two/main"),
        ("clusters://:sec,ret@one,two:1?ssl_password=secret", "clusters://one,two:1"),
    ],
)
def test_user_password_and_query_are_never_shown(url: str, shown: str) -> None:
    found = chosen(url)
    assert found.url == url
    assert str(found) == shown
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:1/secret@there/0",
        "redis://:1?secret@there/0",
        "redis://:1#secret@there/0",
        "redis://secret/x@there/0",
        "redis://:[secret@there/0",
        "redis://:secret]@there/0",
        "redis://there:secret/0",
        "redis://there:6379/secret",
        "redis://the re/secret",
        "redis://there/0?password=x@secret",
        "redis://\u2100secret/0",
        "redis://one,secret",
        "sentinel://:se/cret@one/main",
        "sentinel://one/main/secret",
        "sentinel://one/main/0/secret",
        "cluster://one/secret",
        "cluster://:secret,one",
        "cluster://one,secret@two,t wo",
        "unix://secret",
        "unix://secret/run/redis.sock",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(url: str) -> None:
    text = refusal(url)
    assert "--redis: the " in text
    assert "cannot be read" in text
    assert "percent-encode" in text
    assert "secret" not in text
    assert "secret" not in str(Endpoint(url))


@pytest.mark.parametrize("url", ["secret@there:6379", "there:6379", "user:secret", "/run/redis.sock"])
def test_a_url_without_a_scheme_is_refused_without_repeating_it(url: str) -> None:
    text = refusal(url)
    assert "no scheme" in text
    assert "redis://host:6379/0" in text
    assert "secret" not in text


@pytest.mark.parametrize("url", ["http://u:secret@there", "REDIS://:secret@there", "valkey://secret", "://secret"])
def test_another_scheme_is_refused_and_the_right_ones_are_named(url: str) -> None:
    text = refusal(url)
    assert repr(url.partition("://")[0]) in text
    for scheme in ("redis://", "rediss://", "unix://", "sentinel://", "sentinels://", "cluster://", "clusters://"):
        assert scheme in text
    assert "secret" not in text


def test_an_error_names_the_variable_that_the_url_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "there")
    assert refusal().startswith("REDIS_URL: ")
    monkeypatch.setenv("STREAMWORKER_REDIS_URL", "there")
    assert refusal().startswith("STREAMWORKER_REDIS_URL: ")
