//! Tables of expressions: what they give, what they cost, and how they fail to compile.

use serde_json::{Value as Json, json};

use super::*;

/// Evaluates with `object` (untyped), `self` (typed by `schema`) in scope; the result as JSON, or the error.
fn eval_with(expression: &str, object: &Json) -> Result<Json, String> {
    let env = Env::default().variable("object", DeclType::DYN);
    let program =
        compile(expression, &env).map_err(|e| e.to_string())?.program().map_err(|e| e.to_string())?;
    let vars = [("object", Value::from_untyped(object))];
    let v = program.run(&vars).0.map_err(|e| e.to_string())?;
    Ok(match &v {
        Value::Optional(None) => json!("none"),
        Value::Type(t) => json!(format!("type:{t}")),
        Value::Native(n) => json!(n.type_name()),
        v => v.to_json().unwrap_or_else(|e| json!(e.to_string())),
    })
}

fn eval(expression: &str) -> Result<Json, String> {
    eval_with(expression, &Json::Null)
}

fn compile_error(expression: &str, env: &Env) -> String {
    match compile(expression, env) {
        Ok(_) => panic!("{expression} compiles"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn results() {
    let table: &[(&str, Json)] = &[
        ("1 + 2 * 3", json!(7)),
        ("7 / 2", json!(3)),
        ("-7 % 3", json!(-1)),
        ("1.5 + 2.0", json!(3.5)),
        ("'a' + 'b'", json!("ab")),
        ("[1, 2] + [3]", json!([1, 2, 3])),
        ("dyn(1) == 1.0", json!(true)),
        ("dyn(1) == dyn(1u)", json!(true)),
        ("1 < 1.5 && 2u > 1", json!(true)),
        ("'a' in ['a', 'b']", json!(true)),
        ("'k' in {'k': 1}", json!(true)),
        ("{'a': 1}.a", json!(1)),
        ("{'a': 1}['a']", json!(1)),
        ("{1: 'x'}[1]", json!("x")),
        ("[1, 2, 3][1]", json!(2)),
        ("has({'a': 1}.b)", json!(false)),
        ("true ? 1 : 2", json!(1)),
        ("false && (1 / 0 == 1)", json!(false)),
        ("(1 / 0 == 1) || true", json!(true)),
        ("[1, 2, 3].all(x, x > 0)", json!(true)),
        ("[1, 2, 3].exists(x, x > 2)", json!(true)),
        ("[1, 2, 2].exists_one(x, x == 2)", json!(false)),
        ("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x != 2)", json!([1, 3])),
        ("[[1, 2], [3]].map(l, l.map(x, x + l.size()))", json!([[3, 4], [4]])),
        ("{'a': 1, 'b': 2}.all(k, k in ['a', 'b'])", json!(true)),
        ("[5, 6].all(i, v, v == i + 5)", json!(true)),
        ("{'a': 1, 'b': 2}.exists(k, v, k == 'b' && v == 2)", json!(true)),
        ("{'a': 1, 'b': 2}.existsOne(k, v, v > 1)", json!(true)),
        ("[3, 4].transformList(i, v, i + v)", json!([3, 5])),
        ("[3, 4].transformList(i, v, i > 0, i + v)", json!([5])),
        ("{'a': 1}.transformMap(k, v, v + 1)", json!({"a": 2})),
        ("['x', 'y'].transformMapEntry(i, v, {v: i})", json!({"x": 0, "y": 1})),
        ("optional.of(3).optMap(x, x + 1).value()", json!(4)),
        ("optional.none().optMap(x, x + 1)", json!("none")),
        ("{'a': {'b': 1}}.?a.?b.orValue(0)", json!(1)),
        ("{'a': {'c': 1}}.?a.?b.orValue(0)", json!(0)),
        ("[1, 2][?5].orValue(9)", json!(9)),
        ("optional.ofNonZeroValue('').hasValue()", json!(false)),
        ("[?optional.of(1), ?optional.none()]", json!([1])),
        ("{?'a': optional.none(), 'b': 1}", json!({"b": 1})),
        ("[optional.of(1), optional.none()].unwrapOpt()", json!([1])),
        ("[1, 2].first().value() + [1, 2].last().value()", json!(3)),
        ("size('héllo')", json!(5)),
        ("'héllo'.indexOf('l')", json!(2)),
        ("'hello'.lastIndexOf('l')", json!(3)),
        ("'hello mellow'.indexOf('ello', 2)", json!(7)),
        ("'hello'.substring(1, 3)", json!("el")),
        ("'a,b,c'.split(',')", json!(["a", "b", "c"])),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'abc'.split('')", json!(["a", "b", "c"])),
        ("'aXbX'.replace('X', '-')", json!("a-b-")),
        ("'aXbX'.replace('X', '-', 1)", json!("a-bX")),
        ("['a', 'b'].join('-')", json!("a-b")),
        ("' x '.trim() + 'AbC'.lowerAscii() + 'AbC'.upperAscii()", json!("xabcABC")),
        ("'abc'.charAt(1)", json!("b")),
        (
            "'%s has %d, %.2f, %x'.format([dyn('pod'), dyn(3), dyn(1.5), dyn(255)])",
            json!("pod has 3, 1.50, ff"),
        ),
        ("'x %s'.format([[1, 2]])", json!("x [1, 2]")),
        ("strings.quote('a\"b')", json!("\"a\\\"b\"")),
        ("'foo123'.matches('^[a-z]+[0-9]+$')", json!(true)),
        ("'abc 123'.find('[0-9]+')", json!("123")),
        ("'1 2 3'.findAll('[0-9]', 2)", json!(["1", "2"])),
        ("[1, 3, 2].sort()", json!([1, 2, 3])),
        ("['bb', 'a'].sortBy(s, s.size())", json!(["a", "bb"])),
        ("[1, 2, 3].slice(1, 3)", json!([2, 3])),
        ("[[[1]], [[2, 3]]].flatten(2).size()", json!(3)),
        ("lists.range(3).reverse()", json!([2, 1, 0])),
        ("[1, 1, 2].distinct()", json!([1, 2])),
        ("[1, 2].sum() + [4, 3].max() + [4, 3].min()", json!(10)),
        ("[1, 2].isSorted() && [1, 2, 1].lastIndexOf(1) == 2", json!(true)),
        (
            "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 3]) && !sets.equivalent([1], [2])",
            json!(true),
        ),
        ("duration('90m') == duration('1h30m')", json!(true)),
        ("duration('90m').getHours()", json!(1)),
        ("timestamp('2023-01-02T03:04:05Z').getFullYear()", json!(2023)),
        ("timestamp('2023-01-02T03:04:05Z').getHours('-08:00')", json!(19)),
        (
            "timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h')",
            json!(true),
        ),
        ("string(timestamp('2023-01-02T03:04:05Z') + duration('1s'))", json!("2023-01-02T03:04:06Z")),
        ("int('12') + int(3.9) + int(4u)", json!(19)),
        ("string(1.5) + string(true) + string(b'x')", json!("1.5truex")),
        (
            "type(1) == int && type('') == string && type(timestamp('2023-01-02T03:04:05Z')) == google.protobuf.Timestamp",
            json!(true),
        ),
        ("quantity('1Gi').isGreaterThan(quantity('1G'))", json!(true)),
        ("quantity('1500m').add(quantity('500m')).asInteger()", json!(2)),
        ("quantity('1').compareTo(quantity('2'))", json!(-1)),
        ("isQuantity('1k') && !isQuantity('x') && sign(quantity('-1')) == -1", json!(true)),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.0', true).minor() == 0", json!(true)),
        ("isSemver('v1.0') || isSemver('1.0.0-rc.1')", json!(true)),
        ("ip('192.168.0.1').family() == 4 && isIP('::1') && ip('::1').isLoopback()", json!(true)),
        (
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
            json!(true),
        ),
        ("string(cidr('10.1.2.3/8').masked())", json!("10.0.0.0/8")),
        ("ip.isCanonical('::0:1')", json!(false)),
        ("url('https://a.b:80/x?y=1').getPort() + url('https://[::1]:80/').getHostname()", json!("80::1")),
        ("url('https://a.b/x?y=1&y=2').getQuery()['y']", json!(["1", "2"])),
        ("isURL('/path') && !isURL('a b')", json!(true)),
        ("format.dns1123Label().validate('A').hasValue()", json!(true)),
        (
            "format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
            json!(false),
        ),
        ("b'abc' == bytes('abc') && size(b'abc') == 3", json!(true)),
    ];
    let wrong: Vec<String> = table
        .iter()
        .map(|(expression, wanted)| (expression, wanted, eval(expression)))
        .filter(|(_, wanted, got)| got.as_ref() != Ok(*wanted))
        .map(|(expression, wanted, got)| format!("{expression}: {got:?}, not {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn untyped_objects() {
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
        "spec": {"replicas": 3, "ratio": 0.5, "containers": [{"name": "c", "image": "x"}], "nothing": null}});
    let table: &[(&str, Json)] = &[
        ("object.metadata.namespace == 'ns'", json!(true)),
        ("object.spec.replicas + 1", json!(4)),
        ("object.spec.ratio < 1", json!(true)),
        ("object.spec.containers.all(c, c.image == 'x')", json!(true)),
        ("has(object.spec.nope)", json!(false)),
        ("object.spec.nothing == null", json!(true)),
        ("object.metadata.labels['a']", json!("b")),
        ("object.?spec.?nope.orValue(1)", json!(1)),
        ("type(object.spec.replicas) == int", json!(true)),
        ("object.metadata.labels == {'a': 'b'}", json!(true)),
    ];
    for (expression, wanted) in table {
        assert_eq!(eval_with(expression, &pod), Ok(wanted.clone()), "{expression}");
    }
}

#[test]
fn run_time_errors() {
    let object = json!({"a": [1], "s": "x"});
    for (expression, wanted) in [
        ("object.nope", "no such key: nope"),
        ("object.s.t", "no such key: t"),
        ("object.a[3]", "index out of bounds: 3"),
        ("object['zz']", "no such key: zz"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("object.s + 1", "no such overload"),
        ("size(object.a[0])", "no such overload: size(int)"),
        ("optional.none().value()", "optional.none() dereference"),
        ("int('x' + 'y')", "type conversion error from 'string' to 'int'"),
        ("[].max()", "max called on empty list"),
        ("'abc'.substring(5)", "index out of range: 5"),
        ("[1].all(x, object.nope)", "no such key: nope"),
        (
            "quantity('x')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(eval_with(expression, &object), Err(wanted.to_owned()), "{expression}");
    }
}

#[test]
fn compile_errors() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}},
        "if": {"type": "string"}, "a-b": {"type": "string"}, "namespace": {"type": "string"}}});
    let decl = DeclType::from_structural(&schema, "t", false).unwrap();
    let env = Env::default().variable("self", decl).variable("object", DeclType::DYN);
    for (expression, wanted) in [
        ("x", "ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x\n | ^"),
        ("self.nope", "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^"),
        (
            "self.replicas == 'a'",
            "ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(int, string)'\n | self.replicas == 'a'\n | ..............^",
        ),
        (
            "self.name.foo()",
            "ERROR: <input>:1:14: undeclared reference to 'foo' (in container '')\n | self.name.foo()\n | .............^",
        ),
        (
            "self.name.contains(1)",
            "ERROR: <input>:1:19: found no matching overload for 'contains' applied to 'string.(int)'\n | self.name.contains(1)\n | ..................^",
        ),
        (
            "self.replicas.x",
            "ERROR: <input>:1:14: type 'int' does not support field selection\n | self.replicas.x\n | .............^",
        ),
        (
            "self.replicas.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.replicas.all(x, true)\n | ....^",
        ),
        ("1 && true", "ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | 1 && true\n | ^"),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        ("duration('x')", "ERROR: <input>:1:10: invalid duration argument\n | duration('x')\n | .........^"),
        (
            "object.x.matches('(')",
            "ERROR: <input>:1:18: invalid matches argument\n | object.x.matches('(')\n | .................^",
        ),
        (
            "object.",
            "ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | object.\n | .......^",
        ),
        ("has(object)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(object)\n | ....^"),
        (
            "[1].all(k, k, true)",
            "ERROR: <input>:1:12: duplicate variable name: k\n | [1].all(k, k, true)\n | ...........^",
        ),
        ("if", "ERROR: <input>:1:1: reserved identifier: if\n | if\n | ^"),
        (
            "Object{a: 1}",
            "ERROR: <input>:1:7: undeclared reference to 'Object' (in container '')\n | Object{a: 1}\n | ......^",
        ),
    ] {
        assert_eq!(compile_error(expression, &env), wanted, "{expression}");
    }
    for fine in [
        "self.__if__ == self.a__dash__b",
        "self.namespace == 'x'",
        "self.__namespace__ == 'x'",
        "self.tags.exists(t, t == object.x)",
    ] {
        assert!(compile(fine, &env).is_ok(), "{fine}: {}", compile(fine, &env).unwrap_err());
    }
}

