//! Named formats: `format.dns1123Label().validate(s)`.

use super::super::native::{Native, from_base64};
use super::super::time;
use super::super::url::Url;
use super::super::value::{EvalError, EvalResult, Value};
use super::Builtin;
use crate::text;

/// A format.
pub struct Format {
    /// As expressions call it.
    pub name: &'static str,
    /// Length of a regular expression that would check it, for costs.
    pub regex_size: u64,
    check: fn(&str) -> Vec<String>,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

static ALL: [Format; 13] = [
    Format { name: "dns1123Label", regex_size: 30, check: text::dns1123_label },
    Format { name: "dns1123Subdomain", regex_size: 60, check: text::dns1123_subdomain },
    Format { name: "dns1035Label", regex_size: 30, check: text::dns1035_label },
    Format { name: "qualifiedName", regex_size: 60, check: text::qualified_name },
    Format { name: "dns1123LabelPrefix", regex_size: 30, check: |s| text::dns1123_label(&unmask(s)) },
    Format { name: "dns1123SubdomainPrefix", regex_size: 60, check: |s| text::dns1123_subdomain(&unmask(s)) },
    Format { name: "dns1035LabelPrefix", regex_size: 30, check: |s| text::dns1035_label(&unmask(s)) },
    Format { name: "labelValue", regex_size: 40, check: text::label_value },
    Format { name: "uri", regex_size: 1_503, check: |s| Url::parse(s).err().into_iter().collect() },
    Format { name: "uuid", regex_size: 91, check: |s| unless(is_uuid(s), "does not match the UUID format") },
    Format { name: "byte", regex_size: 84, check: |s| unless(is_base64(s), "invalid base64") },
    Format {
        name: "date",
        regex_size: 132,
        check: |s| unless(time::parse_date(s).is_some(), "invalid date"),
    },
    Format { name: "datetime", regex_size: 132, check: |s| unless(is_datetime(s), "invalid datetime") },
];

fn unmask(s: &str) -> String {
    text::unmask(s, true)
}

fn unless(fine: bool, sentence: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![sentence.to_owned()] }
}

fn is_uuid(s: &str) -> bool {
    let hex: String = s.chars().filter(|c| *c != '-').collect();
    let dashes = s.char_indices().filter(|(_, c)| *c == '-').map(|(i, _)| i);
    let known = [8, 13, 18, 23];
    hex.len() == 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && dashes.clone().all(|i| known.contains(&i) || s.len() < 36)
        && s.matches('-').count() <= 4
}

fn is_base64(s: &str) -> bool {
    !s.is_empty() && from_base64(s).is_some()
}

fn is_datetime(s: &str) -> bool {
    time::parse_timestamp(s).is_some() || time::parse_timestamp(&s.replace(' ', "T")).is_some()
}

fn named(name: &str) -> Option<&'static Format> {
    ALL.iter().find(|f| f.name == name)
}

macro_rules! constant {
    ($name:literal) => {
        |_, _| named($name).map(|f| Native::Format(f).into()).ok_or(EvalError::NoOverload)
    };
}

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "format.named" => |a, _| match a {
            [Value::String(s)] => {
                Ok(Value::Optional(named(s).map(|f| Value::from(Native::Format(f)).into())))
            }
            _ => Err(EvalError::NoOverload),
        },
        "validate" => validate,
        "format.dns1123Label" => constant!("dns1123Label"),
        "format.dns1123Subdomain" => constant!("dns1123Subdomain"),
        "format.dns1035Label" => constant!("dns1035Label"),
        "format.qualifiedName" => constant!("qualifiedName"),
        "format.dns1123LabelPrefix" => constant!("dns1123LabelPrefix"),
        "format.dns1123SubdomainPrefix" => constant!("dns1123SubdomainPrefix"),
        "format.dns1035LabelPrefix" => constant!("dns1035LabelPrefix"),
        "format.labelValue" => constant!("labelValue"),
        "format.uri" => constant!("uri"),
        "format.uuid" => constant!("uuid"),
        "format.byte" => constant!("byte"),
        "format.date" => constant!("date"),
        "format.datetime" => constant!("datetime"),
        _ => return None,
    })
}

fn validate<'a>(a: &[Value<'a>], _: Option<&regex::Regex>) -> EvalResult<'a> {
    let [Value::Native(n), Value::String(s)] = a else { return Err(EvalError::NoOverload) };
    let Native::Format(f) = &**n else { return Err(EvalError::NoOverload) };
    let wrong = (f.check)(s);
    if wrong.is_empty() {
        return Ok(Value::Optional(None));
    }
    let wrong: Vec<Value<'a>> = wrong.into_iter().map(Value::from).collect();
    Ok(Value::Optional(Some(Value::from(wrong).into())))
}
