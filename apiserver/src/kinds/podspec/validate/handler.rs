//! Probes and hooks: what they do, and how often.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, numbers, text as rules};

/// What a probe or a hook may do: exactly one of these.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

fn handler(h: &Handler<'_>, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let mut found = false;
    let mut first = |name: &str, given: bool, errors: &mut ErrorList| {
        if given && found {
            errors.push(Error::forbidden(&path.child(name), "may not specify more than 1 handler type"));
        }
        let run = given && !found;
        found |= given;
        run
    };
    if first("exec", h.exec.is_some(), errors) && h.exec.is_some_and(|e| items(&e.command).is_empty()) {
        errors.push(Error::required(&path.child("exec").child("command"), ""));
    }
    if first("httpGet", h.http.is_some(), errors)
        && let Some(a) = h.http
    {
        http(a, &path.child("httpGet"), errors);
    }
    if first("tcpSocket", h.tcp.is_some(), errors)
        && let Some(a) = h.tcp
    {
        errors.extend(numbers::port_or_name(&a.port, &path.child("tcpSocket").child("port")));
    }
    if first("grpc", h.grpc.is_some(), errors)
        && let Some(a) = h.grpc
    {
        errors.extend(numbers::port(a.port, &path.child("grpc").child("port")));
    }
    if first("sleep", h.sleep.is_some(), errors)
        && let (Some(a), Some(grace)) = (h.sleep, grace)
        && (a.seconds < 0 || a.seconds > grace)
    {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(Error::invalid(&path.child("sleep"), a.seconds, why));
    }
    if !found {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn http(a: &HTTPGetAction, path: &Path, errors: &mut ErrorList) {
    if text(&a.path).is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    errors.extend(numbers::port_or_name(&a.port, &path.child("port")));
    let scheme = text(&a.scheme);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(Error::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for h in items(&a.http_headers) {
        errors.extend(invalid_each(&path.child("httpHeaders"), &h.name, rules::http_header(&h.name)));
    }
}

fn probe(p: &Probe, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let h = Handler {
        exec: p.exec.as_ref(),
        http: p.http_get.as_ref(),
        tcp: p.tcp_socket.as_ref(),
        grpc: p.grpc.as_ref(),
        sleep: None,
    };
    handler(&h, grace, path, errors);
    for (field, n) in [
        ("initialDelaySeconds", p.initial_delay_seconds),
        ("timeoutSeconds", p.timeout_seconds),
        ("periodSeconds", p.period_seconds),
        ("successThreshold", p.success_threshold),
        ("failureThreshold", p.failure_threshold),
    ] {
        errors.extend(numbers::non_negative_opt(n, &path.child(field)));
    }
    if let Some(n) = p.termination_grace_period_seconds.filter(|n| *n <= 0) {
        errors.push(Error::invalid(
            &path.child("terminationGracePeriodSeconds"),
            n,
            "must be greater than 0",
        ));
    }
}

/// Liveness and startup probes: one success is enough.
pub fn liveness(p: &Probe, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    probe(p, grace, path, errors);
    let n = p.success_threshold.unwrap_or(0);
    if n != 1 {
        errors.push(Error::invalid(&path.child("successThreshold"), n, "must be 1"));
    }
}

/// Readiness probes kill nothing, so they have no grace period.
pub fn readiness(p: &Probe, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    probe(p, grace, path, errors);
    if let Some(n) = p.termination_grace_period_seconds {
        errors.push(Error::invalid(
            &path.child("terminationGracePeriodSeconds"),
            n,
            "must not be set for readinessProbes",
        ));
    }
}

/// Hooks after start and before stop.
pub fn lifecycle(l: &Lifecycle, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let mut hook = |h: &Option<LifecycleHandler>, name: &str| {
        if let Some(h) = h {
            let all = Handler {
                exec: h.exec.as_ref(),
                http: h.http_get.as_ref(),
                tcp: h.tcp_socket.as_ref(),
                grpc: None,
                sleep: h.sleep.as_ref(),
            };
            handler(&all, grace, &path.child(name), errors);
        }
    };
    hook(&l.post_start, "postStart");
    hook(&l.pre_stop, "preStop");
}