#[test]
fn typed_values() {
    let schema = json!({"type": "object", "properties": {
        "d": {"type": "string", "format": "duration"}, "t": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"}, "b": {"type": "string", "format": "byte"},
        "n": {"type": "number"}, "p": {"x-kubernetes-int-or-string": true},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}}}});
    let decl = DeclType::from_structural(&schema, "t", false).unwrap();
    let env = Env::default().variable("self", decl.clone()).variable("oldSelf", decl.clone());
    let new = json!({"d": "1h", "t": "2023-01-02T03:04:05Z", "day": "2023-01-02", "b": "YWJj", "n": 2, "p": "50%",
        "set": ["a", "b"], "keyed": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "m": {"z": 1}});
    let old = json!({"set": ["b", "a"], "keyed": [{"k": "y", "v": 2}, {"k": "x", "v": 1}]});
    for expression in [
        "self.d == duration('60m')",
        "self.t.getFullYear() == 2023 && self.day.getDayOfMonth() == 1",
        "self.b == b'abc'",
        "self.n == 2.0 && type(self.n) == double",
        "type(self.p) == string && self.p.contains('%')",
        "self.set == oldSelf.set",
        "self.keyed == oldSelf.keyed",
        "(self.set + oldSelf.set).size() == 2",
        "(self.keyed + oldSelf.keyed).size() == 2",
        "self.m.all(k, self.m[k] == 1)",
        "self.m.z == 1",
        "!has(oldSelf.m)",
    ] {
        let program = compile(expression, &env).unwrap_or_else(|e| panic!("{e}")).program().unwrap();
        let vars = [
            ("self", Value::from_json(&new, &decl).unwrap()),
            ("oldSelf", Value::from_json(&old, &decl).unwrap()),
        ];
        assert_eq!(program.run(&vars).0.unwrap().as_bool(), Some(true), "{expression}");
    }
}

