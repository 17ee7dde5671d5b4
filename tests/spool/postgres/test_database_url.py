"""A URL as libpq takes it is understood, or refused with what to do and without a value of it."""

import pytest

from forwarder.spool.postgres.database_url import DatabaseUrl, DatabaseUrlInvalid


def test_hosts_are_kept_in_their_order() -> None:
    """Each host may have a port; user, password and database are decoded."""
    url = DatabaseUrl.parse("postgresql://app:a%40b%2Fc@db1:6432,db2,[::1]:7/events%20all?sslmode=require")
    assert [str(host) for host in url.hosts] == ["db1:6432", "db2:5432", "[::1]:7"]
    assert (url.user, url.password, url.database) == ("app", "a@b/c", "events all")
    assert dict(url.tls) == {"sslmode": "require"}


def test_what_is_left_out_is_as_libpq_has_it() -> None:
    """The database is named as the user; what is before the question mark may stand behind it."""
    assert DatabaseUrl.parse("postgres://app@db").database == "app"
    url = DatabaseUrl.parse("postgresql:///?host=db1,db2&port=1,2&user=app&password=p&dbname=d&connect_timeout=3")
    assert [str(host) for host in url.hosts] == ["db1:1", "db2:2"]
    assert (url.user, url.password, url.database, url.host_max_s) == ("app", "p", "d", 3.0)
    assert DatabaseUrl.parse("postgresql://app@%2Frun%2Fpostgresql/d").hosts[0].name == "/run/postgresql"


@pytest.mark.parametrize(
    "given",
    [
        "application_name=x",
        "keepalives=1&keepalives_idle=5",
        "gssencmode=disable",
        "target_session_attrs=read-write",
        "channel_binding=prefer",
    ],
)
def test_what_has_no_meaning_here_is_let_pass(given: str) -> None:
    """A URL that was copied from elsewhere works."""
    assert not DatabaseUrl.parse(f"postgresql://app@db/d?{given}").tls


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://app:hush@db/d", "begin with postgresql://"),
        ("host=db user=app password=hush", "begin with postgresql://"),
        ("postgresql://db/hush", "no user"),
        ("postgresql://app:hush@/d", "no host"),
        ("postgresql://app:hu#sh@db/d", "%23"),
        ("postgresql://app:[hush@db/d", "percent-encode"),
        ("postgresql://app:hush@db/d?sslmod=require", "no parameter sslmod here"),
        ("postgresql://app:hush@db/d?sslmode=hush", "one of disable, allow, prefer"),
        ("postgresql://app:hush@db/d?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("postgresql://app:hush@db/d?channel_binding=require", "sslmode=verify-full"),
        ("postgresql://app:hush@db/d?target_session_attrs=standby", "read-write"),
        ("postgresql://app:hush@db/d?connect_timeout=0", "above 0"),
        ("postgresql://app:hush@db:0/d", "name:port"),
        ("postgresql://app:hush@db:65536/d", "name:port"),
        ("postgresql://app:hush@db1,,db2/d", "name:port"),
        ("postgresql://app:hush@/d?host=a,b,c&port=1,2", "more or fewer ports"),
    ],
)
def test_what_cannot_be_used_is_refused_without_quoting_it(url: str, problem: str) -> None:
    """The text says what is wrong, and holds no value of the URL."""
    with pytest.raises(DatabaseUrlInvalid) as caught:
        DatabaseUrl.parse(url)
    assert problem in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app@db/d",
        "postgresql://app@db/d?sslmode=require",
        "postgresql://app@db/d?sslmode=verify-ca&sslrootcert=f",
        "postgresql://app@127.0.0.1,db/d",
    ],
)
def test_a_server_elsewhere_proves_nothing_by_less_than_verify_full(url: str) -> None:
    """Who stands between could take its place."""
    assert not DatabaseUrl.parse(url).proves_server


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app@db/d?sslmode=verify-full&sslrootcert=f",
        "postgresql://app@db/d?sslrootcert=system",
        "postgresql://app@127.0.0.1,[::1],localhost,%2Frun/d",
    ],
)
def test_a_server_proves_itself_by_its_certificate_or_is_here(url: str) -> None:
    """Nobody can stand between."""
    assert DatabaseUrl.parse(url).proves_server


def test_no_secret_in_its_repr() -> None:
    """Whatever shows the value, by mistake too, shows no password."""
    shown = repr(DatabaseUrl.parse("postgresql://app:hush@db/d?sslpassword=hush"))
    assert "hush" not in shown
    assert "db" in shown
