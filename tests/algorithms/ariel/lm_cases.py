"""A small ontology that the tests of local models share."""

from ariel_jax.algorithms.ariel.types import SLOTS, Node


def few_nodes():
    def node(slot, name, label, *aliases):
        return Node(slot=slot, id=name, label=label, aliases=aliases, definition=f"A {label}.")

    nodes = {slot: (node(slot, "self", "Myself"),) for slot in SLOTS}
    nodes["data"] = (
        node("data", "contact.phone", "Phone number", "phone"),
        node("data", "contact.email", "Email address"),
        node("data", "location.city", "City", "town"),
        node("data", "location.address", "Address"),
    )
    return nodes