/// Costs as upstream's tests for its cost model have them.
#[test]
fn run_time_costs() {
    for (expression, cost) in [
        ("true", 0),
        ("object", 1),
        ("object.a", 2),
        ("object.a.b", 3),
        ("object.l[0]", 3),
        ("has(object.a)", 1),
        ("has(object.a.b)", 2),
        ("1 + 1", 1),
        ("'abcdefghij' == 'abcdefghij'", 1),
        ("[1, 2, 3]", 0),
        ("[object]", 11),
        ("1 in [1, 2]", 0),
        ("[1, 2].all(x, true)", 7),
        ("true && false", 0),
        ("true ? object : 1", 1),
        ("'abcdefghijk'.matches('abcd')", 2),
        ("'abcdefghijk'.startsWith('a')", 2),
        ("quantity('12345678901').isGreaterThan(quantity('1'))", 4),
        ("cidr('10.0.0.0/8').containsIP('10.1.1.1')", 3),
    ] {
        let env = Env::default().variable("object", DeclType::DYN);
        let program = compile(expression, &env).unwrap_or_else(|e| panic!("{e}")).program().unwrap();
        let object = json!({"a": {"b": 1}, "l": [1]});
        let vars = [("object", Value::from_untyped(&object))];
        let (result, spent) = program.run(&vars);
        assert!(result.is_ok(), "{expression}");
        assert_eq!(spent, cost, "{expression}");
    }
}

