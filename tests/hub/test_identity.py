"""Who somebody is, by environment, session, address and headers."""

import pytest

from tests.ui.asking import http, session_of
from tuner.hub.identity import ARRIVED, Person, Role, address_of, arrival, person_of

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "ann/tuner",
    "SPACE_AUTHOR_NAME": "ann",
    "SPACE_CREATOR_USER_ID": "id-of-eve",
    "SPACE_HOST": "ann-tuner.hf.space",
    "OAUTH_CLIENT_SECRET": "a secret of the Space's",
}
AWAY, PUBLIC = "192.0.2.7", "ann-tuner.hf.space"
OWNER, SIGNED_IN, VISITOR = Role.OWNER, Role.SIGNED_IN, Role.VISITOR


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    for name in (*SPACE, "TUNER_OWNERS", "TUNER_TRUST_NETWORK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def space(monkeypatch):
    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)


def in_space(session=None, **headers):
    return person_of(http(AWAY, PUBLIC, session, X_Forwarded_For="198.51.100.4", **headers))


# Off a Space.


@pytest.mark.parametrize(
    ("peer", "host", "role"),
    [
        ("127.0.0.1", "127.0.0.1:7860", OWNER),
        ("127.0.0.1", "localhost:7860", OWNER),
        ("127.8.0.1", "127.0.0.1", OWNER),
        ("::1", "[::1]:7860", OWNER),
        ("::ffff:127.0.0.1", "localhost", OWNER),
        (AWAY, "192.0.2.1:7860", VISITOR),
        (AWAY, "127.0.0.1:7860", VISITOR),
        ("::ffff:192.0.2.7", "localhost", VISITOR),
        ("127.0.0.1", "1234.gradio.live", VISITOR),
        ("127.0.0.1", "127.0.0.1.evil.example", VISITOR),
        ("127.0.0.1", "evil.example:7860", VISITOR),
        ("127.0.0.1", "0.0.0.0:7860", VISITOR),
        ("127.0.0.1", "", VISITOR),
        ("127.0.0.1", "[", VISITOR),
        ("", "localhost", VISITOR),
        ("localhost.evil.example", "localhost", VISITOR),
    ],
)
def test_who_sits_at_the_machine_owns_the_page_and_others_visit(peer, host, role):
    assert person_of(http(peer, host)) == Person(role)


@pytest.mark.parametrize(
    "header",
    ["X_Forwarded_For", "X_Real_IP", "Forwarded", "Via", "X_Forwarded_Host", "CF_Connecting_IP"],
)
def test_what_a_proxy_passes_on_is_a_visitors_whatever_it_says(header):
    assert person_of(http(**{header: "127.0.0.1"})).role is VISITOR
    assert person_of(http(AWAY, **{header: "127.0.0.1"})).role is VISITOR


