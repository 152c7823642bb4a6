"""Whether retrieval is right: the gold paragraphs of XQuAD's questions, and equal ids everywhere.

Every exact index is compared with one index over the same vectors in this process, and with Faiss's
own IndexFlatIP.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from actors.embedder import Embedder
from actors.faiss_api import faiss
from actors.shard_build import build_shard
from actors.shard_index import ShardIndex
from actors.starter_models import starter_embedder_folder
from bench.data import Question, paragraph_of, read_xquad
from bench.load import Load, LoadGenerator, http_request, run_load
from bench.plan import Plan
from bench.region import BenchRegion, StoredVectors, running_region
from bench.reports import Quality, QualityReport, environment_now
from cluster.config import CorpusSettings
from cluster.manifests import IndexKind, IndexParameters, Metric
from cluster.search import Float32Array, ShardQuery
from deployments.http_client import HttpRegion

_TOP_K = 10
_BATCH = 64
_FIRST = "xquad-2"
_SHARDS = (1, 2, 3, 8)
_GRAPH = "xquad-hnsw"
_FLAT = IndexParameters(kind=IndexKind.FLAT, metric=Metric.COSINE)

Ids = list[list[str]]
