"""Runs the operator of widgets.py and uses it as its users would. Argument: a kubeconfig."""

import os
import pathlib
import sys
import time

os.environ["KUBECONFIG"] = sys.argv[1]

import kopf.testing
import kubernetes

kubernetes.config.load_kube_config()
GROUP, NS = "kopf.example.com", "default"
core = kubernetes.client.CoreV1Api()
custom = kubernetes.client.CustomObjectsApi()
extensions = kubernetes.client.ApiextensionsV1Api()
events = kubernetes.client.EventsV1Api()


def until(what, check):
    """Waits until `check` gives something; what is not there counts as nothing."""
    for _ in range(300):
        try:
            found = check()
        except kubernetes.client.ApiException as e:
            if e.status != 404:
                raise
            found = None
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"waited too long: {what}")


schema = {
    "type": "object",
    "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer", "minimum": 1}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}
extensions.create_custom_resource_definition({
    "metadata": {"name": f"widgets.{GROUP}"},
    "spec": {
        "group": GROUP, "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                      "schema": {"openAPIV3Schema": schema}}],
    },
})
until("the definition is established", lambda: any(
    c.type == "Established" and c.status == "True"
    for c in extensions.read_custom_resource_definition(f"widgets.{GROUP}").status.conditions or []))


def widget():
    return custom.get_namespaced_custom_object(GROUP, "v1", NS, "widgets", "w")


operator = str(pathlib.Path(__file__).with_name("widgets.py"))
with kopf.testing.KopfRunner(["run", "--namespace", NS, "--verbose", operator], timeout=60) as runner:
    custom.create_namespaced_custom_object(GROUP, "v1", NS, "widgets", {
        "apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}})
    made = until("the map is made", lambda: core.read_namespaced_config_map("of-w", NS))
    assert made.data == {"size": "1"}, made.data
    owner = made.metadata.owner_references[0]
    assert (owner.kind, owner.name, owner.uid) == ("Widget", "w", widget()["metadata"]["uid"]), owner
    until("the outcome is in the status", lambda: widget().get("status", {}).get("create", {}).get("map") == "of-w")
    assert widget()["metadata"]["finalizers"] == [f"{GROUP}/operator"], widget()["metadata"]
    until("the event is there", lambda: [
        e for e in core.list_namespaced_event(NS, field_selector="involvedObject.kind=Widget,reason=Made").items])
    custom.patch_namespaced_custom_object(GROUP, "v1", NS, "widgets", "w", {"spec": {"size": 7}})
    until("the map follows", lambda: core.read_namespaced_config_map("of-w", NS).data == {"size": "7"})
    until("the status follows", lambda: widget().get("status", {}).get("size") == 7)
    custom.delete_namespaced_custom_object(GROUP, "v1", NS, "widgets", "w")

    def gone(read):
        try:
            read()
        except kubernetes.client.ApiException as e:
            return e.status == 404
        return False

    until("the widget is gone", lambda: gone(widget))
    until("the map is gone", lambda: gone(lambda: core.read_namespaced_config_map("of-w", NS)))
assert runner.exit_code == 0 and runner.exception is None, runner.output
extensions.delete_custom_resource_definition(f"widgets.{GROUP}")
print("ok")
