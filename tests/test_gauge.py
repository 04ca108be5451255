"""The gauge of live recall against what was really found; real stores, and a real server for /stats."""

import contextlib
import threading
from functools import partial

import numpy as np
import pytest
from conftest import clustered, serving

from index.curve import wilson
from index.plan import Codec, Wish
from index.two_pass import Mode
from server.catalog import Catalog
from server.gauge import WAITING, Gauge
from server.live import Live
from server.records import DocumentWrite, PassageSpan
from server.settings import IndexSettings
from server.store import LocalStore
