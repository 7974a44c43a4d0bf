//! Which IP families a service gets, from what it asks for and what the cluster has.

use serde_json::{Value, json};

use super::fields::{
    cluster_ip, cluster_ips, families, family_of, has_selector, is_external_name, is_headless, kind, policy,
    set_strings,
};
use crate::field::{Error, ErrorList, Path};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// Sets `ipFamilies` and `ipFamilyPolicy`. `configured` are the cluster's families, its default first.
pub fn init(service: &mut Value, old: Option<&Value>, configured: &[&str]) -> Result<(), ErrorList> {
    if is_external_name(service) || old.is_some_and(|old| settled(service, old)) {
        return Ok(());
    }
    let selectorless_headless = cluster_ip(service) == "None" && !has_selector(service);
    if policy(service).is_empty() {
        let inherited = old.map(policy).filter(|p| !p.is_empty());
        let chosen = inherited.unwrap_or(if selectorless_headless { REQUIRE } else { SINGLE });
        service["spec"]["ipFamilyPolicy"] = chosen.into();
    }
    check(validate(service))?;

    let mut errors = ErrorList::new();
    if let Some(old) = old {
        shrink(service, old, &mut errors);
    }
    let at = |f: &str| Path::new("spec").child(f);
    if policy(service) == SINGLE {
        for (field, word) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if service["spec"][field].as_array().is_some_and(|a| a.len() == 2) {
                errors.push(Error::invalid(
                    &at("ipFamilyPolicy"),
                    SINGLE,
                    format!(
                        "must be 'RequireDualStack' or 'PreferDualStack' when multiple {word} are specified"
                    ),
                ));
            }
        }
    }
    let ips = cluster_ips(service);
    let mut wanted = families(service);
    for (i, ip) in ips.iter().enumerate() {
        if ip == "None" {
            break;
        }
        if i < wanted.len() {
            continue;
        }
        let family = family_of(ip);
        if configured.contains(&family) {
            wanted.push(family.to_owned());
        } else {
            let message = format!("{family} is not configured on this cluster");
            errors.push(Error::invalid(&at("clusterIPs").index(i), &ips, message));
        }
    }
    check(errors)?;
    let default = configured.first().copied().unwrap_or("IPv4");
    let other = |f: &str| if f == "IPv4" { "IPv6" } else { "IPv4" }.to_owned();

    if selectorless_headless {
        // Nothing is allocated and somebody else makes the endpoints: any families will do.
        if wanted.is_empty() {
            wanted.push(default.to_owned());
        }
        if wanted.len() < 2 && policy(service) != SINGLE {
            wanted.push(other(&wanted[0]));
        }
        set_strings(service, "ipFamilies", &wanted);
        return Ok(());
    }

    let mut errors = ErrorList::new();
    if policy(service) == REQUIRE && configured.len() < 2 {
        errors.push(Error::invalid(
            &at("ipFamilyPolicy"),
            REQUIRE,
            "this cluster is not configured for dual-stack services",
        ));
    }
    for (i, f) in wanted.iter().enumerate() {
        if !configured.contains(&f.as_str()) {
            errors.push(Error::invalid(&at("ipFamilies").index(i), f, "not configured on this cluster"));
        }
    }
    check(errors)?;
    if wanted.is_empty() {
        wanted.push(default.to_owned());
    }
    if policy(service) != SINGLE && wanted.len() == 1 && configured.len() == 2 {
        wanted.push(other(&wanted[0]));
    }
    set_strings(service, "ipFamilies", &wanted);
    Ok(())
}

fn check(errors: ErrorList) -> Result<(), ErrorList> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A `PreferDualStack` service whose addresses did not change keeps them when the cluster's families change.
pub fn settled(service: &Value, old: &Value) -> bool {
    policy(service) == PREFER
        && (policy(old).is_empty() || policy(old) == PREFER)
        && kind(old) == kind(service)
        && matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
        && cluster_ips(old) == cluster_ips(service)
        && families(old) == families(service)
}

/// Going back to one family: the second address and family go with the policy.
fn shrink(service: &mut Value, old: &Value, errors: &mut ErrorList) {
    for (field, thing) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let before = super::fields::strings(old, field);
        let mut now = super::fields::strings(service, field);
        if policy(service) == SINGLE {
            if before == now && now.len() > 1 {
                now.truncate(1);
                set_strings(service, field, &now);
            }
        } else if !now.is_empty() && now.len() < before.len() {
            errors.push(Error::invalid(
                &Path::new("spec").child("ipFamilyPolicy"),
                policy(service),
                format!("must be 'SingleStack' to release the secondary {thing}"),
            ));
        }
    }
}

