// What users of @kubernetes/client-node do all day: typed and dynamic objects, patches, watches, informers, errors.
// Arguments: a kubeconfig, and the folder in which the package is installed.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';

const [, , kubeconfig, folder] = process.argv;
const k8s = createRequire(path.join(folder, 'package.json'))('@kubernetes/client-node');
const kc = new k8s.KubeConfig();
kc.loadFromFile(kubeconfig);
const core = kc.makeApiClient(k8s.CoreV1Api);
const apps = kc.makeApiClient(k8s.AppsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(kc);
const namespace = 'default';

/** Waits until `check` gives something. */
async function until(what, check) {
    for (let i = 0; i < 200; i++) {
        const found = await check();
        if (found) return found;
        await new Promise((r) => setTimeout(r, 50));
    }
    throw new Error(`waited too long: ${what}`);
}

// An informer sees what the calls below do.
const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'by=node' });
const informer = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/configmaps`, list, 'by=node');
const told = [];
for (const event of ['add', 'update', 'delete']) informer.on(event, (o) => told.push(`${event} ${o.metadata.name}`));
let stopped = false;
informer.on('error', (e) => { if (!stopped) throw e; });
await informer.start();

const made = await core.createNamespacedConfigMap({
    namespace,
    body: { metadata: { name: 'js', labels: { by: 'node' } }, data: { k: 'v' } },
});
assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date);
const patched = await core.patchNamespacedConfigMap(
    { namespace, name: 'js', body: [{ op: 'replace', path: '/data/k', value: 'w' }] },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch),
);
assert.equal(patched.data.k, 'w');
patched.metadata.resourceVersion = made.metadata.resourceVersion;
await assert.rejects(core.replaceNamespacedConfigMap({ namespace, name: 'js', body: patched }), (e) => {
    assert.equal(e.code, 409);
    assert.match(JSON.parse(e.body).message, /the object has been modified/);
    return true;
});
await until('the informer sees the update', () => told.includes('update js'));
await core.deleteNamespacedConfigMap({ namespace, name: 'js' });
await until('the informer sees the deletion', () => told.includes('delete js'));
assert.deepEqual([told[0], told[1], told.at(-1)], ['add js', 'update js', 'delete js']);
stopped = true;
await informer.stop();
await assert.rejects(core.readNamespacedConfigMap({ namespace, name: 'js' }), (e) => e.code === 404);

// A page at a time.
for (let i = 0; i < 7; i++) {
    await core.createNamespacedSecret({ namespace, body: { metadata: { name: `s-${i}`, labels: { page: 'd' } }, stringData: { i: `${i}` } } });
}
const names = [];
let _continue;
do {
    const page = await core.listNamespacedSecret({ namespace, labelSelector: 'page=d', limit: 3, _continue });
    names.push(...page.items.map((s) => s.metadata.name));
    _continue = page.metadata._continue;
} while (_continue);
assert.deepEqual(names, [0, 1, 2, 3, 4, 5, 6].map((i) => `s-${i}`));
await core.deleteCollectionNamespacedSecret({ namespace, labelSelector: 'page=d' });

// Quantities, integers or strings, and subresources.
const deployment = await apps.createNamespacedDeployment({
    namespace,
    body: {
        metadata: { name: 'js' },
        spec: {
            replicas: 0,
            selector: { matchLabels: { app: 'js' } },
            strategy: { rollingUpdate: { maxSurge: '25%', maxUnavailable: 1 } },
            template: {
                metadata: { labels: { app: 'js' } },
                spec: { containers: [{ name: 'c', image: 'busybox:1.35', resources: { requests: { cpu: '0.1' } } }] },
            },
        },
    },
});
assert.equal(deployment.spec.template.spec.containers[0].resources.requests.cpu, '100m');
assert.equal(deployment.spec.strategy.rollingUpdate.maxUnavailable, 1);
const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'js' });
assert.equal(scale.spec.replicas ?? 0, 0);
await apps.deleteNamespacedDeployment({ namespace, name: 'js' });

// Kinds that the library does not know.
await objects.create({
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: 'gadgets.js.example.com' },
    spec: {
        group: 'js.example.com',
        scope: 'Namespaced',
        names: { plural: 'gadgets', singular: 'gadget', kind: 'Gadget', listKind: 'GadgetList' },
        versions: [{
            name: 'v1', served: true, storage: true,
            schema: { openAPIV3Schema: { type: 'object', properties: { spec: { type: 'object', properties: { size: { type: 'integer', minimum: 1 } } } } } },
        }],
    },
});
const gadget = { apiVersion: 'js.example.com/v1', kind: 'Gadget', metadata: { name: 'g', namespace }, spec: { size: 3 } };
await until('the definition is established', async () => {
    const crd = await objects.read({ apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata: { name: 'gadgets.js.example.com' } });
    return crd.status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True');
});
await objects.create(gadget);
await assert.rejects(objects.create({ ...gadget, metadata: { name: 'bad', namespace }, spec: { size: 0 } }), (e) => e.code === 422);
const applied = await objects.patch(
    { ...gadget, spec: { size: 5 } }, undefined, undefined, 'node', true, k8s.PatchStrategy.ServerSideApply,
);
assert.equal(applied.spec.size, 5);
const kinds = await objects.list('js.example.com/v1', 'Gadget', namespace);
assert.deepEqual(kinds.items.map((g) => g.metadata.name), ['g']);
const custom = kc.makeApiClient(k8s.CustomObjectsApi);
await custom.deleteNamespacedCustomObject({ group: 'js.example.com', version: 'v1', namespace, plural: 'gadgets', name: 'g' });
await objects.delete({ apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata: { name: 'gadgets.js.example.com' } });

// Who am I, and what may I?
const review = await kc.makeApiClient(k8s.AuthorizationV1Api).createSelfSubjectAccessReview({
    body: { spec: { resourceAttributes: { verb: 'delete', resource: 'nodes' } } },
});
assert.equal(review.status.allowed, true);
console.log('ok');
process.exit(0);
