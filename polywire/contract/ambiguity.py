"""Unions that take too long to read: whose members nothing tells apart, and which are members of their own members.

A reader tries each member. Where two of them lead back to the union, each level of nesting doubles the work, so that a
few hundred bytes would keep it busy for years.
"""

from __future__ import annotations

from polywire.contract.tree import Array, Map, Object, Reference, Row, Tree, Type, Union, types_in

__all__ = ["refuse_costly"]


def refuse_costly(tree: Tree) -> None:
    """Raises `TypeError` naming the members of such a union."""
    for union in dict.fromkeys(one for one in types_in(tree) if isinstance(one, Union) and one.discriminator is None):
        for kinds in ((Reference, Map), (Array, Row)):  # objects, arrays: JSON tells those apart
            back = [one for one in union.members if isinstance(one, kinds) and union in _reached(one, tree)]
            if len(back) > 1:
                names = " and ".join(one.name if isinstance(one, Reference) else type(one).__name__ for one in back)
                raise TypeError(f"{names} are members of one union, and contain it: they need a discriminator")


def _reached(start: Type, tree: Tree) -> set[Type]:
    found: set[Type] = set()
    waiting = [start]
    while waiting:
        for one in types_in(Tree(waiting.pop())):
            if one in found:
                continue
            found.add(one)
            definition = tree.resolve(one) if isinstance(one, Reference) else None
            if isinstance(definition, Object):
                waiting.extend(field.type for field in definition.fields)
    return found
