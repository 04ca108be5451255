"""Other vector stores that run on one machine, each set up as its own documentation advises, beside twopass."""

PEERS = {
    # name: (module, class)
    "twopass": ("twopass", "TwoPass"),
    "faiss-flat": ("faiss_flat", "FaissFlat"),
    "hnswlib": ("hnswlib_graph", "Hnswlib"),
    "usearch-f16": ("usearch_graph", "UsearchFloat16"),
    "usearch-i8": ("usearch_graph", "UsearchInt8"),
    "qdrant": ("qdrant", "QdrantGraph"),
    "qdrant-int8": ("qdrant", "QdrantInt8"),
    "qdrant-prefix": ("qdrant", "QdrantPrefix"),
    "chroma": ("chroma", "Chroma"),
    "chroma-http": ("chroma", "ChromaHttp"),
    "lancedb-pq": ("lance", "LancePq"),
    "lancedb-hnsw": ("lance", "LanceHnsw"),
    "pgvector": ("postgres", "PgVector"),
    "sqlite-vec": ("sqlite", "SqliteFlat"),
    "sqlite-vec-bit": ("sqlite", "SqliteBit"),
    "sqlite-vec-int8": ("sqlite", "SqliteInt8"),
}

# Built as another one is; its files are searched.
SHARED = {"chroma-http": "chroma"}
