"""What can be set about the REST wire. Sizes are bytes, times milliseconds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from polywire.core.units import count, milliseconds, size
from polywire.formats.forms import FormLimits
from polywire.formats.multipart import MultipartLimits
from polywire.formats.xml import XmlLimits

__all__ = ["RestSettings"]


class RestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    longest_wait: Annotated[
        int, milliseconds("how long a long poll or a pull may wait for a message; longer wishes are cut to this")
    ] = 60_000
    page: Annotated[int, count("most messages in one answer")] = 1_000
    page_size: Annotated[int, size("payload after which a page ends")] = 1 << 20
    body_timeout: Annotated[
        int, milliseconds("how long a request's body may take; a long body has more, by its length")
    ] = 30_000
    control_size: Annotated[int, size("of a JSON body that is not a message: settings, tokens")] = 1 << 20
    upload_size: Annotated[int, size("of the body of a call that is a file, or a form with files")] = 16 << 20
    heartbeat: Annotated[int, milliseconds("between signs of life on a stream that waits for its operation")] = 15_000
    documents: Annotated[int, count("OpenAPI documents kept, one for each set of permissions that asked for it")] = 32
    xml: XmlLimits = XmlLimits()
    form: FormLimits = FormLimits()
    multipart: MultipartLimits = MultipartLimits()
