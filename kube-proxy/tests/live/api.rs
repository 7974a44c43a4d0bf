//! An API server of three kinds, enough for the proxy: list and watch of what the test puts in.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

#[derive(Default)]
struct Store {
    version: u64,
    /// Plural → name → object.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// (version, plural, event)
    log: Vec<(u64, String, Value)>,
}

/// The server; clones share it.
#[derive(Clone, Default)]
pub struct Api(Arc<(Mutex<Store>, Condvar)>);

impl Api {
    /// Serves on a listener until the process ends.
    pub fn serve(&self, listener: TcpListener) {
        let api = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = api.clone();
                std::thread::spawn(move || api.connection(stream));
            }
        });
    }

    /// Creates or replaces an object.
    pub fn put(&self, plural: &str, mut object: Value) {
        let (lock, changed) = &*self.0;
        let mut s = lock.lock().unwrap();
        s.version += 1;
        let version = s.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let old = s.objects.entry(plural.into()).or_default().insert(name, object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        s.log.push((version, plural.into(), json!({"type": kind, "object": object})));
        changed.notify_all();
    }

    /// Deletes an object.
    pub fn delete(&self, plural: &str, name: &str) {
        let (lock, changed) = &*self.0;
        let mut s = lock.lock().unwrap();
        s.version += 1;
        let version = s.version;
        let mut old = s.objects.get_mut(plural).and_then(|m| m.remove(name)).expect("object to delete");
        old["metadata"]["resourceVersion"] = json!(version.to_string());
        s.log.push((version, plural.into(), json!({"type": "DELETED", "object": old})));
        changed.notify_all();
    }

    fn connection(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut out = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let target = line.split(' ').nth(1).unwrap_or("/").to_owned();
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap_or(0) == 0 || header == "\r\n" {
                    break;
                }
            }
            if self.answer(&target, &mut out).is_err() {
                return;
            }
        }
    }

    fn answer(&self, target: &str, out: &mut TcpStream) -> std::io::Result<()> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let plural = path.rsplit('/').next().unwrap_or("").to_owned();
        let param = |k: &str| {
            query.split('&').filter_map(|p| p.split_once('=')).find(|p| p.0 == k).map(|p| p.1.to_owned())
        };
        if param("sendInitialEvents").is_some() {
            // As a server without WatchList: the client must list first.
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400,
                "reason": "BadRequest", "message": "no sendInitialEvents here"});
            return reply(out, "400 Bad Request", &status);
        }
        if param("watch").is_some() {
            let from = param("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            return self.watch(&plural, from, out);
        }
        let (kind, version) = match plural.as_str() {
            "services" => ("ServiceList", "v1"),
            "nodes" => ("NodeList", "v1"),
            "endpointslices" => ("EndpointSliceList", "discovery.k8s.io/v1"),
            _ => return reply(out, "404 Not Found", &json!({"kind": "Status", "code": 404})),
        };
        let body = {
            let s = self.0.0.lock().unwrap();
            let items: Vec<&Value> = s.objects.get(&plural).into_iter().flat_map(|m| m.values()).collect();
            json!({"kind": kind, "apiVersion": version, "items": items,
                "metadata": {"resourceVersion": s.version.to_string()}})
        };
        reply(out, "200 OK", &body)
    }

    fn watch(&self, plural: &str, mut from: u64, out: &mut TcpStream) -> std::io::Result<()> {
        out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        loop {
            let news: Vec<Value> = {
                let (lock, changed) = &*self.0;
                let mut s = lock.lock().unwrap();
                while s.version <= from {
                    s = changed.wait_timeout(s, Duration::from_secs(60)).unwrap().0;
                }
                let news = s.log.iter().filter(|e| e.0 > from && e.1 == plural).map(|e| e.2.clone());
                let news = news.collect();
                from = s.version;
                news
            };
            for event in news {
                // In the order in which API servers write them.
                let line = format!("{{\"type\":{},\"object\":{}}}\n", event["type"], event["object"]);
                write!(out, "{:x}\r\n{line}\r\n", line.len())?;
            }
        }
    }
}

fn reply(out: &mut TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