#[test]
fn what_costs_too_much_is_stopped() {
    let env = Env::default().variable("object", DeclType::DYN);
    let list = Json::Array((0..2_000).map(Json::from).collect());
    let program = compile("object.all(x, object.all(y, x + y >= 0))", &env).unwrap().program().unwrap();
    let vars = [("object", Value::from_untyped(&list))];
    let (result, cost) = program.run(&vars);
    assert_eq!(result.unwrap_err().to_string(), "operation cancelled: actual cost limit exceeded");
    assert!(cost > PER_CALL_LIMIT && cost < PER_CALL_LIMIT + 100);
    let mut budget = Budget::new(10);
    let program = compile("object.exists(x, x == 5)", &env).unwrap().program().unwrap();
    assert_eq!(program.eval(&vars, &mut budget).unwrap_err(), Failure::OutOfBudget);
    // What is cheap by upstream's count but not in memory.
    let program = compile("lists.range(1000000000).size()", &env).unwrap().program().unwrap();
    assert!(program.run(&vars).0.is_err());
    let doubled = (0..12).fold("object".to_owned(), |e, _| format!("[{e}].map(x, x + x)[0]"));
    let program = compile(&doubled, &env).unwrap().program().unwrap();
    assert!(program.run(&vars).0.is_err());
    // Macros that repeat their target must not repeat it without end.
    let nested = (0..40).fold("object".to_owned(), |e, _| format!("{e}.optMap(x, x)"));
    assert!(compile_error(&nested, &env).contains("too large"));
}

