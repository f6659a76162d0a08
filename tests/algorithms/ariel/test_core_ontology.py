"""The packaged ontology: complete, free of doubtful edges, and in the wheel."""

import dataclasses
import tomllib

import networkx
import pytest

from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import judge
from ariel_jax.algorithms.ariel.mapper import LexiconMapper
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.text import clean
from ariel_jax.algorithms.ariel.types import EDGE_TYPES, SELF, SLOTS, Judgement, Policy, Request


@pytest.fixture(scope="module")
def core():
    return Ontology.core()


@pytest.fixture(scope="module")
def closures(core):
    return Closures(core)


def test_every_slot_has_the_nodes_of_a_real_assistant(core):
    sizes = {slot: len(core.nodes[slot]) for slot in SLOTS}
    assert sizes["data"] >= 150
    assert sizes["recipient"] >= 60
    assert sizes["purpose"] >= 50
    assert sizes["principle"] >= 12
    assert SELF in {node.id for node in core.nodes["subject"]}
    assert SELF in {node.id for node in core.nodes["sender"]}


def test_every_node_has_a_definition_of_one_line_and_aliases(core):
    for slot in SLOTS:
        for node in core.nodes[slot]:
            assert node.definition.endswith("."), node
            assert "\n" not in node.definition, node
            assert node.aliases, node
            assert len(set(node.aliases)) == len(node.aliases), node


def test_no_name_belongs_to_two_nodes_of_a_slot(core):
    for slot in SLOTS:
        owner = {}
        for node in core.nodes[slot]:
            for name in (node.id, node.label, *node.aliases):
                key = clean(name)[0].casefold()
                assert owner.setdefault(key, node.id) == node.id, (slot, name)


def test_every_edge_is_of_a_type_that_its_slot_may_have_and_says_why(core):
    for edge in core.edges:
        assert edge.slot in EDGE_TYPES[edge.type]
        assert edge.reason.endswith("."), edge


@pytest.mark.parametrize("polarity", ["approve", "deny"])
def test_judgements_travel_without_circles(core, polarity):
    """Also through edges of several types, which no check of one type would see."""
    for slot in SLOTS:
        graph = networkx.DiGraph()
        for edge in core.edges:
            if edge.slot != slot:
                continue
            one_way = edge.type in ("isa", "narrower")
            forth = one_way or (edge.type == "reveals") == (polarity == "deny")
            graph.add_edge(*((edge.src, edge.dst) if forth else (edge.dst, edge.src)))
        assert networkx.is_directed_acyclic_graph(graph), slot


def test_no_thing_reveals_the_whole_of_a_family(core):
    families = {edge.dst for edge in core.edges if edge.type == "isa" and edge.slot == "data"}
    assert not [e for e in core.edges if e.type == "reveals" and {e.src, e.dst} & families]


CHAIN = (
    "location.address", "location.postcode", "location.city", "location.region", "location.country",
)  # fmt: skip


@pytest.mark.parametrize("n", range(len(CHAIN) - 1))
def test_the_chain_of_places_goes_from_fine_to_coarse_only(closures, n):
    fine, coarse = CHAIN[n], CHAIN[n + 1]
    assert closures.covers("data", "approve", coarse, fine)
    assert not closures.covers("data", "approve", fine, coarse)
    assert closures.covers("data", "deny", fine, coarse)
    assert not closures.covers("data", "deny", coarse, fine)


def test_an_approval_of_the_age_range_never_releases_the_exact_age(closures):
    """The trap of AgeExact and AgeRange in the core, up to the verdict."""

    def verdict(judged, value, asked):
        more = {"purpose": "shopping.purchase", "principle": "notice.before"}
        past = Judgement(
            id=1, request=Request(data=(judged,), recipient="commerce.shop", **more), value=value
        )
        asked_for = Request(data=(asked,), recipient="commerce.shop", **more)
        return judge(asked_for, [past], closures, Policy()).verdict

    age, span, birth = "demographic.age", "demographic.age_range", "demographic.date_of_birth"
    assert verdict(span, "appropriate", age) == "ask"
    assert verdict(span, "appropriate", birth) == "ask"
    assert verdict(birth, "appropriate", span) == "share"
    assert verdict(span, "inappropriate", birth) == "withhold"


