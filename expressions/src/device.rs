//! Selectors of devices: what an expression in a DeviceClass or a request of a ResourceClaim sees of a device
//! (KEP-4381), and whether a device matches.
//!
//! `device.attributes["gpu.example.com"].model` looks an attribute up by the domain and the identifier of its name; a
//! name without a domain has the driver's. A domain that a device knows nothing of is an empty map.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::quantity::Quantity;

use super::decl::{DeclType, Shape};
use super::native::Native;
use super::semver::Version;
use super::types::{Type, names};
use super::value::{Key, Map, Value};
use super::{Compiled, Env, Program};

/// Most that one evaluation of a selector may cost, and most that one may be estimated to cost when it is written
/// (`CELSelectorExpressionMaxCost`).
pub const MAX_COST: u64 = 1_000_000;
/// Most attributes and capacities of a device.
const MAX_ENTRIES: u64 = 32;
/// Longest value of an attribute, in bytes.
const MAX_VALUE: u64 = 64;
/// Longest name of a driver, in bytes.
const MAX_DRIVER: u64 = 63;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Bool(bool),
    Int(i64),
    Text(Arc<str>),
    /// A semantic version.
    Version(Arc<str>),
    /// A list, or what a newer API server knows.
    Unsupported,
}

impl Attribute {
    fn value(&self) -> Result<Value<'static>, String> {
        Ok(match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::Int(*n),
            Self::Text(s) => s.to_string().into(),
            Self::Version(s) => {
                let v = Version::parse(s).map_err(|e| format!("parse semantic version: {e}"))?;
                Native::Semver(v).into()
            }
            Self::Unsupported => return Err("unsupported attribute value".into()),
        })
    }
}

/// A device as expressions see it.
#[derive(Debug, Clone)]
pub struct Device(Result<Value<'static>, String>);

type Domains = BTreeMap<Key, BTreeMap<Key, Value<'static>>>;

/// Puts a value under the domain and identifier of its name.
fn put(to: &mut Domains, name: &str, driver: &str, value: Value<'static>) {
    let (domain, id) = name.split_once('/').unwrap_or((driver, name));
    to.entry(Key::String(domain.into())).or_default().insert(Key::String(id.into()), value);
}

fn open(from: Domains) -> Value<'static> {
    let made = |m: BTreeMap<Key, Value<'static>>| Value::Map(Map::Made(Arc::new(m)));
    Value::Map(Map::Open(Arc::new(from.into_iter().map(|(k, v)| (k, made(v))).collect())))
}

impl Device {
    /// A device of `driver`. An attribute that cannot be read fails the evaluations, not this.
    #[must_use]
    pub fn new<'d>(
        driver: &str,
        shared: bool,
        attributes: impl Iterator<Item = (&'d str, &'d Attribute)>,
        capacity: impl Iterator<Item = (&'d str, Quantity)>,
    ) -> Self {
        let (mut known, mut amounts) = (Domains::new(), Domains::new());
        for (name, a) in attributes {
            match a.value() {
                Ok(v) => put(&mut known, name, driver, v),
                Err(e) => return Self(Err(format!("attribute {name}: {e}"))),
            }
        }
        for (name, q) in capacity {
            put(&mut amounts, name, driver, Native::Quantity(q).into());
        }
        let fields = [
            ("driver", driver.to_owned().into()),
            ("allowMultipleAllocations", Value::Bool(shared)),
            ("attributes", open(known)),
            ("capacity", open(amounts)),
        ];
        let fields = fields.into_iter().map(|(k, v)| (Key::String(k.into()), v)).collect();
        Self(Ok(Value::Map(Map::Made(Arc::new(fields)))))
    }
}

/// The type of the variable `device`.
#[must_use]
pub fn decl() -> DeclType {
    let bounded = |d: DeclType, max_elements| DeclType { max_elements, ..d };
    let domains = |of: DeclType| bounded(DeclType::map(bounded(DeclType::map(of), MAX_ENTRIES)), MAX_ENTRIES);
    let fields = [
        ("driver", bounded(DeclType::string(), MAX_DRIVER)),
        ("allowMultipleAllocations", bounded(DeclType::BOOL, 1)),
        ("attributes", domains(bounded(DeclType::DYN, MAX_VALUE))),
        ("capacity", domains(DeclType::scalar(Shape::Named(names::QUANTITY), 1))),
    ];
    DeclType::object("kubernetes.DRADevice", fields)
}

