"""Whose values are nobody's business: variables that were said as secrets, now or earlier.

The template is what remembers. It gets what was said openly, so a value on the endpoint that it
does not have was said as a secret, or by somebody else.
"""

from collections.abc import Mapping

from builder.deploy.api import Thing
from builder.deploy.names import is_reference, is_secret, known_names
from builder.deploy.wanted import Wanted


def hidden(wanted: Wanted, template: Thing | None) -> frozenset[str]:
    """Return the variables that are not shown, and that the template does not get.

    Args:
        wanted: what was said now.
        template: that is there: a value that was said as a secret then is not in it.
    """
    said = wanted.environment
    secret = said.secret if said else frozenset()
    openly = said.values.keys() - secret if said else frozenset()
    return secret | (_unremembered(wanted.variables(), template) - openly)


def hidden_before(wanted: Wanted, template: Thing | None) -> frozenset[str]:
    """Return the variables whose values on the endpoint that is there are not shown."""
    return _unremembered(dict((wanted.there or {}).get("env") or {}), template)


def _unremembered(variables: Mapping[str, str], template: Thing | None) -> frozenset[str]:
    """Return those whose values nobody is known to have said openly."""
    own = dict((template or {}).get("env") or {})
    return frozenset(
        name
        for name, value in variables.items()
        if is_secret(name, value)
        or not (
            is_reference(value)
            or (name in known_names() if template is None else own.get(name) == value)
        )
    )


def shared(wanted: Wanted, template: Thing | None) -> dict[str, str]:
    """Return the variables that the template gets: it keeps its own where the other is hidden."""
    said, private = wanted.environment, hidden(wanted, template)
    own = dict((template or {}).get("env") or {})
    secret = said.secret if said else frozenset()
    return {
        name: own[name] if name in private else value
        for name, value in wanted.variables().items()
        if name not in private or (name in own and name not in secret)
    }