def test_what_may_be_public_may_go_to_anybody_and_not_the_other_way_round(core, closures):
    for node in core.nodes["recipient"]:
        assert closures.covers("recipient", "approve", node.id, "public")
        if node.id != "public":
            assert not closures.covers("recipient", "approve", "public", node.id)


def test_every_name_of_the_core_is_found(core):
    mapper = LexiconMapper.core()
    for slot in SLOTS:
        for node in core.nodes[slot]:
            for name in (node.id, node.label, *node.aliases):
                found = mapper.map(slot, name)
                assert (found.node, found.by) == (node.id, "exact"), name


def test_the_wheel_takes_every_file_of_the_package(root):
    """Hatch packs whole packages; nothing excludes the assets, and git knows them."""
    hatch = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert hatch["targets"]["wheel"]["packages"] == ["ariel_jax"]
    assert not {"exclude", "only-include"} & {*hatch, *hatch["targets"]["wheel"]}
    folder = root / "ariel_jax" / "algorithms" / "ariel" / "assets"
    ignored = (root / ".gitignore").read_text().split()
    names = {path.name for path in folder.iterdir()}
    assert {"ontology.json", "paraphrases.json", "calibration.json", "prompts.json"} <= names
    assert not {"assets", "*.json", "assets/"} & set(ignored)


def test_whom_a_user_trusts_more_is_only_proposed(core):
    trust = [edge for edge in core.edges if edge.type == "trust"]
    proposed = [edge for edge in trust if edge.status == "proposed"]
    assert len(proposed) == 13
    assert {edge.dst for edge in trust if edge.status == "curated"} == {"public"}


CONTAINED = {
    ("contact.name", "contact.first_name"),
    ("identity.passport_scan", "identity.passport"),
    ("identity.passport_scan", "contact.name"),
    ("identity.passport_scan", "demographic.date_of_birth"),
    ("identity.passport_scan", "demographic.nationality"),
    ("identity.passport_scan", "demographic.gender"),
    ("identity.birth_certificate", "demographic.date_of_birth"),
    ("identity.birth_certificate", "demographic.place_of_birth"),
    ("location.trace", "location.city"),
    ("location.precise", "location.approximate"),
    ("location.approximate", "location.city"),
    ("location.address", "location.postcode"),
    ("location.postcode", "location.city"),
    ("location.city", "location.region"),
    ("location.region", "location.country"),
    ("location.city", "location.time_zone"),
    ("calendar.itinerary", "calendar.travel_dates"),
    ("calendar.itinerary", "location.travel_destination"),
    ("demographic.date_of_birth", "calendar.birthday"),
    ("demographic.date_of_birth", "demographic.age"),
    ("demographic.age", "demographic.age_range"),
    ("demographic.age", "demographic.adult"),
    ("health.medical_record", "health.diagnosis"),
    ("health.medical_record", "health.medication"),
    ("health.medical_record", "demographic.date_of_birth"),
    ("finance.card_number", "finance.card_last_digits"),
    ("finance.salary", "finance.income_bracket"),
    ("finance.tax_return", "identity.tax_id"),
    ("household.children_details", "household.children_count"),
    ("work.cv", "work.employer"),
    ("work.cv", "work.job_title"),
    ("work.cv", "work.school"),
    ("work.cv", "contact.name"),
    ("work.transcript", "work.grades"),
    ("work.transcript", "work.school"),
}


