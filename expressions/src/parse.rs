//! From text to [`Expr`]. The grammar is the `cel` crate's, generated from upstream's, so that syntax errors read the
//! same; its tree is turned into ours here, and the macros it does not know are expanded on the way.
//!
//! The crate's parser recurses as deep as an expression nests and as long as its chains are. Expressions that could
//! overflow a worker's stack are parsed on a thread of their own with a large one.

use cel::common::ast as theirs;

use super::ast::{Element, Entry, Expr, FieldInit, Fold, Kind, Literal};
use super::error::{CompileError, Issue};
use super::macros;

/// Upstream's limits: nesting, and length in code points.
pub const MAX_DEPTH: usize = 250;
const MAX_LENGTH: usize = 100_000;
/// Nodes after which no more are copied.
const MAX_NODES: u32 = 50_000;

/// Up to these sizes an expression is parsed on the caller's stack.
const SMALL_NESTING: usize = 20;
const SMALL_CHAIN: usize = 400;
const STACK: usize = 160 << 20;

/// A parsed expression and how many nodes it has.
pub struct Parsed {
    pub root: Expr,
    pub nodes: u32,
}

/// Parses `source`; `bindings` says whether `cel.bind` is a macro.
pub fn parse(source: &str, bindings: bool) -> Result<Parsed, CompileError> {
    let fail = |message: String| CompileError::new(source, vec![Issue { line: 0, column: 0, message }]);
    let length = source.chars().count();
    if length > MAX_LENGTH {
        let message = format!("expression code point size exceeds limit: size: {length}, limit {MAX_LENGTH}");
        return Err(CompileError::new(source, vec![Issue { line: 1, column: 0, message }]));
    }
    if is_small(source) {
        return parse_here(source, bindings);
    }
    let spawned = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("cel-parse".into()).stack_size(STACK);
        builder.spawn_scoped(scope, || parse_here(source, bindings)).map(|t| t.join())
    });
    match spawned {
        Ok(Ok(parsed)) => parsed,
        Ok(Err(_)) => Err(fail("internal error: the parser failed".to_owned())),
        Err(e) => Err(fail(format!("internal error: cannot start a thread for the parser: {e}"))),
    }
}

/// Whether neither brackets nor chains of operators go deep.
fn is_small(source: &str) -> bool {
    let (mut nesting, mut deepest, mut chain) = (0usize, 0usize, 0usize);
    for c in source.bytes() {
        match c {
            b'(' | b'[' | b'{' => {
                nesting += 1;
                chain += 1;
                deepest = deepest.max(nesting);
            }
            b')' | b']' | b'}' => nesting = nesting.saturating_sub(1),
            b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' | b'?' | b'!' => chain += 1,
            b' ' | b'\t' | b'\n' => chain += 1,
            _ => {}
        }
    }
    deepest <= SMALL_NESTING && chain <= SMALL_CHAIN
}

fn parse_here(source: &str, bindings: bool) -> Result<Parsed, CompileError> {
    let parser =
        cel::parser::Parser::new().max_recursion_depth(MAX_DEPTH as u16).enable_optional_syntax(true);
    match parser.parse_with_source_info(source) {
        Ok((tree, info)) => {
            let mut builder = Builder { info: &info, next: 0, issue: None, bindings };
            let root = builder.expr(&tree, 0);
            match builder.issue {
                None => Ok(Parsed { root, nodes: builder.next }),
                Some((pos, message)) => {
                    Err(CompileError::new(source, vec![Issue::at(source, pos as usize, message)]))
                }
            }
        }
        Err(errors) => {
            let issues = errors.errors.iter().map(|e| {
                let at = |n: isize| usize::try_from(n).unwrap_or(0);
                let message = match e.msg.contains("ecursion limit") {
                    true => format!("expression recursion limit exceeded: {MAX_DEPTH}"),
                    false => e.msg.clone(),
                };
                Issue { line: at(e.pos.0), column: at(e.pos.1 - 1), message }
            });
            Err(CompileError::new(source, issues.collect()))
        }
    }
}

/// Makes our nodes. The first problem is kept in `issue`; the tree is useless then.
pub struct Builder<'a> {
    info: &'a theirs::SourceInfo,
    next: u32,
    issue: Option<(u32, String)>,
    /// Whether `cel.bind` is a macro.
    pub bindings: bool,
}

