//! IP addresses, networks and URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::native::Native;
use super::super::url::Url;
use super::super::value::{EvalError, EvalResult, Key, Map, Value};
use super::Builtin;

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "ip" => |a, _| match a {
            [Value::String(s)] => Ok(Native::Ip(parse_ip(s)?).into()),
            [Value::Native(n)] => match &**n {
                Native::Cidr(ip, _) => Ok(Native::Ip(*ip).into()),
                _ => Err(EvalError::NoOverload),
            },
            _ => Err(EvalError::NoOverload),
        },
        "isIP" => |a, _| text(a, |s| Ok(Value::Bool(parse_ip(s).is_ok()))),
        "ip.isCanonical" => |a, _| text(a, |s| Ok(Value::Bool(parse_ip(s)?.to_string() == s))),
        "family" => |a, _| ip(a, |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |a, _| ip(a, |ip| Value::Bool(ip.is_unspecified())),
        "isLoopback" => |a, _| ip(a, |ip| Value::Bool(ip.is_loopback())),
        "isLinkLocalMulticast" => |a, _| ip(a, |ip| Value::Bool(link_local_multicast(ip))),
        "isLinkLocalUnicast" => |a, _| ip(a, |ip| Value::Bool(link_local(ip))),
        "isGlobalUnicast" => |a, _| ip(a, |ip| Value::Bool(global_unicast(ip))),
        "cidr" => |a, _| text(a, |s| parse_cidr(s).map(|(ip, bits)| Native::Cidr(ip, bits).into())),
        "isCIDR" => |a, _| text(a, |s| Ok(Value::Bool(parse_cidr(s).is_ok()))),
        "containsIP" => |a, _| cidr(a, contains_ip),
        "containsCIDR" => |a, _| cidr(a, contains_cidr),
        "prefixLength" => |a, _| cidr(a, |_, bits, _| Ok(Value::Int(i64::from(bits)))),
        "masked" => |a, _| cidr(a, |ip, bits, _| Ok(Native::Cidr(mask(ip, bits), bits).into())),
        "url" => |a, _| {
            text(a, |s| match Url::parse(s) {
                Ok(u) => Ok(Native::Url(u).into()),
                Err(e) => Err(EvalError::new(format!("URL parse error during conversion from string: {e}"))),
            })
        },
        "isURL" => |a, _| text(a, |s| Ok(Value::Bool(Url::parse(s).is_ok()))),
        "getScheme" => |a, _| url(a, |u| u.scheme.clone().into()),
        "getHost" => |a, _| url(a, |u| u.host.clone().into()),
        "getHostname" => |a, _| url(a, |u| u.hostname().to_owned().into()),
        "getPort" => |a, _| url(a, |u| u.port().to_owned().into()),
        "getEscapedPath" => |a, _| url(a, |u| u.escaped_path().into()),
        "getQuery" => |a, _| url(a, query),
        _ => return None,
    })
}

fn text<'a>(a: &[Value<'a>], f: impl Fn(&str) -> EvalResult<'a>) -> EvalResult<'a> {
    match a {
        [Value::String(s)] => f(s),
        _ => Err(EvalError::NoOverload),
    }
}

fn native<'v, 'a>(a: &'v [Value<'a>]) -> Option<(&'v Native, &'v [Value<'a>])> {
    match a.split_first()? {
        (Value::Native(n), rest) => Some((n, rest)),
        _ => None,
    }
}

fn ip<'a>(a: &[Value<'a>], f: impl Fn(IpAddr) -> Value<'a>) -> EvalResult<'a> {
    match native(a) {
        Some((Native::Ip(ip), _)) => Ok(f(*ip)),
        _ => Err(EvalError::NoOverload),
    }
}

fn cidr<'a>(a: &[Value<'a>], f: impl Fn(IpAddr, u8, Option<&Value<'a>>) -> EvalResult<'a>) -> EvalResult<'a> {
    match native(a) {
        Some((Native::Cidr(ip, bits), rest)) => f(*ip, *bits, rest.first()),
        _ => Err(EvalError::NoOverload),
    }
}

fn url<'a>(a: &[Value<'a>], f: impl Fn(&Url) -> Value<'a>) -> EvalResult<'a> {
    match native(a) {
        Some((Native::Url(u), _)) => Ok(f(u)),
        _ => Err(EvalError::NoOverload),
    }
}

fn query<'a>(u: &Url) -> Value<'a> {
    let entries = u.query().into_iter().map(|(k, v)| {
        (Key::String(k.into()), Value::from(v.into_iter().map(Value::from).collect::<Vec<_>>()))
    });
    Value::Map(Map::Made(std::sync::Arc::new(entries.collect())))
}

/// An address; not with a zone, and not IPv4 dressed as IPv6.
pub fn parse_ip(s: &str) -> Result<IpAddr, EvalError> {
    let wrong = |why: String| EvalError::new(why);
    if let Some((_, zone)) = s.split_once('%')
        && !zone.is_empty()
    {
        return Err(wrong(format!("IP address {s:?} with zone value is not allowed")));
    }
    match s.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(wrong(format!("IPv4-mapped IPv6 address {s:?} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(wrong(format!(
            "IP Address {s:?} parse error during conversion from string: ParseAddr({s:?}): unable to parse IP"
        ))),
    }
}

fn parse_cidr(s: &str) -> Result<(IpAddr, u8), EvalError> {
    const PREFIX: &str = "network address parse error during conversion from string: ";
    let wrong = |why: &str| EvalError::new(format!("{PREFIX}{PREFIX}netip.ParsePrefix({s:?}): {why}"));
    let (ip, bits) = s.split_once('/').ok_or_else(|| wrong("no '/'"))?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong("unable to parse IP"))?;
    let plain = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits.len() == 1 || !bits.starts_with('0'));
    let bits: u8 = match bits.parse() {
        Ok(n) if plain => n,
        _ => return Err(wrong(&format!("bad bits after slash: {bits:?}"))),
    };
    if bits > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(wrong("prefix length out of range"));
    }
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(EvalError::new(format!("{PREFIX}IPv4-mapped IPv6 address {s:?} is not allowed")));
    }
    Ok((ip, bits))
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let m = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & m))
        }
        IpAddr::V6(v6) => {
            let m = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & m))
        }
    }
}

fn within(network: IpAddr, bits: u8, ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && mask(network, bits) == mask(ip, bits)
}

fn contains_ip<'a>(network: IpAddr, bits: u8, other: Option<&Value<'a>>) -> EvalResult<'a> {
    let ip = match other {
        Some(Value::String(s)) => parse_ip(s)?,
        Some(Value::Native(n)) => match &**n {
            Native::Ip(ip) => *ip,
            _ => return Err(EvalError::NoOverload),
        },
        _ => return Err(EvalError::NoOverload),
    };
    Ok(Value::Bool(within(network, bits, ip)))
}

fn contains_cidr<'a>(network: IpAddr, bits: u8, other: Option<&Value<'a>>) -> EvalResult<'a> {
    let (ip, inner) = match other {
        Some(Value::String(s)) => parse_cidr(s)?,
        Some(Value::Native(n)) => match &**n {
            Native::Cidr(ip, bits) => (*ip, *bits),
            _ => return Err(EvalError::NoOverload),
        },
        _ => return Err(EvalError::NoOverload),
    };
    Ok(Value::Bool(bits <= inner && within(network, bits, ip)))
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local(ip))
}
