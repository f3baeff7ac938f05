"""A hub whose MQTT wire breaks one promise (`mqtt_breaks`), to be killed as an honest one is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from polywire import Hub

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.crash import mqtt_breaks

hub = Hub("broken")
getattr(mqtt_breaks, os.environ["POLYWIRE_TEST_BREAKS"])(pytest.MonkeyPatch())