impl Builder<'_> {
    /// A new node.
    pub fn node(&mut self, pos: u32, kind: Kind) -> Expr {
        let id = self.next;
        self.next += 1;
        Expr { id, pos, kind }
    }

    /// Says what is wrong at `pos`; the first word counts. The node is a stand-in.
    pub fn fail(&mut self, pos: u32, message: impl Into<String>) -> Expr {
        self.issue.get_or_insert_with(|| (pos, message.into()));
        self.node(pos, Kind::Literal(Literal::Null))
    }

    /// The same expression with nodes of its own. Copies double with each level of macros that copy: there is an end.
    pub fn copy(&mut self, e: &Expr) -> Expr {
        if self.next > MAX_NODES || self.issue.is_some() {
            return self.fail(e.pos, "expression is too large when its macros are expanded");
        }
        let mut e = e.clone();
        renumber(&mut e, &mut self.next);
        e
    }

    fn pos(&self, id: u64) -> u32 {
        self.info.offset_for(id).map_or(0, |(start, _)| start)
    }

    fn expr(&mut self, e: &theirs::IdedExpr, depth: usize) -> Expr {
        let pos = self.pos(e.id);
        if depth > MAX_DEPTH {
            return self.fail(0, "max recursion depth exceeded");
        }
        let d = depth + 1;
        let kind = match &e.expr {
            theirs::Expr::Unspecified => return self.fail(pos, "unspecified expression"),
            theirs::Expr::Ident(name) => Kind::Ident(name.as_str().into()),
            theirs::Expr::Literal(l) => Kind::Literal(literal(l)),
            theirs::Expr::Select(s) => Kind::Select {
                operand: Box::new(self.expr(&s.operand, d)),
                field: s.field.as_str().into(),
                test: s.test,
            },
            theirs::Expr::Call(c) => {
                let target = c.target.as_ref().map(|t| Box::new(self.expr(t, d)));
                let args = c.args.iter().map(|a| self.expr(a, d)).collect();
                return macros::call(self, pos, &c.func_name, target, args);
            }
            theirs::Expr::List(l) => {
                let elements = l.elements.iter().enumerate().map(|(i, e)| {
                    let optional = l.optional_indices.contains(&i);
                    Element { value: self.expr(e, d), optional }
                });
                Kind::List(elements.collect())
            }
            theirs::Expr::Map(m) => {
                let mut entries = Vec::with_capacity(m.entries.len());
                for entry in &m.entries {
                    let theirs::EntryExpr::MapEntry(x) = &entry.expr else { continue };
                    let (key, value) = (self.expr(&x.key, d), self.expr(&x.value, d));
                    entries.push(Entry { key, value, optional: x.optional });
                }
                Kind::Map(entries)
            }
            theirs::Expr::Struct(s) => {
                let mut fields = Vec::with_capacity(s.entries.len());
                for entry in &s.entries {
                    let theirs::EntryExpr::StructField(x) = &entry.expr else { continue };
                    let value = self.expr(&x.value, d);
                    let (pos, name) = (self.pos(entry.id), x.field.as_str().into());
                    fields.push(FieldInit { pos, name, value, optional: x.optional });
                }
                Kind::Struct { name: s.type_name.as_str().into(), fields }
            }
            theirs::Expr::Comprehension(c) => Kind::Fold(Box::new(Fold {
                range: self.expr(&c.iter_range, d),
                var: c.iter_var.as_str().into(),
                var2: c.iter_var2.as_deref().map(Into::into),
                accu: c.accu_var.as_str().into(),
                init: self.expr(&c.accu_init, d),
                condition: self.expr(&c.loop_cond, d),
                step: self.expr(&c.loop_step, d),
                result: self.expr(&c.result, d),
            })),
        };
        self.node(pos, kind)
    }
}

fn literal(l: &theirs::LiteralValue) -> Literal {
    use theirs::LiteralValue as L;
    match l {
        L::Boolean(b) => Literal::Bool(*b.inner()),
        L::Bytes(b) => Literal::Bytes(b.inner().into()),
        L::Double(d) => Literal::Double(*d.inner()),
        L::Int(i) => Literal::Int(*i.inner()),
        L::Null => Literal::Null,
        L::String(s) => Literal::String(s.inner().into()),
        L::UInt(u) => Literal::Uint(*u.inner()),
    }
}

fn renumber(e: &mut Expr, next: &mut u32) {
    match &mut e.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => renumber(operand, next),
        Kind::Call { target, args, .. } => {
            target.iter_mut().for_each(|t| renumber(t, next));
            args.iter_mut().for_each(|a| renumber(a, next));
        }
        Kind::List(l) => l.iter_mut().for_each(|x| renumber(&mut x.value, next)),
        Kind::Map(m) => m.iter_mut().for_each(|x| {
            renumber(&mut x.key, next);
            renumber(&mut x.value, next);
        }),
        Kind::Struct { fields, .. } => fields.iter_mut().for_each(|x| renumber(&mut x.value, next)),
        Kind::Fold(f) => {
            for x in [&mut f.range, &mut f.init, &mut f.condition, &mut f.step, &mut f.result] {
                renumber(x, next);
            }
        }
    }
    e.id = *next;
    *next += 1;
}
