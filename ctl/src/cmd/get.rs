//! `ctl get`: objects as tables or in another format, once or as they change.

use std::cmp::Ordering;

use anyhow::bail;
use futures::{StreamExt, pin_mut};
use http::Method;
use serde_json::Value;

use super::args::{Files, Select, Target, namespace_of, targets};
use super::history;
use super::moment::Moment;
use crate::api::manifest;
use crate::api::resources::{Catalog, Resource, array, text};
use crate::api::rest::{ApiError, Media, Rest, TABLE, query};
use crate::print::format::{Format, items, without_managed_fields};
use crate::print::jsonpath::JsonPath;
use crate::print::table::{Columns, Table};

#[derive(Debug, clap::Args)]
pub struct Get {
    /// TYPE[,TYPE] [NAME…], or TYPE/NAME…
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// Output format: wide, name, json, yaml, jsonpath=…, custom-columns=…
    #[arg(short, long)]
    output: Option<String>,
    /// After listing the requested objects, watch for changes
    #[arg(short, long)]
    watch: bool,
    /// Watch for changes without listing first
    #[arg(long)]
    watch_only: bool,
    /// Don't print headers
    #[arg(long)]
    no_headers: bool,
    /// Print all labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// Keep managedFields when printing objects in JSON or YAML
    #[arg(long)]
    show_managed_fields: bool,
    /// Labels that are shown as columns
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Sort the list by this JSONPath expression
    #[arg(long, value_name = "JSONPATH")]
    sort_by: Option<String>,
    /// Treat "resource not found" as a successful retrieval
    #[arg(long)]
    ignore_not_found: bool,
    /// Return large lists in pieces of this size; 0 reads them whole
    #[arg(long, default_value_t = 500)]
    chunk_size: u64,
    /// Show what was there at a revision (a resourceVersion) or time (RFC 3339, or like "5m ago") that the store keeps
    #[arg(long, value_name = "REVISION|TIME", conflicts_with_all = ["watch", "watch_only", "subresource", "raw"])]
    at: Option<Moment>,
    /// Subresource to read
    #[arg(long)]
    subresource: Option<String>,
    /// Raw path to request from the server
    #[arg(long)]
    raw: Option<String>,
}

/// One request's answer.
struct Answer {
    resource: Resource,
    value: Value,
    is_list: bool,
}