def test_only_what_is_certainly_contained_is_revealed(core):
    """Whoever adds a pair here says that the first is never told without the second."""
    reveals = [edge for edge in core.edges if edge.type == "reveals"]
    curated = {(edge.src, edge.dst) for edge in reveals if edge.status == "curated"}
    assert curated == CONTAINED
    assert {edge.status for edge in reveals} == {"curated", "proposed"}


BIOMETRIC = ("media.face_template", "media.fingerprint", "media.iris", "media.voice_print")


@pytest.mark.parametrize("family", ["media", "health"])
def test_no_approval_of_something_else_covers_a_body(core, closures, family):
    """`media` are photos, recordings and biometrics."""

    def inside(node):
        return node == family or node.startswith(family + ".")

    ids = [node.id for node in core.nodes["data"]]
    for asked in filter(inside, ids):
        for given in ids:
            if not inside(given):
                assert not closures.covers("data", "approve", asked, given), (given, asked)
    part = {"media": "media.portrait", "health": "health.allergy"}[family]
    assert closures.covers("data", "approve", part, family)


def test_no_picture_or_recording_covers_a_measure_of_the_body(core, closures):
    for asked in BIOMETRIC:
        for node in core.nodes["data"]:
            if node.id not in (asked, "media"):  # whose name says biometrics
                assert not closures.covers("data", "approve", asked, node.id), (node.id, asked)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("media.portrait", "media.face_template"),
        ("media.voice_recording", "media.voice_print"),
        ("calendar.event_details", "health.appointment"),
        ("identity.passport_scan", "contact.signature"),
        ("finance.transactions", "finance.salary"),
        ("finance.transactions", "finance.balance"),
        ("finance.tax_return", "household.marital_status"),
        ("browsing.history", "browsing.ad_profile"),
        ("media.photo_library", "location.places_visited"),
        ("media.home_video", "household.occupancy"),
        ("location.trace", "calendar.routine"),
        ("location.trace", "location.work_address"),
        ("location.trace", "location.address"),
        ("contact", "contact.signature"),  # families do not bring what their name does not say
        ("device", "device.password"),
        ("finance", "finance.card_code"),
        ("household", "household.door_code"),
    ],
)
def test_what_can_be_computed_or_may_stand_in_it_is_asked_about(closures, given, asked):
    def outcome(judged, value, wanted, **policy):
        more = {"recipient": "commerce.shop", "purpose": "shopping.purchase"}
        more["principle"] = "notice.before"
        past = [Judgement(id=1, request=Request(data=(judged,), **more), value=value)]
        return judge(Request(data=(wanted,), **more), past, closures, Policy(**policy))

    assert outcome(given, "appropriate", asked).verdict == "ask"
    assert outcome(given, "appropriate", asked).suggestion == "share"
    assert outcome(given, "appropriate", asked, trust_proposed=True).verdict == "share"


def test_an_edge_that_is_not_settled_still_holds_back(core, closures):
    """Denying the ad profile denies the history from which it is computed."""
    past = Judgement(
        id=1,
        request=Request(
            data=("browsing.ad_profile",), recipient="commerce.shop", purpose="shopping.purchase",
            principle="notice.before",
        ),
        value="inappropriate",
    )  # fmt: skip
    asked = dataclasses.replace(past.request, data=("browsing.history",))
    assert judge(asked, [past], closures, Policy()).verdict == "withhold"


def test_only_reveals_trust_and_families_have_edges_that_are_not_settled(core):
    unsettled = [edge for edge in core.edges if edge.status != "curated"]
    assert {edge.status for edge in unsettled} == {"proposed"}
    assert {edge.type for edge in unsettled} == {"reveals", "trust", "isa"}
    families = {edge.src for edge in unsettled if edge.type == "isa"}
    assert families == {
        "contact.signature", "contact.emergency", "household.door_code", "device.password",
        "device.one_time_code", "device.api_key", "device.security_question", "device.wifi",
        "device.files", "finance.card_code", "work.documents",
    }  # fmt: skip
