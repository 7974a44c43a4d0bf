//! The parameters that operations take, in the query and in the path.

use serde_json::{Value, json};

/// One parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    pub name: &'static str,
    /// Its type: `string`, `integer` or `boolean`.
    kind: &'static str,
    about: &'static str,
}

const fn p(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind, about }
}

impl Parameter {
    /// As a document has it.
    pub fn in_query(&self) -> Value {
        json!({
            "name": self.name, "in": "query", "description": self.about,
            "schema": {"type": self.kind, "uniqueItems": true},
        })
    }
}

/// A parameter of the path.
pub fn in_path(name: &str, about: &str) -> Value {
    json!({
        "name": name, "in": "path", "description": about, "required": true,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

pub const PRETTY: Parameter = p(
    "pretty",
    "string",
    "If 'true', the answer is written over several lines. Without it this is so for command-line fetchers and browsers only (by their user agent).",
);

const DRY_RUN: Parameter = p(
    "dryRun",
    "string",
    "Says that nothing must be stored. Its only valid value is All: every stage of the request is gone through but the last.",
);
const FIELD_MANAGER: Parameter = p(
    "fieldManager",
    "string",
    "The name of who makes these changes: at most 128 printable characters. Required for apply requests; others take it from the user agent where it is not given.",
);
const FIELD_VALIDATION: Parameter = p(
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields. Ignore: drop them. Warn (the default): drop them and name them in warning headers. Strict: fail the request and name them.",
);
const FORCE: Parameter =
    p("force", "boolean", "Takes over the fields in conflict from their owners. Only for apply requests.");
const CONTINUE: Parameter = p(
    "continue",
    "string",
    "The token from the metadata of the last chunk of a list, for the next one. The other parameters must stay the same, but the limit. A token that is too old is answered with 410 and, where possible, with a token for the rest of the list as it is now.",
);
const FIELD_SELECTOR: Parameter = p(
    "fieldSelector",
    "string",
    "Restricts the objects by their fields: comma-separated terms of the form field=value or field!=value. Everything by default.",
);
const LABEL_SELECTOR: Parameter =
    p("labelSelector", "string", "Restricts the objects by their labels. Everything by default.");
const LIMIT: Parameter = p(
    "limit",
    "integer",
    "The most objects to return. Where there are more, the list's metadata carries a token for the next chunk. All chunks show the objects as they were when the first was read.",
);
const RESOURCE_VERSION: Parameter = p(
    "resourceVersion",
    "string",
    "How recent the objects must be, or from when on to watch. Unset means the newest.",
);
const RESOURCE_VERSION_MATCH: Parameter = p(
    "resourceVersionMatch",
    "string",
    "How resourceVersion is meant in lists: Exact or NotOlderThan. It needs resourceVersion.",
);
const SEND_INITIAL_EVENTS: Parameter = p(
    "sendInitialEvents",
    "boolean",
    "Begins a watch with events for all existing objects, ended by a bookmark with the annotation k8s.io/initial-events-end. It needs resourceVersionMatch=NotOlderThan and watch.",
);
const SHARD_SELECTOR: Parameter = p(
    "shardSelector",
    "string",
    "Restricts the objects to a range of hash values. An alpha feature, which is off.",
);
const TIMEOUT_SECONDS: Parameter =
    p("timeoutSeconds", "integer", "Ends the request after so many seconds, whatever has happened.");
const ALLOW_WATCH_BOOKMARKS: Parameter = p(
    "allowWatchBookmarks",
    "boolean",
    "Asks for events of type BOOKMARK, which say how far the watch has come. When they are sent is the server's choice.",
);
const WATCH: Parameter = p(
    "watch",
    "boolean",
    "Streams the changes of the objects as events of additions, updates and removals, from resourceVersion on.",
);
const GRACE_PERIOD: Parameter = p(
    "gracePeriodSeconds",
    "integer",
    "Seconds before the object is deleted: zero deletes at once, nothing leaves it to the kind's default.",
);
const IGNORE_READ_ERROR: Parameter = p(
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Deletes an object that cannot be read any more, without its finalizers, preconditions and admission. An alpha feature, which is off.",
);
const ORPHAN: Parameter = p(
    "orphanDependents",
    "boolean",
    "Deprecated: use propagationPolicy. Whether dependents are orphaned; not to be given together with propagationPolicy.",
);
const PROPAGATION: Parameter = p(
    "propagationPolicy",
    "string",
    "What becomes of dependents: Orphan keeps them, Background deletes them afterwards, Foreground deletes them first. The default is the kind's.",
);

/// Of lists and watches.
pub const LIST: [Parameter; 11] = [
    ALLOW_WATCH_BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT_SECONDS,
    WATCH,
];
/// Of creates and updates.
pub const WRITE: [Parameter; 3] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
/// Of patches.
pub const PATCH: [Parameter; 4] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
/// Of deletes.
pub const DELETE: [Parameter; 5] = [DRY_RUN, GRACE_PERIOD, IGNORE_READ_ERROR, ORPHAN, PROPAGATION];
/// Of deletes of collections.
pub const DELETE_COLLECTION: [Parameter; 14] = [
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE_PERIOD,
    IGNORE_READ_ERROR,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT_SECONDS,
];

const CONTAINER: Parameter =
    p("container", "string", "The container, where the pod has several and none of them is the default.");
const STDERR: Parameter = p("stderr", "boolean", "Redirects the standard error stream of the container.");
const STDIN: Parameter = p("stdin", "boolean", "Redirects the standard input stream of the container.");
const STDOUT: Parameter = p("stdout", "boolean", "Redirects the standard output stream of the container.");
const TTY: Parameter = p("tty", "boolean", "Gives the process a terminal.");

/// Of connections, by the kind of their options.
pub fn of_connection(kind: &str) -> &'static [Parameter] {
    const ATTACH: [Parameter; 5] = [CONTAINER, STDERR, STDIN, STDOUT, TTY];
    const EXEC: [Parameter; 6] = [
        p("command", "string", "The command and its arguments, one by one; no shell is involved."),
        CONTAINER,
        STDERR,
        STDIN,
        STDOUT,
        TTY,
    ];
    const PORTS: [Parameter; 1] = [p("ports", "integer", "The ports to forward, for WebSockets.")];
    const PROXY: [Parameter; 1] =
        [p("path", "string", "The part of the URL to use for the proxied request.")];
    match kind {
        "PodAttachOptions" => &ATTACH,
        "PodExecOptions" => &EXEC,
        "PodPortForwardOptions" => &PORTS,
        _ => &PROXY,
    }
}

/// Of the logs of pods.
pub const LOG: [Parameter; 9] = [
    CONTAINER,
    p("follow", "boolean", "Goes on with what the container writes from now on."),
    p(
        "insecureSkipTLSVerifyBackend",
        "boolean",
        "Trusts any certificate of the node: what is read may come from anybody on the way to it.",
    ),
    p("limitBytes", "integer", "The most bytes to return; the last line may be cut off."),
    p("previous", "boolean", "The logs of the container before its last restart."),
    p("sinceSeconds", "integer", "Lines of so many seconds before now only."),
    p("stream", "string", "Which stream to return: All, Stdout or Stderr."),
    p("tailLines", "integer", "The last so many lines only."),
    p("timestamps", "boolean", "Begins each line with its time."),
];