impl Get {
    pub async fn run(self, rest: &Rest) -> anyhow::Result<()> {
        if let Some(path) = &self.raw {
            let value = rest.get(path).await?;
            match value {
                Value::String(s) => print!("{s}"),
                other => println!("{other}"),
            }
            return Ok(());
        }
        let format = Format::parse(self.output.as_deref())?;
        let at = match self.at {
            Some(moment) => Some(moment.revision(rest).await?),
            None => None,
        };
        let catalog = Catalog::fetch(rest).await?;
        let targets = self.targets(rest, &catalog)?;
        if self.watch || self.watch_only {
            let [(target, namespace)] = targets.as_slice() else {
                bail!("you may only watch a single resource or type of resource at a time")
            };
            return self.watch(rest, target, namespace.as_deref(), &format).await;
        }
        let several_types =
            targets.iter().any(|(t, _)| t.resource.qualified() != targets[0].0.resource.qualified());
        let mut answers = Vec::new();
        let mut failed = None;
        for (target, namespace) in &targets {
            match self.fetch(rest, target, namespace.as_deref(), at, format.is_table()).await {
                Ok(a) => answers.push(a),
                Err(e) if self.ignore_not_found && ApiError::is_not_found(&e) => {}
                // The others are still shown; the first failure decides how the command ends.
                Err(e) if targets.len() > 1 => {
                    if let Some(previous) = failed.replace(e) {
                        eprintln!("{previous:#}");
                    }
                }
                Err(e) => return Err(e),
            }
        }
        if format.is_table() {
            self.print_tables(rest, answers, &format, several_types);
        } else {
            self.print_objects(&answers, &format, targets.len() > 1)?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn targets(&self, rest: &Rest, catalog: &Catalog) -> anyhow::Result<Vec<(Target, Option<String>)>> {
        if self.files.filename.is_empty() {
            let all = targets(catalog, &self.words)?;
            let scope =
                |r: &Resource| if self.select.all_namespaces { None } else { namespace_of(rest, r, None) };
            if self.select.all_namespaces && all.iter().any(|t| t.name.is_some()) {
                bail!("a resource cannot be retrieved by name across all namespaces");
            }
            return Ok(all.into_iter().map(|t| (t.clone(), scope(&t.resource))).collect());
        }
        let objects = manifest::read(&self.files.filename, self.files.recursive)?;
        objects
            .iter()
            .map(|o| {
                let resource = catalog.of_object(o)?.clone();
                let namespace = namespace_of(rest, &resource, Some(o));
                Ok((Target { resource, name: Some(text(&o["metadata"]["name"])) }, namespace))
            })
            .collect()
    }

    async fn fetch(
        &self,
        rest: &Rest,
        target: &Target,
        namespace: Option<&str>,
        at: Option<u64>,
        table: bool,
    ) -> anyhow::Result<Answer> {
        let mut path = target.resource.path(namespace, target.name.as_deref());
        if let Some(sub) = &self.subresource {
            path.push_str(&format!("/{sub}"));
        }
        let media = Media { accept: table.then_some(TABLE), content_type: None };
        if let (Some(at), Some(name)) = (at, &target.name) {
            let list = history::at(rest, &target.resource, namespace, name, at, media).await?;
            if table {
                return Ok(Answer { resource: target.resource.clone(), value: list, is_list: false });
            }
            let value = items(&list).into_iter().next().unwrap_or_default();
            return Ok(Answer { resource: target.resource.clone(), value, is_list: false });
        }
        if target.name.is_some() {
            let value = rest.call(Method::GET, &path, media, None).await?;
            return Ok(Answer { resource: target.resource.clone(), value, is_list: false });
        }
        let mut whole: Option<Value> = None;
        let mut token = String::new();
        loop {
            let mut q = self.select.query();
            if self.chunk_size > 0 {
                q.push(format!("limit={}", self.chunk_size));
            }
            if table && self.sort_by.is_some() {
                q.push("includeObject=Object".into());
            }
            if !token.is_empty() {
                q.push(format!("continue={}", query(&token)));
            } else if let Some(at) = at {
                q.push(format!("resourceVersion={at}&resourceVersionMatch=Exact"));
            }
            let mut page = rest.call(Method::GET, &format!("{path}?{}", q.join("&")), media, None).await?;
            token = text(&page["metadata"]["continue"]);
            whole = Some(match whole {
                None => page,
                Some(mut sum) => {
                    for key in ["items", "rows"] {
                        if let (Some(all), Some(more)) = (sum[key].as_array_mut(), page[key].as_array_mut()) {
                            all.append(more);
                        }
                    }
                    sum
                }
            });
            if token.is_empty() {
                break;
            }
        }
        let mut value = whole.unwrap_or_default();
        if let Some(by) = &self.sort_by {
            sort(&mut value, &JsonPath::parse(by)?);
        }
        Ok(Answer { resource: target.resource.clone(), value, is_list: true })
    }

    fn columns(&self, format: &Format, prefix: Option<&Resource>) -> Columns {
        Columns {
            wide: matches!(format, Format::Table { wide: true }),
            with_namespace: self.select.all_namespaces && prefix.is_none_or(|r| r.namespaced),
            show_labels: self.show_labels,
            label_columns: self.label_columns.clone(),
            name_prefix: String::new(),
        }
    }

    fn print_tables(&self, rest: &Rest, answers: Vec<Answer>, format: &Format, several_types: bool) {
        let mut tables: Vec<(Resource, Table)> = Vec::new();
        for a in answers {
            let mut columns = self.columns(format, Some(&a.resource));
            if several_types {
                columns.name_prefix = a.resource.display("");
            }
            let table = Table::from_server(&a.value, &columns);
            match tables.last_mut() {
                // Several names of one type share a table.
                Some((r, last)) if *r == a.resource && !a.is_list => last.rows.extend(table.rows),
                _ => tables.push((a.resource, table)),
            }
        }
        tables.retain(|(_, t)| !t.rows.is_empty());
        if tables.is_empty() && !self.ignore_not_found {
            if self.select.all_namespaces || self.words.first().is_some_and(|w| w.is_empty()) {
                eprintln!("No resources found");
            } else {
                eprintln!("No resources found in {} namespace.", rest.namespace);
            }
        }
        let texts: Vec<String> = tables.iter().map(|(_, t)| t.render(!self.no_headers)).collect();
        print!("{}", texts.join("\n"));
    }

    fn print_objects(&self, answers: &[Answer], format: &Format, several: bool) -> anyhow::Result<()> {
        let mut objects = Vec::new();
        let mut as_list = several;
        for a in answers {
            let list = if a.is_list { items(&a.value) } else { vec![a.value.clone()] };
            as_list |= a.is_list;
            for mut o in list {
                if !self.show_managed_fields {
                    without_managed_fields(&mut o);
                }
                objects.push((a.resource.clone(), o));
            }
        }
        if objects.is_empty() && !as_list {
            return Ok(());
        }
        print!("{}", format.print(&objects, as_list)?);
        Ok(())
    }

    async fn watch(
        &self,
        rest: &Rest,
        target: &Target,
        namespace: Option<&str>,
        format: &Format,
    ) -> anyhow::Result<()> {
        let mut select = self.select.clone();
        if let Some(name) = &target.name {
            select.field_selector = Some(format!("metadata.name={name}"));
        }
        let path = target.resource.path(namespace, None);
        let media = Media { accept: format.is_table().then_some(TABLE), content_type: None };
        let list =
            rest.call(Method::GET, &format!("{path}?{}", select.query().join("&")), media, None).await?;
        let columns = self.columns(format, Some(&target.resource));
        let mut printer =
            WatchPrinter { format, columns: &columns, resource: &target.resource, header: !self.no_headers };
        if !self.watch_only {
            printer.show(&list)?;
        }
        let mut q = select.query();
        q.push("watch=true".into());
        q.push(format!("resourceVersion={}", text(&list["metadata"]["resourceVersion"])));
        let lines = rest.lines(&format!("{path}?{}", q.join("&")), media).await?;
        pin_mut!(lines);
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_slice(&line?)?;
            if event["type"] == "ERROR" {
                bail!("{}", text(&event["object"]["message"]));
            }
            printer.show(&event["object"])?;
        }
        Ok(())
    }
}

/// Prints objects one after the other, with the header once.
struct WatchPrinter<'a> {
    format: &'a Format,
    columns: &'a Columns,
    resource: &'a Resource,
    header: bool,
}

