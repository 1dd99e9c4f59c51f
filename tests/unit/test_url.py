"""What a URL of sentinels or of a cluster says."""

from __future__ import annotations

import pytest

from streamworker.errors import ConfigError
from streamworker.redisbroker.broker import topology_of
from streamworker.redisbroker.cluster import Cluster
from streamworker.redisbroker.driver import Driver
from streamworker.redisbroker.sentinel import Sentinels
from streamworker.redisbroker.topology import Server
from streamworker.url import Kind, read_url


def refusal(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        topology_of(url)
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_sentinels_have_places_a_service_a_database_and_a_login_of_their_own() -> None:
    said = read_url(
        "sentinel://ann:p%40ss@one,two:26380,[::1]:1/main/2"
        "?sentinel_username=bob&sentinel_password=p%2Bw&socket_read_size=9"
    )
    assert said.kind is Kind.SENTINEL
    assert said.seeds == (("one", 26379), ("two", 26380), ("::1", 1))
    assert said.service == "main"
    assert said.sentinel_login == {"username": "bob", "password": "p+w"}
    assert said.server == "redis://ann:p%40ss@one:26379/2?socket_read_size=9"


def test_sentinels_are_not_given_the_login_of_the_servers() -> None:
    said = read_url("sentinel://ann:secret@one/main/2")
    asking = Driver(said, for_sentinels=True)
    assert not {"username", "password", "db"} & asking._options.keys()
    assert "secret" not in repr(said)


def test_a_cluster_has_nodes_and_no_database() -> None:
    said = read_url("cluster://ann:pw@one,two:7001/0")
    assert said.kind is Kind.CLUSTER
    assert said.seeds == (("one", 6379), ("two", 7001))
    assert said.server == "redis://ann:pw@one:6379/0"
    assert "no database but 0" in refusal("cluster://:secret@one/1")
    assert "no database but 0" in refusal("cluster://one?db=1")


def test_a_url_of_sentinels_without_a_service_is_refused() -> None:
    for url in ("sentinel://one,two", "sentinels://:secret@one/"):
        assert "which service" in refusal(url)


@pytest.mark.parametrize("url", ["cluster://one:65536", "sentinel://one,two:99999/main"])
def test_a_port_that_cannot_be_is_refused(url: str) -> None:
    assert "there is no port" in refusal(url)


def test_a_missing_host_is_this_one() -> None:
    assert read_url("cluster://:7001").seeds == (("localhost", 7001),)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://one", Server),
        ("rediss://one", Server),
        ("unix:///run/redis.sock", Server),
        ("sentinel://one/main", Sentinels),
        ("sentinels://one/main", Sentinels),
        ("cluster://one", Cluster),
        ("clusters://one", Cluster),
    ],
)
def test_each_scheme_leads_to_its_kind_of_server_and_tls_is_verified(url: str, kind: type) -> None:
    topology = topology_of(url)
    assert isinstance(topology, kind)
    driver = Driver(read_url(url))
    if url.partition("://")[0] in ("rediss", "sentinels", "clusters"):
        assert driver._options["ssl_cert_reqs"] == "required"
        assert driver._options["ssl_check_hostname"] is True
    else:
        assert not any(name.startswith("ssl") for name in driver._options)


def test_certificates_are_not_verified_only_where_the_url_says_so() -> None:
    driver = Driver(read_url("clusters://one?ssl_cert_reqs=none&ssl_check_hostname=false"))
    assert driver._options["ssl_cert_reqs"] == "none"
    assert driver._options["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "certificates that the Redis URL names cannot be read"),
        ("ssl_cert_reqs=perhaps", "perhaps"),
        ("no_such_option=1", "no_such_option"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(option: str, told: str) -> None:
    for scheme in ("rediss://:secret@one", "sentinels://:secret@one/main", "clusters://:secret@one"):
        assert told in refusal(f"{scheme}?{option}")