/// Compiles a selector.
///
/// # Errors
/// The expression does not compile or cannot be a boolean, in upstream's words.
pub fn compile(expression: &str) -> Result<Compiled, String> {
    let env = Env::default().variable("device", decl()).with_bindings();
    let compiled = super::compile(expression, &env).map_err(|e| format!("compilation failed: {e}"))?;
    match compiled.output() {
        Type::Bool | Type::Dyn => Ok(compiled),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}

/// A selector ready for evaluation.
#[derive(Debug, Clone)]
pub struct Selector(Program);

impl Selector {
    /// Compiles a selector for evaluation.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn new(expression: &str) -> Result<Self, String> {
        let program = compile(expression)?.program();
        Ok(Self(program.map_err(|e| format!("program instantiation failed: {e}"))?))
    }

    /// Whether the device matches.
    ///
    /// # Errors
    /// The evaluation failed, cost more than [`MAX_COST`], or gave no boolean.
    pub fn matches(&self, device: &Device) -> Result<bool, String> {
        let device = device.0.clone()?;
        let result = self.0.run(&[("device", device)]).0.map_err(|e| e.to_string())?;
        result.as_bool().ok_or_else(|| {
            let kind = result.type_name();
            format!(
                "CEL result of type {kind} could not be converted to bool: type conversion error from '{kind}' to 'bool'"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        let attributes = [
            ("model", Attribute::Text("a100".into())),
            ("other.example.com/healthy", Attribute::Bool(true)),
            ("driverVersion", Attribute::Version("1.2.3".into())),
            ("index", Attribute::Int(7)),
        ];
        let attributes = attributes.iter().map(|(n, a)| (*n, a));
        let memory = [("memory", "40Gi".parse().expect("quantity"))];
        Device::new("gpu.example.com", false, attributes, memory.into_iter())
    }

    fn matches(expression: &str) -> Result<bool, String> {
        Selector::new(expression)?.matches(&device())
    }

    #[test]
    fn devices_are_selected_by_what_they_are() {
        let own = "gpu.example.com";
        for (expression, wanted) in [
            ("device.driver == 'gpu.example.com'".to_owned(), true),
            ("device.allowMultipleAllocations".to_owned(), false),
            (format!("device.attributes['{own}'].model == 'a100'"), true),
            (format!("device.attributes['{own}'].index < 7"), false),
            ("device.attributes['other.example.com'].healthy".to_owned(), true),
            (format!("device.attributes['{own}'].driverVersion.isGreaterThan(semver('1.2.0'))"), true),
            (format!("device.capacity['{own}'].memory.compareTo(quantity('40Gi')) >= 0"), true),
            (
                format!("cel.bind(gpu, device.attributes['{own}'], gpu.model == 'a100' && gpu.index == 7)"),
                true,
            ),
            // What a device knows nothing of is empty, not an error.
            ("'model' in device.attributes['nobody.example.com']".to_owned(), false),
            ("'nobody.example.com' in device.attributes".to_owned(), false),
            (format!("'{own}' in device.attributes"), true),
            (format!("device.attributes['{own}'].?missing.orValue(1) == 1"), true),
        ] {
            assert_eq!(matches(&expression), Ok(wanted), "{expression}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let missing = matches("device.attributes['gpu.example.com'].missing");
        assert_eq!(missing, Err("no such key: missing".into()));
        assert!(
            matches("device.attributes['gpu.example.com'].model")
                .is_err_and(|e| e.contains("of type string"))
        );
        assert!(matches("device.nothing").is_err_and(|e| e.contains("undefined field 'nothing'")));
        let number = compile("1 + 1").map(|_| ()).expect_err("a number");
        assert_eq!(number, "must evaluate to bool or the unknown type, not int");
        let list = [("list", Attribute::Unsupported)];
        let list = Device::new("d", false, list.iter().map(|(n, a)| (*n, a)), std::iter::empty());
        let selector = Selector::new("true").expect("selector");
        assert_eq!(selector.matches(&list), Err("attribute list: unsupported attribute value".into()));
    }

    #[test]
    fn selectors_that_cost_too_much_are_known_beforehand() {
        let cheap = compile("device.driver == 'x'").expect("compiles").cost(&decl());
        assert!(cheap.max < MAX_COST, "{cheap:?}");
        let own = "device.attributes['gpu.example.com']";
        for usual in [
            format!("{own}.model == 'a100'"),
            format!("{own}.model.matches('^a1[0-9]+$')"),
            format!("{own}.model.lowerAscii().startsWith('a')"),
            format!("{own}.?index.orValue(0) > 3"),
            format!("'model' in {own} && {own}.healthy"),
            format!("{own}.driverVersion.isGreaterThan(semver('1.2.0'))"),
            format!("cel.bind(gpu, {own}, gpu.model == 'a100' || gpu.index == 7)"),
            "device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) >= 0".to_owned(),
        ] {
            let cost = compile(&usual).unwrap_or_else(|e| panic!("{e}")).cost(&decl());
            assert!(cost.max < MAX_COST, "{usual}: {cost:?}");
        }
        let nested = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a + b + c + d == 'x'))))";
        let dear = compile(nested).expect("compiles").cost(&decl());
        assert!(dear.max > MAX_COST, "{dear:?}");
    }
}
