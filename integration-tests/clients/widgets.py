"""An operator in kopf: for every Widget a ConfigMap, kept in line with it and gone with it."""

import kopf
import kubernetes

GROUP = "kopf.example.com"


def maps():
    kubernetes.config.load_kube_config()
    return kubernetes.client.CoreV1Api()


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    settings.posting.enabled = True
    settings.persistence.finalizer = f"{GROUP}/operator"


@kopf.on.create(GROUP, "v1", "widgets")
def create(spec, name, namespace, body, **_):
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"of-{name}"}, "data": {"size": str(spec["size"])}}
    kopf.adopt(child)
    maps().create_namespaced_config_map(namespace, child)
    kopf.info(body, reason="Made", message="A map was made.")
    return {"map": f"of-{name}"}


@kopf.on.update(GROUP, "v1", "widgets", field="spec.size")
def resize(new, name, namespace, patch, **_):
    maps().patch_namespaced_config_map(f"of-{name}", namespace, {"data": {"size": str(new)}})
    patch.status["size"] = new


@kopf.on.delete(GROUP, "v1", "widgets")
def delete(name, namespace, **_):
    maps().delete_namespaced_config_map(f"of-{name}", namespace)
