"""What a namespace says of a step that fails: the pods, why they wait, what they said last, and the warnings."""

from typing import Any

# What does not pass by waiting: the kubelet's reasons of a container that waits.
HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
MESSAGE_MAX_CHARS = 600


def hopeless(pods: list[dict[str, Any]]) -> str:
    """A sentence for each container that waiting will not help; empty while there is hope."""
    return "\n".join(
        f"{pod['metadata']['name']}/{status['name']}: {_state(status)}"
        for pod in pods
        for status in _statuses(pod)
        if status.get("state", {}).get("waiting", {}).get("reason") in HOPELESS
    )


def told(pods: list[dict[str, Any]], events: list[dict[str, Any]]) -> str:
    """Pods and warnings, a line for each."""
    lines = [line for pod in pods for line in _pod(pod)]
    warnings = [_event(event) for event in events if event.get("type") == "Warning"]
    return "\n  ".join(["pods:", *lines]) + "\n" + "\n  ".join(["warnings:", *warnings])


def _statuses(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod.get("status", {}).get("containerStatuses", [])
    return found


def _pod(pod: dict[str, Any]) -> list[str]:
    status = pod.get("status", {})
    unmet = [each["message"] for each in status.get("conditions", []) if each["status"] != "True" and "message" in each]
    going = ["going"] if "deletionTimestamp" in pod["metadata"] else []
    head = ", ".join([f"{pod['metadata']['name']}: {status.get('phase', 'Unknown')}", *going, *unmet])
    return [head, *(f"  {each['name']}: {_state(each)}" for each in _statuses(pod))]


def _state(status: dict[str, Any]) -> str:
    """The state, how often it was started again, and the last words of the one before."""
    found: dict[str, dict[str, Any]] = status.get("state") or {"unknown": {}}
    kind, state = next(iter(found.items()))
    last: dict[str, Any] = status.get("lastState", {}).get("terminated", {})
    parts = [kind, state.get("reason"), state.get("message")]
    parts += [f"{status['restartCount']} restarts"] if status.get("restartCount") else []
    parts += [f"before that status {last['exitCode']}", last.get("message")] if last else []
    return ", ".join(part.strip()[-MESSAGE_MAX_CHARS:] for part in parts if part)


def _event(event: dict[str, Any]) -> str:
    about = event.get("involvedObject", {})
    return f"{about.get('kind')}/{about.get('name')}: {event.get('reason')}: {event.get('message', '').strip()}"