/// What is wrong with addresses, families and policy in themselves.
fn validate(service: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let (ips_path, families_path) = (spec.child("clusterIPs"), spec.child("ipFamilies"));
    let (ip, ips, families) = (cluster_ip(service), cluster_ips(service), families(service));
    if ip.is_empty() {
        if !ips.is_empty() {
            errors.push(Error::invalid(&ips_path, &ips, "must be empty when `clusterIP` is not specified"));
        }
    } else if ips.is_empty() {
        errors.push(Error::required(&ips_path, ""));
    } else if ips[0] != ip {
        errors.push(Error::invalid(&ips_path, &ips, "first value must match `clusterIP`"));
    }
    for (i, f) in families.iter().enumerate() {
        if f != "IPv4" && f != "IPv6" {
            errors.push(Error::not_supported(&families_path.index(i), f, &["IPv4", "IPv6"]));
        }
        if families[..i].contains(f) {
            errors.push(Error::duplicate(&families_path.index(i), f));
        }
    }
    if ![SINGLE, PREFER, REQUIRE].contains(&policy(service)) {
        errors.push(Error::not_supported(
            &spec.child("ipFamilyPolicy"),
            policy(service),
            &[PREFER, REQUIRE, SINGLE],
        ));
    }
    let mut bad_ip = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                bad_ip = true;
                errors.push(Error::invalid(&ips_path, &ips, "'None' must be the first and only value"));
            }
        } else if family_of(ip) == "unknown" {
            bad_ip = true;
            errors.push(Error::invalid(
                &ips_path.index(i),
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    }
    if ips.len() > 2 {
        errors.push(Error::invalid(&ips_path, &ips, "may only hold up to 2 values"));
    }
    if bad_ip {
        return errors;
    }
    if ips.len() > 1 && (family_of(&ips[0]) == family_of(&ips[1])) {
        errors.push(Error::invalid(&ips_path, &ips, "may specify no more than one IP for each IP family"));
    }
    if !is_headless(service) {
        for (i, (ip, family)) in ips.iter().zip(&families).enumerate() {
            if family_of(ip) != family && (family == "IPv4" || family == "IPv6") {
                let message = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errors.push(Error::invalid(&ips_path.index(i), json!(ip), message));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(spec: Value, old: Option<Value>, configured: &[&str]) -> Result<Value, String> {
        let mut s = json!({"spec":spec});
        let old = old.map(|o| json!({"spec":o}));
        init(&mut s, old.as_ref(), configured).map_err(|e| e.aggregate())?;
        Ok(s["spec"].clone())
    }

    #[test]
    fn creates() {
        let both: &[&str] = &["IPv4", "IPv6"];
        // spec, families configured, families, policy
        let table = [
            (json!({}), &both[..1], json!(["IPv4"]), SINGLE),
            (json!({}), both, json!(["IPv4"]), SINGLE),
            (json!({"ipFamilies":["IPv6"]}), both, json!(["IPv6"]), SINGLE),
            (json!({"ipFamilyPolicy":PREFER}), both, json!(["IPv4", "IPv6"]), PREFER),
            (json!({"ipFamilyPolicy":PREFER}), &both[..1], json!(["IPv4"]), PREFER),
            (json!({"ipFamilyPolicy":REQUIRE,"ipFamilies":["IPv6"]}), both, json!(["IPv6", "IPv4"]), REQUIRE),
            (json!({"clusterIP":"None","clusterIPs":["None"]}), &both[..1], json!(["IPv4", "IPv6"]), REQUIRE),
            (
                json!({"clusterIP":"None","clusterIPs":["None"],"selector":{"a":"b"}}),
                &both[..1],
                json!(["IPv4"]),
                SINGLE,
            ),
            (json!({"clusterIP":"fd00::1","clusterIPs":["fd00::1"]}), both, json!(["IPv6"]), SINGLE),
        ];
        for (spec, configured, families, policy) in table {
            let out = run(spec.clone(), None, configured).unwrap();
            assert_eq!((&out["ipFamilies"], &out["ipFamilyPolicy"]), (&families, &json!(policy)), "{spec}");
        }
        assert_eq!(run(json!({"type":"ExternalName"}), None, both).unwrap(), json!({"type":"ExternalName"}));
    }

    #[test]
    fn errors() {
        let one: &[&str] = &["IPv4"];
        for (spec, want) in [
            (
                json!({"ipFamilyPolicy":REQUIRE}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"ipFamilies":["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"clusterIP":"fd00::1","clusterIPs":["fd00::1"]}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
            (
                json!({"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
            ),
            (
                json!({"ipFamilyPolicy":"Both"}),
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ),
        ] {
            assert_eq!(run(spec, None, one).unwrap_err(), want);
        }
    }

    #[test]
    fn updates() {
        let both: &[&str] = &["IPv4", "IPv6"];
        let dual = json!({"type":"ClusterIP","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],
            "ipFamilies":["IPv4","IPv6"],"ipFamilyPolicy":REQUIRE});
        let mut single = dual.clone();
        single["ipFamilyPolicy"] = SINGLE.into();
        let out = run(single, Some(dual.clone()), both).unwrap();
        assert_eq!((&out["clusterIPs"], &out["ipFamilies"]), (&json!(["10.0.0.1"]), &json!(["IPv4"])));
        let mut less = dual.clone();
        less["clusterIPs"] = json!(["10.0.0.1"]);
        assert!(
            run(less, Some(dual.clone()), both).unwrap_err().contains("to release the secondary cluster IP")
        );
        let mut prefer = dual;
        prefer["ipFamilyPolicy"] = PREFER.into();
        assert_eq!(run(prefer.clone(), Some(prefer.clone()), &both[..1]).unwrap(), prefer);
    }
}