#[test]
fn estimates() {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "unbounded": {"type": "array", "items": {"type": "string"}},
        "s": {"type": "string", "maxLength": 100}, "n": {"type": "integer"},
        "e": {"type": "string", "enum": ["aaa", "b"]}}});
    let decl = DeclType::from_structural(&schema, "t", false).unwrap();
    let env = Env::default().variable("self", decl.clone());
    let most = |expression: &str| compile(expression, &env).unwrap_or_else(|e| panic!("{e}")).cost(&decl).max;
    // self + field + constant comparison of at most one character.
    assert_eq!(most("self.s == 'a'"), 3);
    assert_eq!(most("self.n == 1"), 2);
    assert_eq!(most("self.s.startsWith('abc')"), 3);
    assert_eq!(most("self.s.matches('a.b')"), 2 + 41);
    // Ten turns of: condition (2), accumulator (1), element (1), comparison with 20 bytes (1).
    assert_eq!(most("self.list.all(x, x == 'aaaaaaaaaa')"), 2 + 10 * 5 + 1);
    assert!(most("self.unbounded.all(x, self.unbounded.all(y, x == y))") > 100 * RUNTIME_BUDGET);
    assert_eq!(most("self.list.map(x, x.size()).size()"), 2 + 10 + 10 * (1 + 1 + 10 + 1 + 1) + 1 + 1);
}