def test_a_session_is_nothing_off_a_space_where_its_key_is_known(monkeypatch):
    for variables in ({}, {"SYSTEM": "spaces", "OAUTH_CLIENT_SECRET": "x"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SPACE_AUTHOR_NAME", "ann")
        assert person_of(http(AWAY, session=session_of("ann"))) == Person(VISITOR)
        assert person_of(http(session=session_of("bob"))) == Person(OWNER)


def test_who_trusts_their_network_lets_it_do_everything_but_not_other_sites(monkeypatch):
    monkeypatch.setenv("TUNER_TRUST_NETWORK", "1")
    assert person_of(http(AWAY, "192.0.2.1:7860")).role is OWNER
    assert person_of(http(AWAY, "192.0.2.1:7860", Origin="http://evil.example")).role is VISITOR
    monkeypatch.setenv("TUNER_TRUST_NETWORK", "0")
    assert person_of(http(AWAY, "192.0.2.1:7860")).role is VISITOR


@pytest.mark.parametrize(
    ("origin", "role"),
    [
        ("http://127.0.0.1:7860", OWNER),
        ("http://127.0.0.1:8000", VISITOR),
        ("http://evil.example", VISITOR),
        ("null", VISITOR),
        ("", VISITOR),
        ("http://evil.example@127.0.0.1:7860", VISITOR),
    ],
)
def test_another_site_that_asks_in_the_owners_browser_is_a_visitor(origin, role):
    assert person_of(http(Origin=origin)).role is role


# Tools: Gradio's tool server asks the page for others, from this machine.


def passed_on(stamp, host="localhost:7860"):
    headers = {"X_Gradio_User": "mcp"} | ({ARRIVED.replace("-", "_"): stamp} if stamp else {})
    return person_of(http(host=host, **headers)).role


def test_who_calls_a_tool_from_elsewhere_does_not_sit_here():
    assert passed_on(arrival("127.0.0.1")) is OWNER
    assert passed_on(arrival(AWAY)) is VISITOR
    assert passed_on(None) is VISITOR
    forged = arrival(AWAY).replace(AWAY, "127.0.0.1")
    assert passed_on(forged) is VISITOR
    assert passed_on("127.0.0.1") is VISITOR
    assert passed_on("127.0.0.1 ä") is VISITOR


# On a Space.


@pytest.mark.parametrize(
    ("session", "role", "name"),
    [
        (None, VISITOR, None),
        ({}, VISITOR, None),
        (session_of("ann"), OWNER, "ann"),
        (session_of("eve"), OWNER, "eve"),
        (session_of("bob"), SIGNED_IN, "bob"),
        (session_of("Ann"), SIGNED_IN, "Ann"),
        (session_of("bob", name="ann"), SIGNED_IN, "bob"),
        (session_of("ann", ends_in=-1), VISITOR, None),
        ({"oauth_info": {**session_of("ann")["oauth_info"], "expires_at": None}}, VISITOR, None),
        ({"oauth_info": "ann"}, VISITOR, None),
        (session_of("ann", preferred_username=None), VISITOR, None),
        (session_of("ann", preferred_username=["ann"]), VISITOR, None),
        (session_of(""), VISITOR, None),
    ],
)
def test_a_session_says_who_somebody_is_on_a_space(space, session, role, name):
    here = in_space(session)
    assert (here.role, here.name) == (role, name)
    assert here.token == (None if role is VISITOR else "hf_oauth_of_somebody")


def org(name, /, **more):
    return {"preferred_username": name, "name": name.title(), **more}


@pytest.mark.parametrize(
    ("author", "listed", "orgs", "role"),
    [
        ("school", "", [org("school", roleInOrg="admin")], OWNER),
        ("school", "", [org("school", roleInOrg="write")], OWNER),
        ("school", "", [org("school", roleInOrg="read")], SIGNED_IN),
        ("school", "", [org("school")], SIGNED_IN),
        ("ann", "school", [org("school", roleInOrg="read")], OWNER),
        ("ann", "carl, bob", [], OWNER),
        ("ann", ",  ,", [org("")], SIGNED_IN),
        ("ann", "school", [org("others", name="school")], SIGNED_IN),
        ("ann", "school", [{"name": "school"}, "school", None], SIGNED_IN),
        ("ann", "school", "school", SIGNED_IN),
        ("", "", [org("", roleInOrg="admin")], SIGNED_IN),
    ],
)
def test_owners_are_those_who_may_change_the_space_and_those_listed(
    space, monkeypatch, author, listed, orgs, role
):
    monkeypatch.setenv("SPACE_AUTHOR_NAME", author)
    monkeypatch.setenv("TUNER_OWNERS", listed)
    assert in_space(session_of("bob", orgs=orgs)).role is role


@pytest.mark.parametrize("missing", ["SYSTEM", "OAUTH_CLIENT_SECRET"])
def test_a_space_whose_sessions_anybody_could_sign_knows_nobody(space, monkeypatch, missing):
    monkeypatch.delenv(missing)
    assert in_space(session_of("ann")) == Person(VISITOR)


def test_on_a_space_neither_its_own_machine_nor_trust_in_a_network_counts(space, monkeypatch):
    monkeypatch.setenv("TUNER_TRUST_NETWORK", "1")
    assert person_of(http()) == Person(VISITOR)


def test_a_space_is_asked_from_its_own_pages_only(space):
    ours, theirs = f"https://{PUBLIC}", "https://evil.example"
    assert in_space(session_of("ann"), Origin=ours).role is OWNER
    assert in_space(session_of("ann"), Origin=theirs) == Person(VISITOR)


def test_visitors_are_told_apart_by_what_the_proxy_says_on_a_space_only(space, monkeypatch):
    asked = http(AWAY, X_Forwarded_For="198.51.100.4, 10.0.0.1")
    assert address_of(asked) == "198.51.100.4"
    monkeypatch.delenv("SPACE_ID")
    assert address_of(asked) == AWAY


def test_a_token_is_not_shown_with_its_person():
    assert "hf_" not in repr(Person(OWNER, "ann", "hf_secret"))
