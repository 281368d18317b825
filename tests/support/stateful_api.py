"""A fake of the API's stateful resources, as a tree of objects that operations change.

1. ``/v1/<collection>/<id>/<collection>/<id>`` and so on are objects, created by a POST to the
   collection, changed by a POST to the object and removed by a DELETE.
2. An object of :data:`STATUSES` is an operation: :meth:`StatefulAPI.advance` moves all operations
   on by one status, without a request. A completed one creates the objects of :data:`RESULTS`.
3. ``…/cancel`` ends an operation at the next step, ``…/content`` is the text of an object.
"""

from __future__ import annotations

import json
from typing import Any, Final

from tests.support.answers import response
from tests.support.requests import Request

JSON = Any

STATUSES: Final = {
    "batches": ("validating", "in_progress", "finalizing", "completed"),
    "jobs": ("validating_files", "queued", "running", "succeeded"),
    "responses": ("queued", "in_progress", "completed"),
    "runs": ("queued", "in_progress", "requires_action", "completed"),
    "vector_stores": ("in_progress", "completed"),
    "file_batches": ("in_progress", "completed"),
}
"""The statuses of the operations, by collection."""

RESULTS: Final = {
    "batches": ("{path}/files",),
    "jobs": ("{path}/checkpoints", "{path}/events"),
    "responses": ("{path}/input_items",),
    "runs": ("{path}/steps", "{parent}/messages"),
    "file_batches": ("{path}/files", "{parent}/files"),
}
"""The collections in which an operation that ends creates an object."""

_NAMESPACES = ("chat", "fine_tuning")


class StatefulAPI:
    """The objects by path, without ``/v1/``.

    :ivar objects: in the order of their creation.
    """

    def __init__(self) -> None:
        self.objects: dict[str, JSON] = {}
        self._created = 0

    def advance(self) -> None:
        """Move all operations on by one status."""
        for path, one in tuple(self.objects.items()):
            statuses = STATUSES.get(_collection(path), ())
            if one.get("status") == "cancelling":
                one["status"] = "cancelled"
            elif one.get("status") in statuses[:-1]:
                one["status"] = statuses[statuses.index(one["status"]) + 1]
                if one["status"] == statuses[-1]:
                    self._create_results(path)

    def _create_results(self, path: str) -> None:
        parent = "/".join(path.split("/")[:-2])
        for template in RESULTS.get(_collection(path), ()):
            self._create(template.format(path=path, parent=parent), {})

    def answer(self, request: Request) -> bytes:
        """The answer to a complete *request*."""
        path = request.path.removeprefix("/v1/")
        match request.method:
            case b"GET":
                found = self._get(path)
            case b"DELETE":
                found = self._delete(path)
            case _:
                found = self._post(path, request.json() if request.body else {})
        if found is None:
            return response(b'{"error":{"message":"Not found"}}', 404)
        if isinstance(found, str):
            return response(found.encode(), content_type=b"text/plain")
        return response(json.dumps(found).encode())

    def _get(self, path: str) -> JSON:
        if path in self.objects:
            return self.objects[path]
        parent, _, last = path.rpartition("/")
        if last == "content" and parent in self.objects:
            return f"content of {self.objects[parent]}"
        if _is_collection(path):
            listed = [one for key, one in self.objects.items() if key.rpartition("/")[0] == path]
            return {"object": "list", "data": listed, "has_more": False}
        return None

    def _post(self, path: str, document: JSON) -> JSON:
        parent, _, last = path.rpartition("/")
        if last == "cancel" and parent in self.objects:
            self.objects[parent]["status"] = "cancelling"
            return self.objects[parent]
        if path in self.objects:
            self.objects[path].update(document)
            return self.objects[path]
        if not _is_collection(path):
            return None
        made = self._create(path, document)
        if path == "chat/completions" and not document.get("store"):
            del self.objects[f"{path}/{made['id']}"]
        for item in document.get("items", ()):
            self._create(f"{path}/{made['id']}/items", item)
        if "conversation" in document:
            self._create(f"conversations/{document['conversation']}/items", {"role": "user"})
        return made

    def _create(self, path: str, document: JSON) -> JSON:
        self._created += 1
        name = f"{path.rpartition('/')[2]}_{self._created}"
        made = {"id": name, "object": path.rpartition("/")[2], **document}
        if _collection(f"{path}/{name}") in STATUSES:
            statuses = STATUSES[path.rpartition("/")[2]]
            starts = path != "responses" or document.get("background")
            made["status"] = statuses[0 if starts else -1]
        if path == "chat/completions":
            message = {"role": "assistant", "content": name}
            made["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        self.objects[f"{path}/{name}"] = made
        return made

    def _delete(self, path: str) -> JSON:
        if path not in self.objects:
            return None
        for key in [key for key in self.objects if key == path or key.startswith(f"{path}/")]:
            del self.objects[key]
        return {"id": path.rpartition("/")[2], "deleted": True}


def _is_collection(path: str) -> bool:
    segments = path.split("/")
    return (len(segments) - (segments[0] in _NAMESPACES)) % 2 == 1


def _collection(path: str) -> str:
    """The last collection of the path of an object."""
    return path.split("/")[-2] if "/" in path else ""