#[test]
fn deep_and_long_expressions_do_not_overflow_the_stack() {
    let env = Env::default();
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for source in [
                format!("{}1{}", "(".repeat(200), ")".repeat(200)),
                format!("{}1{} == {}1{}", "[".repeat(90), "]".repeat(90), "[".repeat(90), "]".repeat(90)),
                format!("1{}", " + 1".repeat(200)),
                format!("{}true", "!".repeat(500)),
            ] {
                let program = compile(&source, &env).unwrap_or_else(|e| panic!("{e}")).program().unwrap();
                let none: [(&str, Value<'_>); 0] = [];
                assert!(program.run(&none).0.is_ok(), "{source}");
            }
            for source in [
                format!("1{}", " + 1".repeat(20_000)),
                format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)),
                format!("a{}", ".b".repeat(40_000)),
                "a".repeat(200_000),
                format!("{}1{}", "f(".repeat(240), ")".repeat(240)),
            ] {
                assert!(compile(&source, &env).is_err());
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn mutations() {
    let env = Env::default().variable("object", DeclType::DYN).with_mutations();
    let object = json!({"a": 1});
    let vars = [("object", Value::from_untyped(&object))];
    for (expression, wanted) in [
        ("Object{spec: Object.spec{replicas: object.a}}", json!({"spec": {"replicas": 1}})),
        (
            "[JSONPatch{op: 'add', path: '/x/' + jsonpatch.escapeKey('a/b'), value: 1}]",
            json!([{"op": "add", "path": "/x/a~1b", "value": 1}]),
        ),
        ("Object{?x: object.?nope, y: 'z'}", json!({"y": "z"})),
    ] {
        let program = compile(expression, &env).unwrap_or_else(|e| panic!("{e}")).program().unwrap();
        let v = program.run(&vars).0.unwrap();
        assert_eq!(v.to_json().unwrap(), wanted, "{expression}");
    }
    assert!(compile_error("JSONPatch{nope: 1}", &env).contains("undefined field 'nope'"));
    assert!(
        compile_error("JSONPatch{op: 1}", &env)
            .contains("expected type of field 'op' is 'string' but provided type is 'int'")
    );
}

/// Pieces of expressions, put together at random: whatever comes of it, nothing panics.
const PIECES: &[&str] = &[
    "object",
    ".",
    "a",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    "0",
    "-",
    "1u",
    "1.5",
    "'x'",
    "b'x'",
    "null",
    "true",
    "+",
    "*",
    "/",
    "%",
    "==",
    "<",
    "&&",
    "||",
    "!",
    "?",
    ":",
    ",",
    " in ",
    "has(",
    "size(",
    ".all(",
    ".map(",
    ".exists(x, ",
    "x",
    ".?a",
    "[?0]",
    ".orValue(",
    "optional.of(",
    ".optMap(",
    "int(",
    "string(",
    "duration('1h')",
    "timestamp(",
    "quantity('1')",
    "ip('::1')",
    ".matches('",
    "')",
    ".format([",
    ".split('')",
    ".sort()",
    ".flatten()",
    "9223372036854775807",
    "\"",
    "\\",
    "\u{e9}",
    "\n",
    "//",
    "`",
    "@",
    ".transformMap(k, v, ",
    ".sortBy(",
    "type(",
    "lists.range(",
    ".replace('', 'y')",
];

proptest::proptest! {
    #[test]
    fn garbage_does_not_panic(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24)) {
        let env = Env::default().variable("object", DeclType::DYN);
        let object = json!({"a": [1, "x", {"a": null}], "x": 1.5});
        let vars = [("object", Value::from_untyped(&object))];
        if let Ok(compiled) = compile(&pieces.concat(), &env) {
            let _ = compiled.cost(&DeclType::DYN);
            if let Ok(program) = compiled.program() {
                let _ = program.run(&vars);
            }
        }
    }
}
