"""Bad input of every kind: one clear message, the right exit code, nothing lost and nothing written half."""

from __future__ import annotations

import json
import pickle
import struct
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest_names import TINY
