"""Names of the region's actors and Serve applications: one place, so that everybody finds them."""

from __future__ import annotations

COORDINATOR = "coordinator"
FRONT = "front"
DOCUMENTS = "documents"
GATEWAY_APPLICATION = "gateway"
_GENERATOR = "generator-"


def shard(corpus: str, number: int) -> str:
    """The group of the replicas of a shard."""
    return f"replica/{corpus}/{number}"


def replica(corpus: str, shard_number: int, number: int) -> str:
    return member(shard(corpus, shard_number), number)


def embedders(model_version: str) -> str:
    """The group of the embedders of a model."""
    return f"embedder/{model_version}"


def member(group: str, number: int) -> str:
    """One of the actors of a group, which do the same work. The number only tells them apart."""
    return f"{group}/{number}"


def group_of(member_name: str) -> str:
    """Empty for an actor that is in no group."""
    return member_name.rpartition("/")[0]


def number_of(member_name: str) -> int:
    return int(member_name.rpartition("/")[2])


def is_replica(member_name: str) -> bool:
    return member_name.startswith("replica/")


def corpus_of(replica_name: str) -> str:
    """The corpus that a replica's name holds; a corpus's own name has no slash."""
    return replica_name.split("/")[1]


def generator_application(model_version: str) -> str:
    return f"{_GENERATOR}{model_version}"


def is_generator(application: str) -> bool:
    return application.startswith(_GENERATOR)
