"""What a bucket with versioning keeps of objects that were replaced or deleted."""

from collections.abc import Iterator

from storage.objects import ObjectVersion
from storage.s3_bucket import Bucket


def list_versions(bucket: Bucket, full_prefix: str) -> Iterator[ObjectVersion]:
    """Every version and delete marker under a prefix of full keys, in order of their keys."""
    cut = len(bucket.prefix) + 1 if bucket.prefix else 0
    marker: dict[str, str] = {}
    while True:
        page = bucket.run(
            f"list the versions under {full_prefix}",
            lambda client, marker=marker: client.list_object_versions(
                Bucket=bucket.name, Prefix=full_prefix, **marker
            ),
        )
        for kind in ("Versions", "DeleteMarkers"):
            for row in page.get(kind, ()):
                if not row["Key"].endswith("/"):
                    yield ObjectVersion(
                        row["Key"][cut:],
                        row["VersionId"],
                        row.get("Size", 0),
                        is_newest=row["IsLatest"],
                        is_marker=kind == "DeleteMarkers",
                    )
        if not page.get("IsTruncated"):
            return
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "VersionIdMarker": page.get("NextVersionIdMarker", ""),
        }


def purge(bucket: Bucket, key: str, *, keep_newest: bool) -> int:
    """Remove versions for good; with ``keep_newest`` all but what can be read under the key."""
    place = bucket.place(key)
    # A listing by prefix: other keys may begin with this one.
    found = [
        version
        for version in list_versions(bucket, place["Key"])
        if version.key == key and not (keep_newest and version.is_newest)
    ]
    # Markers last: without the marker an older version would be the newest again.
    for version in sorted(found, key=lambda version: version.is_marker):
        bucket.run(
            f"remove version {version.version} of {key}",
            lambda client, version=version: client.delete_object(
                **place, VersionId=version.version
            ),
        )
    return len(found)