impl WatchPrinter<'_> {
    fn show(&mut self, value: &Value) -> anyhow::Result<()> {
        if self.format.is_table() {
            let table = Table::from_server(value, self.columns);
            // Widths stay those of the first rows as far as they go; kubectl aligns each batch by itself, too.
            print!("{}", table.render(std::mem::take(&mut self.header)));
            return Ok(());
        }
        let objects = if value["items"].is_array() { items(value) } else { vec![value.clone()] };
        for mut o in objects {
            without_managed_fields(&mut o);
            print!("{}", self.format.print(&[(self.resource.clone(), o)], false)?);
        }
        Ok(())
    }
}

/// Sorts items, or rows by their objects.
fn sort(list: &mut Value, by: &JsonPath) {
    let compare = |a: &Value, b: &Value| -> Ordering {
        match (by.first(a), by.first(b)) {
            (Some(Value::Number(x)), Some(Value::Number(y))) => {
                x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal)
            }
            (Some(x), Some(y)) => x.to_string().cmp(&y.to_string()),
            (x, y) => x.is_some().cmp(&y.is_some()),
        }
    };
    if let Some(items) = list["items"].as_array_mut() {
        items.sort_by(compare);
    } else if array(&list["rows"]).iter().any(|r| r["object"].is_object())
        && let Some(rows) = list["rows"].as_array_mut()
    {
        rows.sort_by(|a, b| compare(&a["object"], &b["object"]));
    }
}
