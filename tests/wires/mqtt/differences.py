"""Where a real mosquitto (2.0) and the hub both keep to the standard, or mosquitto departs from it, and a behaviour
test expects of each what it does. The wire's README explains each under the same name.
"""

from __future__ import annotations

__all__ = ["DIFFERENCES"]

DIFFERENCES: dict[str, str] = {
    "a CONNECT of any size": "",
    "a reason for every end": "",
    "an unknown id": "",
    "dollar names": "",
    "long names": "",
    "overlapping subscriptions": "",
    "reason strings": "",
    "rights of a will": "",
    "rights to subscribe": "",
    "unacknowledged by a share": "",
    "wills and restarts": "",
    "Receive Maximum at QoS 2": "",
    "lenient checks": "",
    "more in flight than agreed": "",
    "retained messages and shares": "",
    "the will of a session that a Clean Start ends": "",
    "when QoS 2 is delivered": "",
    "QoS 0 behind a full window": "",
    "names of users": "",
}
