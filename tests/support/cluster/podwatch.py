"""All pods that are bound to a node, kept up to date by a watch in a thread: what the scripted kubelet looks at."""

import http.client
import threading
from contextlib import suppress

from tests.support.cluster.rest import Object, Refused, Rest

_PODS = "/api/v1/pods"
_BOUND = {"fieldSelector": "spec.nodeName!="}
_RETRY_SECONDS = 0.2


class PodWatch:
    """Lists, then watches, and starts over whenever the API server was away."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._pods: dict[str, Object] = {}
        self._changed = threading.Condition()
        self._is_changed = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pod-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch and its connection."""
        self._closed.set()
        while self._thread.is_alive():
            self._rest.end_watch()  # again and again: the thread may have been about to open its watch
            self._thread.join(_RETRY_SECONDS)
        self._rest.close()
        self.poke()

    def pods(self) -> list[Object]:
        """The pods as they were last seen."""
        with self._changed:
            return list(self._pods.values())

    def wait(self, seconds: float) -> None:
        """Until something changed, or the time is up."""
        with self._changed:
            if not self._is_changed and seconds > 0:
                self._changed.wait(seconds)
            self._is_changed = False

    def poke(self) -> None:
        """Let the waiting side look again."""
        with self._changed:
            self._is_changed = True
            self._changed.notify_all()

    def learn(self, pod: Object) -> None:
        """Take over the answer to an own write, so that the next look does not act on the state before it."""
        with self._changed:
            known = self._pods.get(pod["metadata"]["uid"])
            if known is not None and int(known["metadata"]["resourceVersion"]) < int(pod["metadata"]["resourceVersion"]):
                self._pods[pod["metadata"]["uid"]] = pod

    def _run(self) -> None:
        while not self._closed.is_set():
            with suppress(OSError, http.client.HTTPException, Refused, ValueError):
                self._follow()
            self._closed.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        listed = self._rest.get(_PODS, **_BOUND)
        with self._changed:
            self._pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
        self.poke()
        for event in self._rest.watch(_PODS, version=listed["metadata"]["resourceVersion"], **_BOUND):
            self._take(event)
            if self._closed.is_set():
                return

    def _take(self, event: Object) -> None:
        pod = event["object"]
        uid = pod["metadata"]["uid"]
        with self._changed:
            known = self._pods.get(uid)
            if event["type"] == "DELETED":
                self._pods.pop(uid, None)
            elif known is None or int(known["metadata"]["resourceVersion"]) <= int(pod["metadata"]["resourceVersion"]):
                self._pods[uid] = pod
        self.poke()
